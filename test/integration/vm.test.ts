import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missingPrograms, which } from "../../src/machine/packages.ts";
import { eventually, oomlab, processesWith, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const canBoot = needs({
  "x86-64 Linux": process.platform === "linux" && process.arch === "x64",
  "apt-get, for the guest's kernel": which("apt-get") !== undefined,
  "QEMU and erofs-utils, or root to install them": missingPrograms().length === 0 || process.getuid?.() === 0,
});

interface Told {
  name: string;
  status: string;
  reason: string | null;
  machine: string;
  kernel: string | null;
  cgroupVersion: number;
  checks: { name: string; actual: unknown; status: string }[];
  observed: { oom: string; kills: Record<string, unknown>[] };
}

const folder = mkdtempSync(join(tmpdir(), "oomlab-test-vm-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function scenario(name: string, yaml: string): string {
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, yaml);
  return path;
}

async function run(args: string[]): Promise<{ told: Map<string, Told>; exitCode: number | undefined; stderr: string }> {
  const { stdout, stderr, exitCode } = await oomlab(["run", "--reporter", "json", ...args]);
  const { scenarios } = JSON.parse(stdout) as { scenarios: Told[] };
  return { told: new Map(scenarios.map((one) => [one.name, one])), exitCode, stderr };
}

describe("scenarios in a VM", canBoot, () => {
  const names = [
    "a node out of memory",
    "a node with memory left, control",
    "a container over its limit swaps on a node with swap",
    "oom group of the parent",
    "cpuset",
    "sysrq",
    "panic on oom",
    "more than the node has",
    "more than the node has, control",
  ];
  let told: Map<string, Told>;
  let exitCode: number | undefined;

  beforeAll(async () => {
    ({ told, exitCode } = await run(["scenarios/blog", "scenarios/vm", "-g", `^(${names.join("|")})$`, "-j", "2"]));
  }, 600_000);

  test("all come out as stated", () => {
    expect([...told.values()].map(({ name, status, reason }) => ({ name, status, reason }))).toEqual(
      expect.arrayContaining(names.map((name) => ({ name, status: "passed", reason: null }))),
    );
    expect(exitCode).toBe(0);
  });

  test("the kernel's global OOM killer, seen by three witnesses in the guest's root cgroup", () => {
    const one = told.get("a node out of memory");
    expect(one).toMatchObject({ machine: "vm", cgroupVersion: 2, kernel: expect.stringMatching(/^\d+\.\d+/) });
    expect(one?.observed.oom).toBe("global");
    expect(one?.observed.kills).toEqual([
      expect.objectContaining({
        constraint: "CONSTRAINT_NONE",
        trigger: "allocation",
        oomMemcg: null,
        taskMemcg: expect.stringMatching(/^\/oomlab-[0-9a-z]{8}\/unlimited$/),
        process: "stress",
        witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]),
      }),
    ]);
  });

  test("sysrq's kill is told from the allocator's", () => {
    expect(told.get("sysrq")?.observed.kills).toMatchObject([{ trigger: "sysrq", process: "chosen" }]);
  });

  test("a panic is read from the console", () => {
    const one = told.get("panic on oom");
    expect(one?.checks.find(({ name }) => name === "panic")).toMatchObject({
      status: "passed",
      actual: expect.stringMatching(/^Out of memory: system-wide panic_on_oom is enabled/),
    });
    expect(one?.observed.kills).toEqual([]);
  });
});

