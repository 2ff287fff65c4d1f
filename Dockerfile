# oomlab as an image: the command line, its native part and the scenarios; no compiler, no npm packages.
#
#   docker build -t oomlab .
#   docker run --rm --privileged --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup -v /dev/kmsg:/dev/kmsg oomlab run
#
# BASE is any Debian image with Node >= 20.19.
ARG BASE=docker.io/library/node:22-bookworm-slim

FROM ${BASE} AS build
WORKDIR /opt/oomlab
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ make python3 musl-tools \
 && rm -rf /var/lib/apt/lists/*
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY scripts ./scripts
COPY native ./native
RUN npm run build:native
COPY src ./src
RUN npm run build

FROM ${BASE}
LABEL org.opencontainers.image.title="oomlab" \
      org.opencontainers.image.description="An OOM lab for Linux: make the memory limit, apply the pressure, prove which OOM kill followed." \
      org.opencontainers.image.licenses="MIT"
WORKDIR /opt/oomlab
COPY package.json LICENSE ./
COPY --from=build /opt/oomlab/dist ./dist
COPY --from=build /opt/oomlab/native/build/Release/oomlab.node /opt/oomlab/native/build/Release/stress ./native/build/Release/
COPY scenarios ./scenarios
RUN ln -s /opt/oomlab/dist/oomlab.cjs /usr/local/bin/oomlab
ENTRYPOINT ["oomlab"]
CMD ["--help"]
