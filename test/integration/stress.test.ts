import { spawnSync } from "node:child_process";
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, onTestFinished, test } from "vitest";
import { loadAddon, stressPath } from "../../src/native.ts";
import {
  beyondMemory,
  type Charge,
  heuristics,
  isAlive,
  isRoot,
  memoryHome,
  MemoryCgroup,
  readAll,
  run,
  sanitized,
  status,
  until,
  Worker,
} from "../helpers/native.ts";
import { needs } from "../helpers/needs.ts";

const Mi = 1 << 20;
const memory = needs({ root: isRoot, "a memory controller": memoryHome !== undefined });
const root = needs("root", isRoot);
const plain = needs("a build without sanitizers", !sanitized);
const tool = "/usr/bin/stress";

/** What the stress tool and ours print must be the same but for these. */
const withoutNumbers = (text: string): string =>
  text
    .replaceAll(/\[\d+\] (\(\d+\) )?/g, "[pid] ")
    .replaceAll(/(worker \d+ \[|<-- worker )\d+/g, "$1pid")
    .replaceAll(/completed in \d+s/g, "completed");

/** The tool keeps each process's lines until it ends: their order is chance. */
const linesOf = (text: string): string[] => withoutNumbers(text).split("\n").toSorted();

const words = (line: string): string[] => line.split(" ").map((word) => (word === "''" ? "" : word));

function stress(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(stressPath(), args, { encoding: "utf8", timeout: 20_000 });
}

describe("what a kind of memory is charged as", () => {
  /** Where the memory must show up. */
  const charged: [string, string, Charge][] = [
    ["anon", "anonymous memory", "anon"],
    ["brk", "anonymous memory", "anon"],
    ["stack", "anonymous memory", "anon"],
    ["mlock", "memory that cannot be evicted", "unevictable"],
    ["shared", "shared memory", "shmem"],
    ["shmem", "shared memory", "shmem"],
    ["shm", "shared memory", "shmem"],
    ["tmpfs", "shared memory", "shmem"],
    ["file", "page cache", "file"],
    ["file-write", "page cache", "file"],
    ["pipes", "kernel memory", "kernel"],
    ["sockets", "kernel memory", "kernel"],
    ["kernel-stacks", "kernel memory", "kernel"],
    ["tcp", "TCP memory", "tcp"],
  ];

  // Two thousand threads of a sanitizer are more than the limit.
  const kinds = charged.filter(([kind]) => !sanitized || kind !== "kernel-stacks");

  test.for(kinds)("--%s is %s", memory, async ([kind, , what]) => {
    await using cgroup = new MemoryCgroup(256 * Mi);
    await using worker = new Worker([`--${kind}`, "30Mi", "--hold", "forever"], { cgroupProcs: [cgroup.procs] });
    const touched = await worker.event("touched");
    expect(touched?.touched).toBe(30 * Mi);
    expect(cgroup.charged(what) / Mi).toBeGreaterThan(29);
    expect(cgroup.charged(what) / Mi).toBeLessThan(kind === "kernel-stacks" ? 60 : 40);
    expect(await worker.finish()).toMatchObject({ code: 0 });
  });

  test("--hugetlb is none of the memory controller's, and ENOMEM where the pool is empty", root, async () => {
    const pool = "/proc/sys/vm/nr_hugepages";
    const before = readFileSync(pool, "utf8").trim();
    onTestFinished(() => writeFileSync(pool, before));
    writeFileSync(pool, String(Number(before) + 8));
    await using worker = new Worker(["--hugetlb", "15Mi", "--hold", "forever"]);
    await worker.event("touched");
    expect(status(worker.pid, "HugetlbPages")).toBe(`${16 << 10} kB`);
    await using late = new Worker(["--hugetlb", `${Number(before) + 1}Gi`]);
    expect(await late.exit).toMatchObject({ code: 1 });
    expect(late.events.at(-1)).toMatchObject({ op: "mmap", kind: "hugetlb", errno: "ENOMEM", touched: 0 });
    expect(await worker.finish()).toMatchObject({ code: 0 });
  });

  test("several kinds are pressed in the order given", async () => {
    await using worker = new Worker(["--tmpfs", "1Mi", "--anon", "2Mi", "--shm", "3Mi"]);
    expect(await worker.finish()).toMatchObject({ code: 0 });
    const progress = worker.events.filter((event) => event.type === "progress");
    expect(progress.map(({ kind, touched }) => [kind, touched])).toEqual([
      ["tmpfs", Mi],
      ["anon", 3 * Mi],
      ["shm", 6 * Mi],
    ]);
  });
});

describe("an OOM kill", () => {
  test.for([
    "--anon 64Mi",
    "--anon 64Mi --populate --threads 2",
    "--anon 64Mi --huge-pages on",
    "--anon 64Mi --touch every --content random",
    "--mlock 64Mi",
    "--pipes 64Mi",
    "--shm 64Mi",
    "-m 1 --vm-bytes 64M",
  ])("ends %s", memory, async (line) => {
    const args = words(line);
    await using cgroup = new MemoryCgroup(32 * Mi);
    const { exit, stderr } = await run(stressPath(), args, { cgroupProcs: [cgroup.procs], pdeathsig: 9 });
    expect(cgroup.oomKills).toBe(1);
    // The tool's dispatcher outlives its hogs.
    const [code, signal] = args[0] === "-m" ? [1, null] : [null, 9];
    expect(exit).toMatchObject({ code, signal });
    expect(stderr).toMatch(args[0] === "-m" ? /^stress: FAIL: \[\d+\] \(\d+\) <-- worker \d+ got signal 9\n/ : /^$/);
  });

  test("is none where the page cache can be reclaimed", memory, async () => {
    await using cgroup = new MemoryCgroup(32 * Mi);
    await using worker = new Worker(["--file", "64Mi"], { cgroupProcs: [cgroup.procs] });
    expect(await worker.finish()).toMatchObject({ code: 0 });
    expect(cgroup.oomKills).toBe(0);
    expect(cgroup.hits).toBeGreaterThan(0);
  });

  test("names the worker `stress`, with its size", { ...memory, retry: 2 }, async () => {
    const kmsg = openSync("/dev/kmsg", constants.O_RDONLY | constants.O_NONBLOCK);
    onTestFinished(() => closeSync(kmsg));
    const drain = (): string[] => {
      const { records } = loadAddon().readKmsg(kmsg, 100_000);
      return records.length === 0 ? [] : [...records, ...drain()];
    };
    drain();
    await using cgroup = new MemoryCgroup(32 * Mi);
    await using worker = new Worker(["--anon", "64Mi"], { cgroupProcs: [cgroup.procs] });
    await worker.exit;
    const line = drain().find((record) => record.includes(`Killed process ${worker.pid} (stress) total-vm:`));
    const totalVm = Number(/total-vm:(\d+)kB/.exec(line ?? "")?.[1]) - 64 * 1024;
    expect(totalVm).toBeGreaterThan(0);
    expect(totalVm).toBeLessThanOrEqual(sanitized ? Number.POSITIVE_INFINITY : 780);
  });

  test("of the last thread shows its name, when the main thread has ended", { ...memory, retry: 2 }, async () => {
    const kmsg = openSync("/dev/kmsg", constants.O_RDONLY | constants.O_NONBLOCK);
    onTestFinished(() => closeSync(kmsg));
    while (loadAddon().readKmsg(kmsg, 1000).records.length > 0);
    await using cgroup = new MemoryCgroup(32 * Mi);
    await using worker = new Worker(["--anon", "64Mi", "--exit-main-thread"], { cgroupProcs: [cgroup.procs] });
    expect(await worker.exit).toMatchObject({ signal: 9 });
    const { records } = loadAddon().readKmsg(kmsg, 100_000);
    expect(records.some((record) => /Killed process \d+ \(allocthread\)/.test(record))).toBe(true);
  });

  test("takes the processes that share the memory with it, and counts once", memory, async () => {
    await using cgroup = new MemoryCgroup(32 * Mi);
    await using worker = new Worker(["--anon", "64Mi", "--share-vm", "2", "--delay", "100ms"], {
      cgroupProcs: [cgroup.procs],
    });
    let most = 0;
    await until(() => {
      most = Math.max(most, cgroup.read("cgroup.procs").split("\n").length);
      return most === 3;
    });
    expect(await worker.exit).toMatchObject({ signal: 9 });
    await until(() => cgroup.read("cgroup.procs") === "");
    expect(cgroup.oomKills).toBe(1);
  });

  test("of a worker is told by its leader, which goes on", memory, async () => {
    await using cgroup = new MemoryCgroup(80 * Mi);
    await using worker = new Worker(["--anon", "50Mi", "--workers", "2", "--hold", "forever"], {
      cgroupProcs: [cgroup.procs],
    });
    const end = await worker.event("child-end");
    expect(end).toMatchObject({ pid: worker.pid, code: null, signal: "SIGKILL" });
    expect(await worker.finish()).toMatchObject({ code: 1 });
    const starts = worker.events.filter(({ type }) => type === "start");
    expect(new Set(starts.map(({ worker }) => worker))).toEqual(new Set([0, 1]));
    expect(worker.events.filter(({ type }) => type === "child-end").map(({ code }) => code)).toEqual([null, 0]);
    expect(cgroup.oomKills).toBe(1);
  });
});

describe("reports", () => {
  test("tell start, progress, all touched and end", async () => {
    await using worker = new Worker(["--anon", "20Mi"]);
    expect(await worker.finish()).toMatchObject({ code: 0 });
    expect(worker.events.map(({ type }) => type).filter((type) => type !== "progress")).toEqual([
      "start",
      "touched",
      "end",
    ]);
    const [start] = worker.events;
    expect(start).toEqual({ type: "start", pid: worker.pid, worker: 0, bytes: 20 * Mi, t: expect.any(Number) });
    const [touched, end] = worker.events.slice(-2);
    expect(touched).toMatchObject({ pid: worker.pid, touched: 20 * Mi });
    expect(touched?.rss).toBeGreaterThanOrEqual(20 * Mi);
    expect(touched?.hwm).toBeGreaterThanOrEqual(20 * Mi);
    expect(end).toMatchObject({ touched: 20 * Mi, code: 0 });
    for (const [i, event] of worker.events.entries())
      expect(event.t).toBeGreaterThanOrEqual(worker.events[i - 1]?.t ?? 0);
  });

  test("wait for a byte once all is touched", async () => {
    await using worker = new Worker(["--anon", "1Mi"]);
    await worker.event("touched");
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(isAlive(worker.pid)).toBe(true);
    worker.go();
    expect(await worker.exit).toMatchObject({ code: 0 });
  });

  test("hold forever until a second byte", async () => {
    await using worker = new Worker(["--anon", "1Mi", "--hold", "forever"]);
    await worker.event("touched");
    worker.go();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(isAlive(worker.pid)).toBe(true);
    worker.go();
    expect(await worker.exit).toMatchObject({ code: 0 });
  });

  test("workers that hold forever leave each other's bytes alone: only the end of the other side ends them", async () => {
    await using worker = new Worker(["--anon", "1Mi", "--hold", "forever", "--workers", "2"]);
    for (let byte = 0; byte < 4; byte++) worker.go();
    await until(() => worker.events.filter(({ type }) => type === "touched").length === 2);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(worker.events.filter(({ type }) => type === "child-end")).toEqual([]);
    expect(isAlive(worker.pid)).toBe(true);
    expect(await worker.finish()).toMatchObject({ code: 0 });
  });

  test("hold as long as they say", async () => {
    await using worker = new Worker(["--anon", "1Mi", "--hold", "200ms", "--retouch", "50ms", "--delay", "100ms"]);
    expect(await worker.finish()).toMatchObject({ code: 0 });
    const [start, touched, end] = ["start", "touched", "end"].map((type) =>
      worker.events.find((event) => event.type === type),
    );
    expect((touched?.t ?? 0) - (start?.t ?? 0)).toBeGreaterThanOrEqual(100_000);
    expect((end?.t ?? 0) - (touched?.t ?? 0)).toBeGreaterThanOrEqual(200_000);
  });

  test("name the errno when the kernel says no", plain, async () => {
    await using worker = new Worker(["--anon", "50Mi", "--rlimit", "AS=20Mi"]);
    expect(await worker.exit).toMatchObject({ code: 1, signal: null });
    const wanted = { op: "mmap", kind: "anon", errno: "ENOMEM", bytes: 50 * Mi, touched: 0 };
    expect(worker.events.at(-1)).toMatchObject({ type: "error", pid: worker.pid, ...wanted });
    expect(worker.stderr).toMatch(/^stress: FAIL: .* anon: mmap: ENOMEM: Cannot allocate memory \(0 of 52428800 bytes/);
  });

  test.for<[string, string[], object]>([
    ["a full tmpfs", ["--tmpfs", "8Mi", "--dir", "DIR"], { op: "write", kind: "tmpfs", errno: "ENOSPC" }],
    ["a directory on no tmpfs", ["--tmpfs", "1Mi", "--dir", "/proc/self"], { op: "open", kind: "tmpfs" }],
    ["page cache of a file in memory", ["--file", "1Mi", "--dir", "DIR"], { op: "statfs", errno: "EOPNOTSUPP" }],
    ["too little lockable memory", ["--mlock", "8Mi", "--uid", "65534", "--rlimit", "MEMLOCK=64Ki"], { op: "mlock" }],
    [
      "too small a stack",
      ["--stack", "8Mi", "--uid", "65534", "--rlimit", "STACK=1Mi"],
      { op: "setrlimit", errno: "EPERM" },
    ],
  ])("name the errno of %s", root, async ([, args, wanted]) => {
    const dir = mkdtempSync("/dev/shm/oomlab-test-");
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=4m", "oomlab-test", dir]).status).toBe(0);
    onTestFinished(() => {
      spawnSync("umount", [dir]);
      rmSync(dir, { recursive: true });
    });
    await using worker = new Worker(args.map((arg) => (arg === "DIR" ? dir : arg)));
    const exit = await worker.finish();
    expect(exit).toMatchObject({ code: 1, signal: null });
    expect(worker.events.at(-1)).toMatchObject({ type: "error", ...wanted });
  });

  test("never keep the worker waiting for a reader", async () => {
    const addon = loadAddon();
    for (const [mine, its] of [addon.pipe(), addon.socketpair()]) {
      const child = addon.spawn({
        file: stressPath(),
        args: ["stress", "--anon", "4Ki", "--repeat", "1000", "--report-fd", "3"],
        env: [],
        stdio: [-1, -1, -1, its],
      });
      closeSync(its);
      const exit = await new Promise((resolve) => addon.onExit(child, resolve));
      expect(exit).toMatchObject({ code: 0 });
      closeSync(mine);
    }
  });

  test("to nobody do not end it", async () => {
    const [mine, its] = loadAddon().pipe();
    closeSync(mine);
    const { exit } = await run(stressPath(), ["--anon", "1Mi", "--report-fd", "3"], { stdio: [-1, -1, -1, its] });
    closeSync(its);
    expect(exit).toMatchObject({ code: 0 });
  });
});

describe("how it is pressed", () => {
  test("keeps to its rate within 0.1 %", { ...plain, retry: 2 }, async () => {
    await using worker = new Worker(["--anon", "40Mi", "--rate", "20Mi/s"]);
    const touched = await worker.event("touched");
    expect(touched).toBeDefined();
    expect(touched?.slow).toBeUndefined();
    const seconds = ((touched?.t ?? 0) - (worker.events[0]?.t ?? 0)) / 1e6;
    expect(Math.abs(seconds / 2 - 1)).toBeLessThan(0.001);
    // Halfway through half of it is there.
    const half = worker.events.find((event) => event.type === "progress" && event.t - (worker.events[0]?.t ?? 0) > 1e6);
    expect((half?.touched ?? 0) / Mi).toBeGreaterThan(18);
    expect((half?.touched ?? 0) / Mi).toBeLessThan(24);
  });

  test("tells when it was slower than its rate", async () => {
    // 30 us by rate, and some 50 ms by any machine.
    await using worker = new Worker(["--anon", "30Mi", "--touch", "every", "--content", "random", "--rate", "1Ti/s"]);
    expect(await worker.event("touched")).toMatchObject({ slow: true });
  });

  test("goes in steps", async () => {
    await using worker = new Worker(["--anon", "10Mi", "--steps", "4Mi/120ms"]);
    const touched = await worker.event("touched");
    const seconds = ((touched?.t ?? 0) - (worker.events[0]?.t ?? 0)) / 1e6;
    expect(seconds).toBeGreaterThan(0.239);
    expect(seconds).toBeLessThan(0.35);
    expect(worker.events.filter(({ type }) => type === "progress").map(({ touched }) => touched)).toContain(8 * Mi);
  });

  test("frees and presses again", async () => {
    await using worker = new Worker(["--anon", "4Mi", "--repeat", "3"]);
    expect(await worker.finish()).toMatchObject({ code: 0 });
    const touched = worker.events.filter(({ type }) => type === "touched");
    expect(touched.map((event) => event.touched)).toEqual([4 * Mi, 4 * Mi, 4 * Mi]);
    expect(touched.at(-1)?.hwm).toBeLessThan(sanitized ? Number.POSITIVE_INFINITY : 6 * Mi);
  });

  test.for(["pipes", "sockets", "tcp", "stack", "brk", "shm", "kernel-stacks"])("frees --%s too", async (kind) => {
    await using worker = new Worker([`--${kind}`, "2Mi", "--repeat", "5"]);
    expect(await worker.finish()).toMatchObject({ code: 0 });
    const touched = worker.events.filter(({ type }) => type === "touched");
    expect(touched).toHaveLength(5);
    // What were kept of each round would add up.
    expect((touched.at(-1)?.rss ?? 0) - (touched[0]?.rss ?? 0)).toBeLessThan(sanitized ? 64 * Mi : Mi);
  });

  test.for(["anon", "brk", "mlock", "shared", "shm"])(
    "maps --%s beyond the machine's memory only without reservation",
    needs("vm.overcommit_memory = 0", heuristics),
    async (kind) => {
      const size = beyondMemory();
      await using refused = new Worker([`--${kind}`, String(size)]);
      expect(await refused.exit).toMatchObject({ code: 1 });
      expect(refused.events.at(-1)).toMatchObject({ type: "error", kind, errno: "ENOMEM", touched: 0 });
      await using worker = new Worker([`--${kind}`, String(size), "--no-reserve", "--rate", "1/s"]);
      await until(() => Number.parseInt(status(worker.pid, "VmSize") ?? "", 10) * 1024 > size);
    },
  );

  test("touches only what a stride hits", plain, async () => {
    await using worker = new Worker(["--anon", "16Mi", "--stride", "64Ki"]);
    expect(await worker.finish()).toMatchObject({ code: 0 });
    expect(worker.events.at(-1)).toMatchObject({ touched: Mi });
    expect(worker.events.at(-1)?.rss).toBeLessThan(2 * Mi);
  });

  test("splits the size over threads, and not over workers", async () => {
    await using threads = new Worker(["--anon", "10Mi", "--threads", "3"]);
    expect(await threads.finish()).toMatchObject({ code: 0 });
    expect(threads.events.at(-1)).toMatchObject({ touched: 10 * Mi });
    await using workers = new Worker(["--anon", "10Mi", "--workers", "3"]);
    expect(await workers.finish()).toMatchObject({ code: 0 });
    const ends = workers.events.filter(({ type }) => type === "end");
    expect(ends.map(({ touched }) => touched)).toEqual([10 * Mi, 10 * Mi, 10 * Mi]);
    expect(new Set(ends.map(({ pid }) => pid)).size).toBe(3);
  });

  test("takes a percentage of the smallest limit above it", memory, async () => {
    await using parent = new MemoryCgroup(64 * Mi);
    await using cgroup = new MemoryCgroup(128 * Mi, parent);
    const inside = await run(stressPath(), ["--anon", "12.5%", "-n"], { cgroupProcs: [cgroup.procs] });
    expect(inside.stdout).toMatch(/would press 8388608 bytes of anon\n$/);
  });

  test("takes a percentage of the machine's memory where there is no limit", memory, async () => {
    const total = Number(/MemTotal:\s*(\d+) kB/.exec(readFileSync("/proc/meminfo", "utf8"))?.[1]) * 1024;
    const outside = await run(stressPath(), ["--anon", "50%", "-n"], {
      cgroupProcs: [`${memoryHome?.mount}/cgroup.procs`],
    });
    expect(outside.stdout).toContain(`would press ${total / 2} bytes of anon`);
  });

  test.for([
    ["zero", /^\0+$/],
    ["pattern", /^Z+$/],
  ] as const)("writes %s content, and leaves the file that it is to keep", ([content, wanted]) => {
    const dir = mkdtempSync("/dev/shm/oomlab-test-");
    onTestFinished(() => rmSync(dir, { recursive: true }));
    const file = join(dir, "kept");
    expect(stress("--tmpfs", "100001", "--content", content, "--keep-file", file)).toMatchObject({
      status: 0,
      stderr: "",
    });
    expect(readFileSync(file, "latin1")).toMatch(wanted);
    expect(statSync(file).size).toBe(100_001);
  });

  test("writes random content that does not compress", () => {
    const file = join(mkdtempSync("/dev/shm/oomlab-test-"), "kept");
    onTestFinished(() => rmSync(join(file, ".."), { recursive: true }));
    stress("--tmpfs", "1Mi", "--content", "random", "--keep-file", file);
    const bytes = readFileSync(file);
    expect(new Set(bytes).size).toBe(256);
    expect(new Set(Array.from({ length: 256 }, (_, page) => bytes.readBigUInt64LE(page * 4096))).size).toBe(256);
  });

  test("leaves no file and no segment behind, however it ends", async () => {
    const segments = readFileSync("/proc/sysvipc/shm", "utf8").split("\n").length;
    await using worker = new Worker(["--tmpfs", "1Mi", "--shm", "1Mi", "--file-write", "1Mi", "--hold", "forever"]);
    await worker.event("touched");
    loadAddon().signal(worker.child, 9);
    await worker.exit;
    expect(readdirSync("/dev/shm").filter((name) => name.includes("oomlab-stress"))).toEqual([]);
    expect(readdirSync("/var/tmp").filter((name) => name.includes("oomlab-stress"))).toEqual([]);
    expect(readFileSync("/proc/sysvipc/shm", "utf8").split("\n").length).toBe(segments);
  });

  test("by the user, name and score it is told", root, async () => {
    const args = ["--anon", "1Mi", "--hold", "forever"];
    await using worker = new Worker([
      ...args,
      "--uid",
      "65534",
      "--name",
      "hog",
      "--oom-score-adj",
      "777",
      "--rlimit",
      "CORE=0",
    ]);
    await worker.event("touched");
    expect(status(worker.pid, "Name")).toBe("hog");
    expect(status(worker.pid, "Uid")).toMatch(/^65534\t65534/);
    expect(readFileSync(`/proc/${worker.pid}/oom_score_adj`, "utf8")).toBe("777\n");
  });

  test("takes little besides", plain, async () => {
    await using worker = new Worker(["--anon", "256Mi", "--rate", "1/s"]);
    await worker.event("start");
    await new Promise((resolve) => setTimeout(resolve, 30));
    const kB = (key: string): number => Number(status(worker.pid, key)?.split(" ")[0]);
    expect(kB("VmSize") - 256 * 1024).toBeLessThanOrEqual(780);
    expect(kB("VmRSS")).toBeLessThanOrEqual(132);
  });
});

describe("a parent's death", () => {
  test.for([
    "--anon 1Mi --hold forever",
    "--anon 1Mi --hold forever --workers 2",
    "--anon 1Mi --hold forever --exit-main-thread",
    "--anon 1Mi --hold forever --share-vm 1 --uid 65534",
    "-m 2 --vm-bytes 1M --vm-hang 0",
  ])("ends all of %s", root, async (line) => {
    const args = [...words(line), ...(line.startsWith("-m") ? ["-v"] : ["--report-fd", "1"])];
    // The shell is the parent; it says nothing and is killed.
    const addon = loadAddon();
    const [out, outEnd] = addon.pipe();
    const shell = addon.spawn({
      file: "/bin/sh",
      args: ["sh", "-c", '"$@"; exit 0', "sh", stressPath(), ...args],
      env: [],
      stdio: [-1, outEnd, -1],
      pdeathsig: 9,
    });
    closeSync(outEnd);
    let text = "";
    const end = readAll(out, (more) => (text += more));
    // A worker whose parent was gone before it could look has none to die with: it has looked once it holds its memory.
    await until(() => text.match(/"touched","pid"|sleeping forever/g)?.length === (args.includes("2") ? 2 : 1));
    const running = descendants(shell.pid);
    expect(running).toHaveLength(args.includes("2") ? 3 : args.includes("--share-vm") ? 2 : 1);
    addon.signal(shell, 9);
    await new Promise((resolve) => addon.onExit(shell, resolve));
    await until(() => running.every((pid) => !isAlive(pid)));
    await end;
  });
});

function descendants(pid: number): number[] {
  let children: number[] = [];
  try {
    children = readdirSync(`/proc/${pid}/task`)
      .flatMap((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" "))
      .map(Number)
      .filter((child) => child > 0);
  } catch {
    // It has just ended.
  }
  return children.flatMap((child) => [child, ...descendants(child)]);
}

describe("the command line", () => {
  test.for<[string, string]>([
    ["--anon 12Q", "--anon: `12Q' is not a size: bytes, 64Mi, 1.5Gi, 200M, 50%"],
    ["--anon 1K", "--anon: `1K' is not a size: bytes, 64Mi, 1.5Gi, 200M, 50%"],
    ["--anon 0", "--anon: `0' is not a size above 0"],
    ["--anon 99999999999999999999", "--anon: `99999999999999999999' is not a size: bytes, 64Mi, 1.5Gi, 200M, 50%"],
    ["--anon 1Mi --rate 5Mi", "--rate: `5Mi' is not a rate: 50Mi/s"],
    ["--anon 1Mi --steps 5Mi/x", "--steps: `5Mi/x' is not SIZE/TIME: 12Mi/10s"],
    ["--anon 1Mi --hold soon", "--hold: `soon' is not a time: 500ms, 5s, 2m, 1h"],
    ["--anon 1Mi --touch some", "--touch: `some' is not page or every"],
    ["--anon 1Mi --oom-score-adj 1001", "--oom-score-adj: `1001' is not a number from -1000 to 1000"],
    ["--anon 1Mi --report-fd 77", "--report-fd: `77' is not an open descriptor"],
    ["--anon 1Mi --name a-name-too-long-for-it", "--name: `a-name-too-long-for-it' is not a name of 1 to 15 bytes"],
    ["--hold 1s", "--hold presses nothing by itself: say what, for example --anon 64Mi"],
    ["--anon 1Mi -t 1", "--timeout cannot be used with --anon: it belongs to --vm; use --hold, --stride, --delay"],
    ["-m 1 --hold 1s", "--hold cannot be used with --vm; use --anon SIZE in its place"],
    ["--anon 1Mi --rate 1/s --steps 1/1s", "--rate and --steps cannot be used together"],
    ["--pipes 1Mi --populate", "--populate is for memory that is mapped: --anon"],
    ["--shmem 1Mi --no-reserve", "--no-reserve is for --anon, --shared, --shm, --mlock and --brk"],
    ["--anon 1Mi --dir /tmp", "--dir is for --file, --file-write and --tmpfs"],
    ["--anon 1Mi --keep-file x", "--keep-file is for --tmpfs and --file-write"],
    ["--tmpfs 1Mi --keep-file x --workers 2", "--keep-file and --workers cannot be used together"],
    [
      "--stack 1Mi --exit-main-thread",
      "--stack and --exit-main-thread cannot be used together: the stack is the main thread's",
    ],
    ["-c 1", "--cpu is not supported: this stress presses memory only (--vm, --anon, --file, ...; see --help)"],
    ["--s 1", "unrecognized option: --s"],
  ])("%s is wrong, and why", ([line, message]) => {
    const { status, stdout, stderr } = stress(...words(line));
    expect({ status, stdout, stderr: withoutNumbers(stderr) }).toEqual({
      status: 1,
      stdout: "",
      stderr: `stress: FAIL: [pid] ${message}\n`,
    });
  });

  test.for(["--vm=2 --vm-bytes=1M -n", "-m2 --vm-b 1M -n", "-nm 2"])("knows getopt's spelling: %s", (line) => {
    const { status, stdout } = stress(...words(line));
    expect(status).toBe(0);
    expect(stdout).toContain("dispatching hogs: 0 cpu, 0 io, 2 vm, 0 hdd");
  });

  test("shows help and version", () => {
    for (const args of [[], ["-?"], ["--help"], ["-q"], ["-t", "1"]]) {
      const { status, stdout, stderr } = stress(...args);
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      expect(stdout).toMatch(/^`stress' imposes .*\n\nUsage: stress \[OPTION \[ARG\]\] \.\.\.\n/);
    }
    expect(stress("--version").stdout).toMatch(/^stress \d+\.\d+\.\d+ \(oomlab; memory flags of stress 1\.0\.7\)\n$/);
  });

  test.concurrent.for<string>([
    "-m 1 -n",
    "-m 2 -n -v",
    "-m 24b -n -q --backoff 0",
    "-m 1K -n --backoff 0",
    "-m 1 -v -q -n",
    "-m 1 -q -v -n",
    "-m 1 -t 2h -n -v",
    "-m 1 -t 1y --backoff 1s -n -v",
    "--timeout 10.5 --vm 1 --dry-run --verbose",
    "-m 3 --vm-bytes 1M --vm-hang 0 -t 1",
    "-m 1 --vm-bytes 1M --vm-keep --vm-hang 2 -t 1 -v",
    "-m 1 --vm-bytes 64000G -t 1 -q",
    "-m 1 --vm-bytes 64000G -t 1",
    "-m 0",
    "-m -3",
    "-m abc",
    "-m ''",
    "-m",
    "-m 1 -t 0",
    "-m 1 -t -1",
    "-m 1 -t 1x",
    "-m 1 --vm-bytes 0",
    "-m 1 --vm-bytes 10X",
    "-m 1 --vm-bytes",
    "-m 1 --vm-stride 0",
    "-m 1 --vm-hang -1",
    "-m 1 --vm-hang 1h",
    "-m 1 --backoff -1",
    "-m 1 extra",
    "--nonsense",
    "-h",
    "--",
  ])("does what the stress tool does with %s", needs("the stress tool", existsSync(tool)), async (line) => {
    const of = async (file: string): Promise<object> => {
      // The tool reaps its workers only where it leads its process group.
      const { exitCode, stdout, stderr } = await execa(file, words(line), {
        env: {},
        extendEnv: false,
        detached: true,
        reject: false,
        timeout: 20_000,
      });
      return { exitCode, stdout: linesOf(stdout), stderr: linesOf(stderr) };
    };
    const [ours, theirs] = await Promise.all([of(stressPath()), of(tool)]);
    expect(ours).toEqual(theirs);
  });

  test(
    "does what the stress tool does when a worker is killed",
    { ...memory, ...needs("the stress tool", existsSync(tool)) },
    async () => {
      const of = async (file: string): Promise<object> => {
        await using cgroup = new MemoryCgroup(32 * Mi);
        const args = [file, "-m", "1", "--vm-bytes", "64M", "-t", "20"];
        const { exit, stdout, stderr } = await run("/usr/bin/setsid", args, { cgroupProcs: [cgroup.procs] });
        return { code: exit.code, stdout: linesOf(stdout), stderr: linesOf(stderr) };
      };
      const theirs = await of(tool);
      expect(theirs).toMatchObject({
        code: 1,
        stderr: expect.arrayContaining(["stress: FAIL: [pid] <-- worker pid got signal 9"]),
      });
      expect(await of(stressPath())).toEqual(theirs);
    },
  );
});
