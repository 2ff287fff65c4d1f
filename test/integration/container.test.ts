import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canRun, eventually, leftovers, oomlab, processesWith } from "../helpers/cli.ts";
import { base, buildImage, engine, image, imageNeeds, podman, ulimits } from "../helpers/image.ts";
import { needs } from "../helpers/needs.ts";

const env = {
  OOMLAB_CONTAINER_ENGINE: engine.join(" "),
  OOMLAB_CONTAINER_OPTIONS: ulimits.join(" "),
  OOMLAB_IMAGE: image,
};

const canBuild = needs({ ...canRun, ...imageNeeds });

const folder = mkdtempSync(join(tmpdir(), "oomlab-test-container-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function scenario(name: string, yaml: string): string {
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, yaml);
  return path;
}

interface Told {
  name: string;
  status: string;
  reason: string | null;
  machine: string;
  kernel: string | null;
  observed: { kills: { process: string | null; oomMemcg: string; witnesses: string[] }[]; foreignKills: unknown[] };
}

const scenariosOf = (stdout: string): Told[] => (JSON.parse(stdout) as { scenarios: Told[] }).scenarios;

/** Runs oomlab in a container of the image. */
const inside = (flags: string[], ...args: string[]): ReturnType<typeof podman> =>
  podman("run", "--rm", "--network=none", ...ulimits, ...flags, image, ...args);

const containers = (): string[] =>
  execFileSync(engine[0] ?? "", [...engine.slice(1), "ps", "--all", "--format", "{{.Names}}"], { encoding: "utf8" })
    .split("\n")
    .filter((name) => name !== "");