describe("the agent in a VM", canBoot, () => {
  test("is the last to lack memory: what it read is its own and protected, and it may take of the last pages", async () => {
    const path = scenario(
      "agent",
      `machine: { memory: 512Mi, cgroup: 2 }
processes:
  look:
    command: |
      cd /sys/fs/cgroup/agent
      agent=$(head -n 1 cgroup.procs)
      tr -d '\\000' < /proc/$agent/cmdline | grep -o agent | head -n 1
      echo min $(cat memory.min)
      grep -E '^(anon|file) ' memory.stat
      echo policy $(cut -d ' ' -f 41 /proc/$agent/stat)
      echo oom_score_adj $(cat /proc/$agent/oom_score_adj)
      echo own $(cut -d ' ' -f 41 /proc/$$/stat)
expect: { oom: none, exit: { look: 0 } }
`,
    );
    const { stdout, exitCode } = await oomlab(["run", path, "--machine", "vm", "--reporter", "ndjson"]);
    expect(exitCode).toBe(0);
    const events = stdout.split("\n").map((line) => JSON.parse(line) as { type: string; text?: string });
    const text = events.flatMap((event) => (event.type === "output" ? (event.text ?? "") : [])).join("");
    const numbers = Object.fromEntries(
      [...text.matchAll(/^(\w+) (-?\d+)$/gm)].map(([, key, value]) => [key, Number(value)]),
    );
    expect(text).toMatch(/^agent$/m);
    expect(numbers).toMatchObject({ min: 128 * 1024 ** 2, oom_score_adj: -1000, policy: 2, own: 0 });
    // Node's own program, read before the agent could say anything.
    expect(numbers["file"]).toBeGreaterThan(32 * 1024 ** 2);
    expect(numbers["anon"]).toBeGreaterThan(4 * 1024 ** 2);
  });
});

describe("how a VM ends", canBoot, () => {
  const long = (): string =>
    scenario(
      "long",
      "name: long\nmachine: { memory: 256Mi, swap: 64Mi }\ntimeout: 2s\nprocesses: { a: { stress: { anon: 10Mi, hold: 60s } } }\n",
    );

  test("a panic that nobody stated fails", { timeout: 120_000 }, async () => {
    const path = scenario(
      "crash",
      "name: crash\nmachine: { memory: 256Mi }\nprocesses: { a: { stress: { anon: 10Mi, hold: forever } } }\nsteps: [{ sysrq: c }]\nexpect: { oom: none }\n",
    );
    const { told, exitCode } = await run([path]);
    expect(told.get("crash")).toMatchObject({
      status: "failed",
      reason: "panic: expected false, got sysrq triggered crash",
    });
    expect(exitCode).toBe(1);
  });

  test("QEMU ends with an oomlab that is killed", { timeout: 60_000 }, async () => {
    const before = new Set(processesWith("qemu-system"));
    const fresh = (): number[] => processesWith("qemu-system-x86_64\0-nodefaults").filter((pid) => !before.has(pid));
    const killed = start(["run", long()]);
    await eventually(() => fresh().length > 0, "QEMU's start", 30_000);
    killed.kill("SIGKILL");
    await killed.ended;
    await eventually(() => fresh().length === 0, "QEMU's end");
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith("oomlab-vm-"))).toEqual([]);
  });

  test("an interrupted boot ends at once", { timeout: 60_000 }, async () => {
    const before = new Set(processesWith("qemu-system"));
    const fresh = (): number[] => processesWith("qemu-system-x86_64\0-nodefaults").filter((pid) => !before.has(pid));
    const interrupted = start(["run", long()]);
    await eventually(() => fresh().length > 0, "QEMU's start", 30_000);
    interrupted.kill("SIGINT");
    expect(await interrupted.ended).toMatchObject({ exitCode: 130 });
    expect(fresh()).toEqual([]);
  });

  test(
    "an engine that is stopped in the middle of its run ends in a verdict, its guest is killed",
    { timeout: 180_000 },
    async () => {
      const path = scenario(
        "hang",
        "name: hang\nmachine: { memory: 256Mi }\ntimeout: 1s\nprocesses: { stops: { command: 'kill -STOP $PPID' } }\n",
      );
      const { told, exitCode } = await run([path]);
      expect(told.get("hang")).toMatchObject({
        status: "errored",
        reason: expect.stringMatching(
          /^the VM hangs: the run in it was to end within 1 s \(its console(?:'s last lines: | is empty\))/,
        ),
      });
      expect(exitCode).toBe(3);
    },
  );

  test("the guest's own timeout is the scenario's", { timeout: 120_000 }, async () => {
    const { told } = await run([long()]);
    expect(told.get("long")).toMatchObject({ machine: "vm", status: "passed" });
  });
});

