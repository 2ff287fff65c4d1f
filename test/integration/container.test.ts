import { execFileSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { which } from "../../src/machine/packages.ts";
import { canRun, eventually, leftovers, oomlab, processesWith, root, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

/** Kept between runs: podman's storage with the base image and the build's layers. */
const store = join(tmpdir(), "oomlab-test-containers");
const engine = ["podman", "--root", join(store, "root"), "--runroot", join(store, "run"), "--runtime", "runc"];
/** For a user without CAP_SYS_RESOURCE, who may not raise limits. */
const ulimits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096"];
const base = `localhost/node:${process.versions.node}-bookworm-slim`;
const image = "localhost/oomlab-test";
const env = {
  OOMLAB_CONTAINER_ENGINE: engine.join(" "),
  OOMLAB_CONTAINER_OPTIONS: ulimits.join(" "),
  OOMLAB_IMAGE: image,
};

const canBuild = needs({
  ...canRun,
  ...Object.fromEntries(["podman", "runc", "debootstrap"].map((name) => [name, which(name) !== undefined])),
});

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

async function podman(...args: string[]): Promise<{ stdout: string; stderr: string; exitCode: number | undefined }> {
  const [program = "", ...before] = engine;
  const { stdout, stderr, exitCode } = await execa(program, [...before, ...args], { cwd: root, reject: false });
  return { stdout, stderr, exitCode };
}

/** Runs oomlab in a container of the image. */
const inside = (flags: string[], ...args: string[]): ReturnType<typeof podman> =>
  podman("run", "--rm", "--network=none", ...ulimits, ...flags, image, ...args);

const containers = (): string[] =>
  execFileSync(engine[0] ?? "", [...engine.slice(1), "ps", "--all", "--format", "{{.Names}}"], { encoding: "utf8" })
    .split("\n")
    .filter((name) => name !== "");

/** What stands for the official image on a machine without a registry: Debian with this machine's Node and its settings. */
async function makeBase(): Promise<void> {
  if ((await podman("image", "exists", base)).exitCode === 0) return;
  const work = mkdtempSync(join(store, "base-"));
  try {
    const tree = join(work, "rootfs");
    await execa("debootstrap", ["--variant=minbase", "bookworm", tree]);
    const prefix = dirname(dirname(realpathSync(process.execPath)));
    const npm = realpathSync(which("npm") ?? "");
    const copied = [
      realpathSync(process.execPath),
      join(prefix, "include/node"),
      dirname(dirname(npm)),
      join(prefix, "etc/npmrc"),
      "/root/.npmrc",
      "/etc/ssl/certs/ca-certificates.crt",
      "/etc/apt/sources.list",
      "/etc/apt/sources.list.d/debian.sources",
      "/etc/apt/apt.conf.d",
    ];
    for (const path of copied.filter((path) => existsSync(path)))
      cpSync(path, join(tree, path), { recursive: true, verbatimSymlinks: true });
    await execa("ln", ["-sfr", join(tree, npm), join(tree, prefix, "bin/npm")]);
    await execa("chroot", [tree, "apt-get", "clean"]);
    // A pipe as shells have it: the archive is not kept.
    const [program = "", ...before] = engine;
    const archive = execa("tar", ["-C", tree, "-c", "."], { stdout: "pipe", buffer: false, encoding: "buffer" });
    await archive.pipe(program, [...before, "import", "-", base]);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

describe("the image", canBuild, () => {
  beforeAll(async () => {
    mkdirSync(store, { recursive: true });
    await makeBase();
    const flags = ["--runtime", which("runc") ?? "runc", "--network=host", "--build-arg", `BASE=${base}`];
    const { stderr, exitCode } = await podman("build", ...flags, ...ulimits, "-t", image, ".");
    expect(exitCode, stderr.split("\n").slice(-20).join("\n")).toBe(0);
    await podman("image", "prune", "--force", "--filter", "until=24h");
  }, 900_000);

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

  test.each(["private", "host"])(
    "privileged, its own command is the blog's first case (%s cgroup namespace, a pid namespace of its own)",
    async (namespace) => {
      const flags = ["--privileged", `--cgroupns=${namespace}`];
      const { stdout, exitCode } = await inside(
        flags,
        "run",
        "scenarios/blog/container-over-its-limit.yaml",
        "-g",
        "^a container (over|within) its limit$",
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
    },
  );

  test("without arguments that is what it runs", async () => {
    const { stdout, exitCode } = await inside(["--privileged"]);
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

  test("what is in it runs the blog's first case on cgroup v2, in a VM", async () => {
    const from = join(folder, "image");
    mkdirSync(from);
    const [program = "", ...before] = engine;
    // No engine runs in a guest: the image's own files do.
    const unpack = execa("tar", ["-x", "-C", from], { stdin: "pipe" });
    const packed = execa(
      program,
      [
        ...before,
        "run",
        "--rm",
        "--network=none",
        ...ulimits,
        "--entrypoint",
        "tar",
        image,
        "-c",
        "-C",
        "/opt/oomlab",
        ".",
      ],
      { stdout: "pipe", buffer: false, encoding: "buffer" },
    );
    await packed.pipe(unpack);
    const args = ["run", "--machine", "vm", "--cgroup", "v2", "-g", "^a container (over|within) its limit$"];
    const scenarios = join(from, "scenarios/blog/container-over-its-limit.yaml");
    const { stdout, exitCode } = await execa(
      process.execPath,
      [join(from, "dist/oomlab.cjs"), ...args, "--reporter", "json", scenarios],
      { reject: false },
    );
    expect(scenariosOf(stdout)).toMatchObject([
      { name: "a container over its limit", status: "passed", machine: "vm" },
      { name: "a container within its limit", status: "passed", machine: "vm" },
    ]);
    expect(exitCode).toBe(0);
  });

  test("not privileged it says which flag to add and ends with 3", async () => {
    const { stdout, exitCode } = await inside([]);
    expect(stdout).toMatch(/skipped: .*run it with --privileged/);
    expect(exitCode).toBe(3);
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

    test.each([
      ["SIGINT", 130],
      ["SIGKILL", undefined],
    ] as const)("leaves nothing after %s", async (signal, status) => {
      const run = start(["run", "--machine", "container", held()], { env });
      await eventually(holds, "the worker in the container", 60_000);
      expect(containers()).toHaveLength(1);
      run.kill(signal);
      expect((await run.ended).exitCode).toBe(status);
      await eventually(nothingIsLeft, "the end of the container", 30_000);
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