describe("the image", canBuild, () => {
  beforeAll(buildImage, 900_000);

  test("weighs less than 60 MB on top of its base, says what it is, and has no compiler", async () => {
    const size = async (name: string): Promise<number> =>
      Number((await podman("image", "inspect", "--format", "{{.Size}}", name)).stdout);
    expect((await size(image)) - (await size(base))).toBeLessThan(60e6);
    const { stdout } = await podman("image", "inspect", "--format", "{{json .Labels}}", image);
    expect(JSON.parse(stdout)).toMatchObject({
      "org.opencontainers.image.title": "oomlab",
      "org.opencontainers.image.licenses": "MIT",
    });
    const { stdout: tools } = await inside(
      ["--entrypoint", "sh"],
      "-c",
      "command -v g++ make python3; ls /opt/oomlab /opt/oomlab/dist",
    );
    expect(tools).toMatch(/oomlab\.cjs/);
    expect(tools).not.toMatch(/g\+\+|make|python|node_modules/);
  });

  test("privileged, in namespaces of its own, it proves the blog's first case", async () => {
    const cases = ["scenarios/blog/container-over-its-limit.yaml", "-g", "^a container (over|within) its limit$"];
    const { stdout, exitCode } = await inside(
      ["--privileged"],
      "run",
      ...cases,
      "--reporter",
      "json",
      "--retries",
      "2",
    );
    const told = scenariosOf(stdout);
    expect(told.map(({ name, status }) => `${name}: ${status}`)).toEqual([
      "a container over its limit: passed",
      "a container within its limit: passed",
    ]);
    expect(told[0]?.observed.kills).toMatchObject([
      { process: "stress", oomMemcg: expect.stringMatching(/\/libpod-.*\/oomlab-[0-9a-z]{8}\/container$/) },
    ]);
    // The numbers of the kernel's log are not the container's: the victim's end is a witness all the same.
    expect(told[0]?.observed.kills[0]?.witnesses).toEqual(expect.arrayContaining(["kmsg", "counters", "exit"]));
    expect(exitCode).toBe(0);
  });

  test("without arguments that is what it runs, in the host's cgroup namespace too", async () => {
    const { stdout, exitCode } = await inside(["--privileged", "--cgroupns=host"]);
    expect(stdout).toMatch(/a container over its limit[^]*✓ oom: memcg[^]*2 passed/);
    expect(exitCode).toBe(0);
  });

  test("of two processes in one cgroup it tells which was killed", async () => {
    scenario(
      "two",
      `name: two in one cgroup
cgroups: { box: { memory.max: 64Mi, memory.swap.max: 0 } }
processes:
  small: { cgroup: box, stress: { anon: 8Mi, hold: forever } }
  big: { cgroup: box, stress: { anon: 128Mi, delay: 300ms } }
expect: { oom: memcg, limit: box, victims: [big], survivors: [small], exit: { big: SIGKILL } }
`,
    );
    const { stdout, exitCode } = await inside(
      ["--privileged", "-v", `${folder}:/work:ro`, "-w", "/work"],
      "run",
      "two.yaml",
      "--reporter",
      "json",
      "--retries",
      "2",
    );
    expect(scenariosOf(stdout)).toMatchObject([{ status: "passed", observed: { kills: [{ process: "big" }] } }]);
    expect(exitCode).toBe(0);
  });

  describe("--machine container", () => {
    const held = (): string =>
      scenario(
        "held",
        `name: held
cgroups: { box: { memory.max: 64Mi } }
processes: { holder: { cgroup: box, stress: { anon: 12345344, hold: 90s } } }
expect: { oom: none }
`,
      );
    const holds = (): boolean => processesWith("12345344").length > 0;
    const nothingIsLeft = (): boolean => containers().length === 0 && leftovers().length === 0 && !holds();

    test("runs scenarios in one, with the folder beside them, and leaves nothing", async () => {
      writeFileSync(join(folder, "data"), "read in the container\n");
      const path = scenario(
        "case",
        `name: over
cgroups: { box: { memory.max: 32Mi, memory.swap.max: 0 } }
processes: { hog: { cgroup: box, stress: { anon: 64Mi } } }
expect: { oom: memcg, limit: box, victims: [hog] }
---
name: reads
cgroups: { box: { memory.max: 64Mi } }
processes:
  reader: { cgroup: box, command: [sh, -c, "grep -q read data && test -e /opt/oomlab && ! touch data"] }
expect: { oom: none, exit: { reader: 0 } }
`,
      );
      const records = join(folder, "records");
      const { stdout, stderr, exitCode } = await oomlab(
        ["run", "--machine", "container", path, "--reporter", "json", "--retries", "2", "--output", records],
        { env },
      );
      expect(stderr).toBe("");
      const told = scenariosOf(stdout);
      expect(told).toMatchObject([
        { name: "over", status: "passed", machine: "container", kernel: expect.stringMatching(/^\d+\.\d+/) },
        { name: "reads", status: "passed", machine: "container" },
      ]);
      expect(told[0]?.observed.kills).toMatchObject([
        { process: "hog", witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]) },
      ]);
      expect(exitCode).toBe(0);
      expect(nothingIsLeft()).toBe(true);
      // An old record is judged again without a container.
      const again = await oomlab(["report", "--reporter", "json", join(records, "001-over-v1.ndjson")]);
      expect(scenariosOf(again.stdout)).toMatchObject([{ status: "passed", machine: "container" }]);
    });

    test("runs nothing there that could drain the machine", async () => {
      const path = "scenarios/blog/node-out-of-memory.yaml";
      const { stdout, exitCode } = await oomlab(["run", "--machine", "container", path, "--reporter", "json"], { env });
      expect(scenariosOf(stdout).map(({ status, reason }) => `${status}: ${reason}`)).toEqual(
        expect.arrayContaining([expect.stringMatching(/^skipped: it needs a VM of its own/)]),
      );
      expect(exitCode).toBe(3);
    });

    test("clean removes a container whose oomlab is gone, and no other", async () => {
      const boot = readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
      const namespace = /\d+/.exec(readlinkSync("/proc/self/ns/pid"))?.[0];
      const began = readFileSync("/proc/self/stat", "latin1").split(") ")[1]?.split(" ")[19];
      const sleeping = async (name: string, owner: string): Promise<void> => {
        const label = `org.oomlab.owner=${boot}.${namespace}.${owner}`;
        const flags = [
          "--detach",
          "--rm",
          "--name",
          name,
          "--label",
          label,
          "--entrypoint",
          "sleep",
          "--stop-timeout=0",
        ];
        const { exitCode, stderr } = await inside(flags, "300");
        expect(exitCode, stderr).toBe(0);
      };
      try {
        await sleeping("oomlab-dead", `${process.pid}.1`);
        await sleeping("oomlab-alive", `${process.pid}.${began}`);
        const { stdout, exitCode } = await oomlab(["clean"], { env });
        expect(stdout).toMatch(/^removed container oomlab-dead$/m);
        expect(stdout).toMatch(/^left container oomlab-alive: its oomlab is still running$/m);
        expect(exitCode).toBe(0);
        expect(containers()).toEqual(["oomlab-alive"]);
      } finally {
        await podman("rm", "--force", "--ignore", "oomlab-alive", "oomlab-dead");
        expect(containers()).toEqual([]);
      }
    }, 120_000);

    test("says what is missing where the image is, or holds another program", async () => {
      const path = held();
      const missing = await oomlab(["run", "--machine", "container", path], {
        env: { ...env, OOMLAB_IMAGE: "oomlab-nowhere" },
      });
      expect(missing.stdout).toMatch(
        /skipped: podman has no image oomlab-nowhere: type: podman .* pull oomlab-nowhere/,
      );
      expect(missing.exitCode).toBe(3);
      const other = await oomlab(["run", "--machine", "container", path], { env: { ...env, OOMLAB_IMAGE: base } });
      expect(other.stdout).toMatch(/skipped: the container did not start: /);
      expect(other.exitCode).toBe(3);
      await eventually(nothingIsLeft, "the end of the container", 30_000);
    });

    test("doctor tells", async () => {
      const { stdout } = await oomlab(["doctor"], { env });
      expect(stdout).toMatch(/^✓ machine container: podman .* answers and has the image localhost\/oomlab-test$/m);
    });
  });
});

test("without an engine --machine container is skipped with what to type, and --dry-run asks none", async () => {
  const path = scenario(
    "plain",
    `name: plain
cgroups: { box: { memory.max: 64Mi } }
processes: { one: { cgroup: box, stress: { anon: 8Mi } } }
expect: { oom: none }
`,
  );
  const without = { env: { OOMLAB_CONTAINER_ENGINE: "no-such-engine" } };
  const { stdout, exitCode } = await oomlab(["run", "--machine", "container", path], without);
  expect(stdout).toMatch(/skipped: no container engine answers \(no-such-engine: not installed\): .*install podman/);
  expect(exitCode).toBe(3);
  const dry = await oomlab(["run", "--machine", "container", path, "--dry-run", "--reporter", "json"], without);
  expect(JSON.parse(dry.stdout)).toMatchObject({ scenarios: [{ name: "plain", machine: "container" }] });
  expect(dry.exitCode).toBe(0);
});