describe("what cannot boot", canBoot, () => {
  test("no bzImage: skipped, with the reason, before anything boots", async () => {
    const path = join(folder, "vmlinuz");
    writeFileSync(path, "no kernel");
    const { told, exitCode } = await run(["scenarios/blog", "-g", "^a node out of memory$", "--kernel", path]);
    expect(told.get("a node out of memory")).toMatchObject({
      status: "skipped",
      reason: `${path} is no x86 bzImage: name a vmlinuz or bzImage, not a vmlinux`,
    });
    expect(exitCode).toBe(3);
  });

  test("a bzImage that is cut short is told before anything boots", async () => {
    const path = join(folder, "cut");
    const image = Buffer.alloc(4096);
    image.write("HdrS", 0x202, "latin1");
    image.writeUInt16LE(0x400, 0x20e);
    image.write("6.1.0-cut", 0x600, "latin1");
    image.writeUInt32LE(1_000_000, 0x24c);
    writeFileSync(path, image);
    const { told } = await run(["scenarios/blog", "-g", "^a node out of memory$", "--kernel", path]);
    expect(told.get("a node out of memory")?.reason).toBe(
      `the kernel ${path} is cut short: it is smaller than it states`,
    );
  });

  test("a pipe is no kernel, and is not waited for", async () => {
    const path = join(folder, "pipe");
    execFileSync("mkfifo", [path]);
    const { told } = await run(["scenarios/blog", "-g", "^a node out of memory$", "--kernel", path]);
    expect(told.get("a node out of memory")?.reason).toBe(`the kernel ${path} is no regular file: expected a bzImage`);
  });

  test.each([
    ["cpus: 4096", "a VM has at most 288 CPUs, and it states 4096"],
    [
      `numa: [${Array.from({ length: 130 }, () => "8Mi").join(", ")}]`,
      "a VM has at most 128 NUMA nodes, and it states 130",
    ],
    ["swap: 1", "the VM's swap of 1 is too little: expected 40Ki or more"],
    [
      "mountOptions: [memory_recursiveprot], cgroup: v1",
      "its mountOptions are of cgroup2's mount, and it runs on cgroup v1",
    ],
  ])("a machine that cannot be made is told by its plan: %s", async (machine, reason) => {
    const path = scenario("shape", `machine: { ${machine} }\nprocesses: { p: { stress: { anon: 8Mi } } }\n`);
    const { stdout } = await oomlab(["run", "--dry-run", "--reporter", "json", "--machine", "vm", path]);
    expect(JSON.parse(stdout).scenarios[0]).toMatchObject({ machine: "vm", skip: reason });
  });

  test("no room for its swap is told before anything boots", async () => {
    const path = scenario("swap", "machine: { swap: 1Pi }\nprocesses: { p: { stress: { anon: 8Mi } } }\n");
    const { told } = await run([path, "--machine", "vm"]);
    expect(told.get("swap")).toMatchObject({
      status: "skipped",
      reason: expect.stringMatching(
        /the VM's disks \(swap, files\) take 1Pi in .*Mi are free: name another folder in TMPDIR$/,
      ),
    });
  });

  test("--dry-run prepares nothing", async () => {
    const cache = join(folder, "cache");
    const { stdout } = await oomlab(
      ["run", "--dry-run", "--reporter", "json", "scenarios/blog/node-out-of-memory.yaml"],
      {
        env: { XDG_CACHE_HOME: cache },
      },
    );
    expect(JSON.parse(stdout).scenarios[0]).toMatchObject({ machine: "vm", skip: null });
    expect(existsSync(cache)).toBe(false);
  });
});
