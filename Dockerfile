# oomlab as an image: the command line, its native part and the scenarios; no compiler, no npm packages.
#
#   docker build -t oomlab .
#   docker run --rm --privileged oomlab                                # the blog's first case
#   docker run --rm --privileged -v "$PWD:/work" -w /work oomlab run   # scenarios of one's own
#
# BASE is any Debian image with Node >= 20.19. Dockerfile.full adds the VM machine: QEMU and a kernel.
ARG BASE=node:22-bookworm-slim

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
# The programs with their compiled code; not the library.
COPY --from=build /opt/oomlab/dist/*.cjs /opt/oomlab/dist/*.cache ./dist/
COPY --from=build /opt/oomlab/native/build/Release/oomlab.node /opt/oomlab/native/build/Release/stress /opt/oomlab/native/build/Release/init ./native/build/Release/
COPY scenarios ./scenarios
RUN ln -s /opt/oomlab/dist/oomlab.cjs /usr/local/bin/oomlab
# A container fetches and installs nothing for a VM; what it has is in the image.
ENV OOMLAB_OFFLINE=1
ENTRYPOINT ["oomlab"]
CMD ["run", "scenarios/blog/container-over-its-limit.yaml", "-g", "^a container (over|within) its limit$"]
