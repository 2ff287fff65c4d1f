/** oomlab in and beside containers of a real dockerd and of podman, with and without root, on cgroup v2. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { root } from "../helpers/cli.ts";
import { canStartDistro, type Distro, type Ended, startDistro } from "../helpers/distro.ts";
import { canBuildImage, guestImage } from "../helpers/image.ts";

const over = `name: over
cgroups: { web: { memory.max: 16Mi, memory.swap.max: 0 } }
processes: { leak: { cgroup: web, stress: { anon: 24Mi } } }
expect: { oom: memcg, limit: web, victims: [leak] }
`;
const holds = `name: holds
cgroups: { web: { memory.max: 16Mi } }
processes: { leak: { cgroup: web, stress: { anon: 8Mi, hold: 120s } } }
expect: { oom: none }
`;

type Engine = "docker" | "podman" | "rootless podman";
const userOf = (engine: Engine): "root" | "ann" => (engine === "rootless podman" ? "ann" : "root");
const programOf = (engine: Engine): string => (engine === "docker" ? "docker" : "podman");
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
const recipe = (name: string): string => readFileSync(join(root, "docs/ci", name), "utf8");

describe("containers on Debian 13", { ...canBuildImage, ...canStartDistro }, () => {
  let guest: Distro;
  beforeAll(async () => {
    const image = await guestImage();
    guest = await startDistro();
    await guest.installOomlab();
    await guest.put("/srv/image.tar", image.archive);
    const changes = image.changes.map((line) => `--change ${quoted(line)}`).join(" ");
    await guest.must("systemctl start docker", { timeoutMs: 180_000 });
    for (const engine of ["docker", "podman", "rootless podman"] as const)
      await guest.must(`${programOf(engine)} import ${changes} /srv/image.tar oomlab`, {
        as: userOf(engine),
        timeoutMs: 180_000,
      });
    await guest.put("/srv/job/scenarios/over.yaml", over);
    await guest.put("/srv/holds/holds.yaml", holds);
    // A job's container has no network: npm installs nothing, npx runs the image's oomlab.
    await guest.put("/srv/bin/npm", "#!/bin/sh\n");
    await guest.put("/srv/bin/npx", '#!/bin/sh\nexec "$@"\n');
    await guest.must("chmod 755 /srv/bin/*");
  }, 600_000);
  afterAll(() => guest?.[Symbol.asyncDispose]());

  const volumes = "--network=none -v /usr:/usr:ro -v /srv:/srv";
  /** Runs oomlab in a container. */
  const inside = (engine: Engine, flags: string, command = "run /srv/job/scenarios/over.yaml"): Promise<Ended> =>
    guest.run(`${programOf(engine)} run --rm ${volumes} ${flags} oomlab ${command}`, {
      as: userOf(engine),
      timeoutMs: 120_000,
    });
  const passed = (kills: number): object => ({
    exitCode: 0,
    stdout: expect.stringMatching(new RegExp(`memcg OOM kill of [^]*${kills} passed`)) as string,
  });
  const skipped = (reason: RegExp): object => ({
    exitCode: 3,
    stdout: expect.stringMatching(new RegExp(`skipped: [^\n]*${reason.source}`)) as string,
  });
  /** cgroups, units, processes and containers that are there but should not. */
  const left = async (): Promise<string[]> => [
    ...(await guest.leftovers()),
    ...(await guest.must("docker ps --all --quiet; podman ps --all --quiet; su - ann -c 'podman ps --all --quiet'"))
      .split("\n")
      .filter((line) => line !== ""),
  ];

  test("the image's own command proves the blog's first case", async () => {
    expect(await inside("docker", "--privileged", "")).toMatchObject(passed(2));
  });

  test.each<[Engine, string]>([
    ["docker", "--privileged --cgroupns=host --init"],
    ["podman", "--privileged"],
    ["podman", "--privileged --cgroupns=host"],
    ["rootless podman", "--privileged"],
  ])("%s run %s: a kill is proven", async (engine, flags) => {
    expect(await inside(engine, flags)).toMatchObject(passed(1));
  });

  test.each<Engine>(["docker", "podman", "rootless podman"])(
    "%s without privilege: the reason names the flag",
    async (engine) => {
      expect(await inside(engine, "")).toMatchObject(skipped(/run it with --privileged/));
    },
  );

  test("an init or a shell beside oomlab in a private cgroup namespace: the reason names the flag", async () => {
    expect(await inside("docker", "--privileged --init")).toMatchObject(skipped(/--cgroupns=host/));
  });

  describe("the recipes for CI, with the lines as they are", () => {
    const job = `${volumes} -w /srv/job -e PATH=/srv/bin:/usr/local/bin:/usr/bin:/usr/sbin`;
    const inJob = (command: string, input = ""): Promise<Ended> => guest.run(command, { input, timeoutMs: 120_000 });

    test("GitLab: a shell as PID 1 reads the script", async () => {
      const { oom } = parse(recipe("gitlab-ci.yml")) as { oom: { script: string[] } };
      const shell = `docker run --rm -i --privileged ${job} --entrypoint sh oomlab -e`;
      expect(await inJob(shell, oom.script.join("\n"))).toMatchObject(passed(1));
    });

    test("Buildkite: a shell below an init", async () => {
      const { steps } = parse(recipe("buildkite.yml")) as { steps: { command: string[] }[] };
      const script = steps[0]?.command.join("\n").replaceAll("$$", "$") ?? "";
      const env = "-e BUILDKITE_PARALLEL_JOB=0 -e BUILDKITE_PARALLEL_JOB_COUNT=1";
      const shell = `docker run --rm -i --init --privileged ${env} ${job} --entrypoint sh oomlab -e -c ${quoted(script)}`;
      expect(await inJob(shell)).toMatchObject(passed(1));
    });

    test("Jenkins: a container that sleeps, and a shell in it for each line", async () => {
      const file = recipe("Jenkinsfile");
      const args = /args '([^']+)'/.exec(file)?.[1] ?? "";
      const lines = [...file.matchAll(/^ +sh '([^']+)'$/gm)].map(([, line = ""]) => line);
      await guest.must(`docker run -d -t --name=job ${args} ${job} --entrypoint cat oomlab`);
      const ends = [];
      for (const line of lines) ends.push(await inJob(`docker exec job sh -c ${quoted(line)}`));
      await guest.must("docker rm --force job");
      expect(ends.at(-1)).toMatchObject(passed(1));
      expect(ends).toHaveLength(2);
    });
  });

  test("after all of these nothing is left", async () => {
    expect(await left()).toEqual([]);
  });

  describe.each<Engine>(["docker", "podman", "rootless podman"])("--machine container with %s", (engine) => {
    const as = userOf(engine);
    const command = (file: string): string =>
      `OOMLAB_CONTAINER_ENGINE=${programOf(engine)} OOMLAB_CONTAINER_OPTIONS=--volume=/usr:/usr:ro ` +
      `oomlab run --machine container ${file}`;
    const untilHolding = (): Promise<string> =>
      guest.must(
        "for i in $(seq 300); do pgrep -f '[s]tress .*[-]-hold' >/dev/null && exit 0; sleep 0.2; done; exit 1",
        {
          timeoutMs: 90_000,
        },
      );

    test("proves a kill and leaves nothing", async () => {
      expect(await guest.run(command("/srv/job/scenarios/over.yaml"), { as, timeoutMs: 120_000 })).toMatchObject(
        passed(1),
      );
      expect(await left()).toEqual([]);
    });

    test("leaves nothing after Ctrl-C and after kill -9", { timeout: 300_000 }, async () => {
      const interrupted = guest.start(command("/srv/holds/holds.yaml"), { as, tty: true, timeoutMs: 150_000 });
      await untilHolding();
      interrupted.stdin?.write("\x03");
      expect(await interrupted).toMatchObject({ exitCode: 130 });
      expect(await left()).toEqual([]);

      const killed = guest.start(command("/srv/holds/holds.yaml"), { as, timeoutMs: 150_000 });
      await untilHolding();
      await guest.must("pkill -9 -f '[o]omlab run --machine'");
      await killed;
      await expect.poll(left, { timeout: 60_000, interval: 2_000 }).toEqual([]);
    });
  });
});
