import { execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  readSync,
  rmdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Worker as Thread } from "node:worker_threads";
import { describe, expect, onTestFinished, test } from "vitest";
import { type ExitInfo, loadAddon, type SpawnOptions, stressPath, type SystemCallError } from "../../src/native.ts";
import {
  isAlive,
  isRoot,
  memoryV1,
  readAll,
  run,
  sanitized,
  status,
  TestCgroup,
  unified,
  until,
  Worker,
  beyondMemory,
  heuristics,
} from "../helpers/native.ts";
import { needs } from "../helpers/needs.ts";

const addon = loadAddon();
const root = needs("root", isRoot);
const v1 = needs({ root: isRoot, "cgroup v1 memory controller": memoryV1 !== undefined });
const v2 = needs({ root: isRoot, "a cgroup2 mount": unified !== undefined });

/** Where the addon lies, for processes of their own. */
const addonPath = fileURLToPath(
  new URL(`../../${process.env["OOMLAB_NATIVE"] ?? "native/build/Release"}/oomlab.node`, import.meta.url),
);

const options = (changes: Partial<SpawnOptions> = {}): SpawnOptions => ({
  file: "/bin/true",
  args: ["true"],
  env: [],
  stdio: [-1, -1, -1],
  ...changes,
});

const exitOf = async (child: { pid: number; pidfd: number }): Promise<ExitInfo> =>
  await new Promise((resolve) => addon.onExit(child, resolve));

const shell = async (script: string, changes: Partial<SpawnOptions> = {}) =>
  await run("/bin/sh", ["-c", script], changes);

function failure(call: () => unknown): SystemCallError {
  try {
    call();
  } catch (error) {
    return error as SystemCallError;
  }
  throw new Error("it did not throw");
}

/** A program that only has the addon, and says what it has to on stdout. */
function helper(script: string) {
  const child = spawn(process.execPath, ["-e", `const addon = require(${JSON.stringify(addonPath)});\n${script}`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const end = once(child, "exit");
  // Until Node has reaped it, it would pass for an orphan in another test.
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await end;
  });
  return child;
}

describe("spawn", () => {
  test("starts a child inside a v1 memory cgroup, where its OOM kill is counted", v1, async () => {
    await using cgroup = new TestCgroup(memoryV1 ?? "", { "memory.limit_in_bytes": "64M" });
    await using worker = new Worker(["--anon", "96Mi"], { cgroupProcs: [cgroup.procs] });
    expect(await worker.exit).toMatchObject({ pid: worker.pid, code: null, signal: 9, coreDumped: false });
    expect(cgroup.key("memory.oom_control", "oom_kill")).toBe(1);
    expect(Number(cgroup.read("memory.failcnt"))).toBeGreaterThan(0);
    expect(Number(cgroup.read("memory.max_usage_in_bytes"))).toBe(64 << 20);
  });

  test("starts a child straight inside a cgroup2 by its descriptor", v2, async () => {
    await using cgroup = new TestCgroup(unified ?? "");
    const fd = openSync(cgroup.path, constants.O_RDONLY | constants.O_DIRECTORY);
    onTestFinished(() => closeSync(fd));
    await using worker = new Worker(["--anon", "1Mi", "--hold", "forever"], { cgroupFd: fd });
    await worker.event("touched");
    expect(cgroup.read("cgroup.procs")).toBe(String(worker.pid));
  });

  test("says so when the descriptor is of no cgroup", v2, () => {
    const fd = openSync("/tmp", constants.O_RDONLY | constants.O_DIRECTORY);
    onTestFinished(() => closeSync(fd));
    expect(failure(() => addon.spawn(options({ cgroupFd: fd })))).toMatchObject({ code: "EBADF", syscall: "clone" });
  });

  test("gives the child the descriptors it is to have, in any order, and no other", async () => {
    const pipes = [addon.pipe(), addon.pipe(), addon.pipe()];
    const ends = pipes.map(([, end]) => end);
    const child = addon.spawn(
      options({
        file: "/bin/sh",
        // Backwards: each of them is in another's way.
        args: ["sh", "-c", "echo two >&2; echo three >&3; echo one; /bin/ls /proc/self/fd >&3"],
        stdio: [-1, ends[2] ?? -1, ends[1] ?? -1, ends[0] ?? -1],
      }),
    );
    for (const end of ends) closeSync(end);
    const texts = ["", "", ""];
    await Promise.all(pipes.map(async ([fd], i) => await readAll(fd, (text) => (texts[i] += text))));
    await exitOf(child);
    // The last is the directory that ls itself has open.
    expect(texts).toEqual(["three\n0\n1\n2\n3\n4\n", "two\n", "one\n"]);
  });

  test("does to the child what is asked for before it begins", root, async () => {
    const { stdout } = await shell(
      "pwd; cat /proc/self/oom_score_adj; ulimit -n; ulimit -v; grep Cpus_allowed_list /proc/self/status; echo $WORD; id -u; id -g; id -G",
      {
        cwd: "/proc",
        oomScoreAdj: 321,
        rlimits: [
          { resource: "NOFILE", value: 77 },
          { resource: "AS", value: Number.POSITIVE_INFINITY },
        ],
        cpus: [0],
        env: ["WORD=a word", "PATH=/usr/bin:/bin"],
        uid: 12345,
        gid: 54321,
      },
    );
    expect(stdout.split("\n")).toEqual([
      "/proc",
      "321",
      "77",
      "unlimited",
      "Cpus_allowed_list:\t0",
      "a word",
      "12345",
      "54321",
      "54321",
      "",
    ]);
  });

  test("binds the child's memory to nodes", async () => {
    const { stdout } = await run("/bin/cat", ["/proc/self/numa_maps"], { mempolicy: { mode: "bind", nodes: [0] } });
    expect(stdout).toContain(" bind:0 ");
  });

  test("gives the child no blocked and no ignored signal", async () => {
    const { stdout } = await run("/bin/grep", ["-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    expect(stdout).toBe("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
  });

  test.for<[string, Partial<SpawnOptions>, Partial<SystemCallError>]>([
    ["a program that is not there", { file: "/nowhere/x" }, { syscall: "exec", code: "ENOENT", path: "/nowhere/x" }],
    ["a program that is none", { file: "/etc/passwd" }, { syscall: "exec", code: "EACCES", path: "/etc/passwd" }],
    ["a missing directory", { cwd: "/nowhere" }, { syscall: "chdir", code: "ENOENT", path: "/nowhere" }],
    [
      "a missing cgroup",
      { cgroupProcs: ["/nowhere/p"] },
      { syscall: "cgroup.procs", code: "ENOENT", path: "/nowhere/p" },
    ],
    ["a closed descriptor", { stdio: [987] }, { syscall: "dup", code: "EBADF", path: "/bin/true" }],
    ["no such node", { mempolicy: { mode: "bind", nodes: [900] } }, { syscall: "set_mempolicy", code: "EINVAL" }],
    ["no such CPU", { cpus: [1000] }, { syscall: "sched_setaffinity", code: "EINVAL" }],
  ])("names the step that failed: %s", ([, changes, wanted]) => {
    const error = failure(() => addon.spawn(options(changes)));
    expect(error).toMatchObject(wanted);
    expect(error.message).toMatch(
      new RegExp(`^spawn ${changes.file ?? "/bin/true"}: .*${wanted.syscall}: ${wanted.code}: `),
    );
    expect(error.errno).toBeLessThan(0);
  });

  test("says in full what is wrong with a missing program", () => {
    expect(failure(() => addon.spawn(options({ file: "/nowhere/x" }))).message).toBe(
      "spawn /nowhere/x: exec: ENOENT: No such file or directory",
    );
  });

  test.for<[string, object]>([
    ["file must be a string", { file: 1 }],
    ["args must be an array", { args: "true" }],
    ["env[1] must be a string", { env: ["A=1", 2] }],
    ["cwd must be a string without NUL bytes", { cwd: "/tmp\0" }],
    ["stdio[0] must be an integer", { stdio: [0.5] }],
    ["rlimits[0].resource must be a name as in getrlimit(2)", { rlimits: [{ resource: "RLIMIT_AS", value: 1 }] }],
    ["uid must be a non-negative integer", { uid: -1 }],
    ["mempolicy.mode must be bind, preferred or interleave", { mempolicy: { mode: "local", nodes: [] } }],
    ["cpus[0] must be below 1024", { cpus: [5000] }],
  ])("refuses wrong types: %s", ([message, changes]) => {
    expect(() => addon.spawn(options(changes as Partial<SpawnOptions>))).toThrow(new TypeError(message));
  });

  test("leaves no descriptor open over a hundred children and as many failures", async () => {
    const descriptors = (): number => readdirSync("/proc/self/fd").length;
    await exitOf(addon.spawn(options()));
    const before = descriptors();
    for (let i = 0; i < 100; ++i) {
      await exitOf(addon.spawn(options()));
      failure(() => addon.spawn(options({ file: "/nowhere" })));
    }
    expect(descriptors()).toBe(before);
  });

  test("takes no longer in a process with much memory", needs("a build without sanitizers", !sanitized), async () => {
    const time = async (): Promise<number> => {
      const times: number[] = [];
      for (let i = 0; i < 30; ++i) {
        const start = process.hrtime.bigint();
        const child = addon.spawn(options());
        times.push(Number(process.hrtime.bigint() - start) / 1e6);
        await exitOf(child);
      }
      // The least: the machine's other work only ever adds.
      return Math.min(...times);
    };
    const small = await time();
    const region = addon.allocate(100 << 20);
    region.touch(region.size);
    const large = await time();
    region.free();
    // fork would copy the page tables: 1 ms and more for 100 MiB.
    expect(large).toBeLessThan(small + 1);
  });
});

describe("a parent's death", () => {
  test("takes the child with it, though the parent was killed", async () => {
    const parent = helper(`
      const child = addon.spawn({ file: ${JSON.stringify(stressPath())}, args: ["stress", "--anon", "1Mi", "--hold", "forever"],
                                  env: [], stdio: [-1, -1, -1], pdeathsig: 9 });
      addon.onExit(child, () => {});
      console.log(child.pid);`);
    const pid = Number(await new Promise((resolve) => parent.stdout.once("data", resolve)));
    expect(isAlive(pid)).toBe(true);
    parent.kill("SIGKILL");
    await until(() => !isAlive(pid));
  });

  test("is heard of by a process that asked for it", async () => {
    const middle = helper(`
      const { spawn } = require("node:child_process");
      const child = spawn(process.execPath, ["-e",
        ${JSON.stringify(`require(${JSON.stringify(addonPath)}).setParentDeathSignal(15); console.log(process.pid); setInterval(() => {}, 1000);`)}],
        { stdio: ["ignore", "inherit", "inherit"] });
      child.on("exit", () => {});`);
    const pid = Number(await new Promise((resolve) => middle.stdout.once("data", resolve)));
    expect(isAlive(pid)).toBe(true);
    middle.kill("SIGKILL");
    await until(() => !isAlive(pid));
  });
});

describe("onExit", () => {
  test("tells status and CPU time", async () => {
    const { exit } = await shell("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exit 7");
    expect(exit).toMatchObject({ code: 7, signal: null, coreDumped: false });
    expect(exit.userUs + exit.systemUs).toBeGreaterThan(1000);
  });

  test("tells the signal", async () => {
    expect((await shell("kill -USR1 $$")).exit).toMatchObject({ code: null, signal: 10 });
  });

  test("waits in a thread where there is no pidfd", async () => {
    const { pid } = addon.spawn(options({ file: "/bin/sh", args: ["sh", "-c", "exit 3"] }));
    expect(await exitOf({ pid, pidfd: -1 })).toMatchObject({ pid, code: 3, signal: null });
  });

  test("leaves the children of node:child_process to Node", async () => {
    const [others] = await Promise.all([
      Promise.all(Array.from({ length: 5 }, async () => await promisify(execFile)("/bin/sh", ["-c", "exit 0"]))),
      Promise.all(Array.from({ length: 5 }, async () => await exitOf(addon.spawn(options())))),
    ]);
    expect(others).toHaveLength(5);
  });

  test("refuses a child that is none of ours", () => {
    expect(() => addon.onExit({ pid: process.ppid, pidfd: 0 }, () => {})).toThrow(TypeError);
  });

  test("makes of an exception in the callback an uncaught one", async () => {
    const child = helper(`
      process.on("uncaughtException", (error) => console.log("caught", error.message));
      addon.onExit(addon.spawn({ file: "/bin/true", args: ["true"], env: [], stdio: [-1, -1, -1] }), () => { throw new Error("mine"); });`);
    const text = await new Promise<string>((resolve) => child.stdout.once("data", (data) => resolve(String(data))));
    expect(text).toBe("caught mine\n");
  });
});

describe("signal", () => {
  test("reaches a living child, and never one that has been reaped", async () => {
    const child = addon.spawn(options({ file: "/bin/sleep", args: ["sleep", "100"] }));
    const end = exitOf(child);
    expect(addon.signal(child, 0)).toBe(true);
    expect(addon.signal(child, 15)).toBe(true);
    expect(await end).toMatchObject({ signal: 15 });
    expect(addon.signal(child, 15)).toBe(false);
  });
});

describe("orphans", () => {
  test("are reaped by the subreaper, and nobody else's children are", async () => {
    addon.setChildSubreaper(true);
    onTestFinished(() => addon.setChildSubreaper(false));
    const ours = addon.spawn(options({ file: "/bin/sleep", args: ["sleep", "100"] }));
    onTestFinished(async () => {
      addon.signal(ours, 9);
      await exitOf(ours);
    });
    const nodes = spawn("/bin/sh", ["-c", "exit 4"]);
    const nodesEnd = new Promise((resolve) => nodes.once("exit", resolve));
    await shell("(exit 7) & exec /bin/true >&- 2>&-");
    const ended: ExitInfo[] = [];
    await until(() => ended.push(...addon.reapOrphans([nodes.pid ?? 0])) > 0);
    expect(ended).toMatchObject([{ code: 7, signal: null }]);
    expect(await nodesEnd).toBe(4);
  });
});

describe("poll", () => {
  test("calls back when there is something to read, until it is closed", async () => {
    const [fd, end] = addon.pipe();
    let calls = 0;
    const handle = addon.poll(fd, "readable", () => {
      ++calls;
      readSync(fd, Buffer.alloc(10));
    });
    expect(calls).toBe(0);
    writeSync(end, "x");
    await until(() => calls === 1);
    handle.close();
    handle.close();
    writeSync(end, "x");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(calls).toBe(1);
    closeSync(fd);
    closeSync(end);
  });

  test("hears of an OOM through v1's event control", v1, async () => {
    await using cgroup = new TestCgroup(memoryV1 ?? "", { "memory.limit_in_bytes": "32M" });
    const control = openSync(`${cgroup.path}/memory.oom_control`, "r");
    const events = addon.eventfd();
    cgroup.write("cgroup.event_control", `${events} ${control}`);
    const heard = new Promise<void>((resolve) => {
      const handle = addon.poll(events, "readable", () => {
        handle.close();
        resolve();
      });
    });
    await using worker = new Worker(["--anon", "48Mi"], { cgroupProcs: [cgroup.procs] });
    await heard;
    expect(await worker.exit).toMatchObject({ signal: 9 });
    const buffer = Buffer.alloc(8);
    readSync(events, buffer);
    expect(Number(buffer.readBigUInt64LE())).toBeGreaterThan(0);
    closeSync(control);
    closeSync(events);
  });

  test("hears of a change in a cgroup2 events file as a priority event", v2, async () => {
    await using cgroup = new TestCgroup(unified ?? "");
    const fd = openSync(`${cgroup.path}/cgroup.events`, "r");
    onTestFinished(() => closeSync(fd));
    const read = (): string => {
      const buffer = Buffer.alloc(100);
      return buffer.toString("utf8", 0, readSync(fd, buffer, 0, 100, 0));
    };
    const seen = [read()];
    const populated = new Promise<void>((resolve) => {
      const handle = addon.poll(fd, "priority", () => {
        seen.push(read());
        if (!seen.at(-1)?.includes("populated 1")) return;
        handle.close();
        resolve();
      });
    });
    await using worker = new Worker(["--anon", "1Mi", "--hold", "forever"], { cgroupProcs: [cgroup.procs] });
    await worker.event("touched");
    await populated;
    expect(seen[0]).toContain("populated 0");
  });

  test("refuses a closed descriptor", () => {
    expect(failure(() => addon.poll(987, "readable", () => {}))).toMatchObject({ syscall: "poll", code: "EBADF" });
  });
});

describe("descriptors", () => {
  test("of a pipe and a socket pair are closed on exec, and the first does not block", () => {
    for (const [first, second] of [addon.pipe(), addon.socketpair()]) {
      const flags = (fd: number): number =>
        Number.parseInt(/flags:\t(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "", 8);
      expect(flags(first) & (constants.O_NONBLOCK | 0o2000000)).toBe(constants.O_NONBLOCK | 0o2000000);
      expect(flags(second) & (constants.O_NONBLOCK | 0o2000000)).toBe(0o2000000);
      closeSync(first);
      closeSync(second);
    }
  });

  test("of /dev/kmsg give records as the kernel wrote them", root, () => {
    const fd = openSync("/dev/kmsg", constants.O_RDWR | constants.O_NONBLOCK);
    onTestFinished(() => closeSync(fd));
    const drain = (): string[] => {
      const all: string[] = [];
      for (;;) {
        const { records } = addon.readKmsg(fd, 100);
        if (records.length === 0) return all;
        all.push(...records);
      }
    };
    drain();
    const marker = `oomlab native test ${process.pid} ${Date.now()}`;
    writeSync(fd, `<14>${marker}\n`);
    const found = drain().filter((record) => record.includes(marker));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(new RegExp(`^14,\\d+,\\d+,[^;]*;${marker}$`));
    expect(addon.readKmsg(fd, 100)).toEqual({ records: [], lost: false });
  });

  test("of kmsg give at most as many records as asked for", root, () => {
    const fd = openSync("/dev/kmsg", constants.O_RDONLY | constants.O_NONBLOCK);
    onTestFinished(() => closeSync(fd));
    expect(addon.readKmsg(fd, 2).records).toHaveLength(2);
  });

  test("lock a file against any other that opens it", () => {
    const path = join(mkdtempSync(join(tmpdir(), "oomlab-lock-")), "lock");
    writeFileSync(path, "");
    const [one, two] = [openSync(path, "r"), openSync(path, "r")];
    expect(addon.lock(one)).toBe(true);
    expect(addon.lock(one)).toBe(true);
    expect(addon.lock(two)).toBe(false);
    closeSync(one);
    expect(addon.lock(two)).toBe(true);
    closeSync(two);
    rmSync(join(path, ".."), { recursive: true });
    expect(failure(() => addon.lock(987))).toMatchObject({ syscall: "flock", code: "EBADF" });
  });
});

describe("the machine", () => {
  test("has filesystems with magic numbers", v1, () => {
    expect(addon.fsMagic(memoryV1 ?? "")).toBe(0x27e0eb);
    expect(addon.fsMagic("/proc")).toBe(0x9fa0);
    expect(failure(() => addon.fsMagic("/nowhere"))).toMatchObject({
      syscall: "statfs",
      code: "ENOENT",
      path: "/nowhere",
    });
  });

  test("has a cgroup2", v2, () => {
    expect(addon.fsMagic(unified ?? "")).toBe(0x63677270);
  });

  test("has extended attributes on files", () => {
    const path = mkdtempSync(join(tmpdir(), "oomlab-xattr-"));
    expect(addon.xattr(path, "user.oomd_ooms")).toBeNull();
    // Written by a cgroup's owner on v2; a file system here may have none.
    expect(addon.xattr("/proc", "user.oomd_ooms")).toBeNull();
    rmSync(path, { recursive: true });
    expect(failure(() => addon.xattr(path, "user.oomd_ooms"))).toMatchObject({
      syscall: "getxattr",
      code: "ENOENT",
      path,
    });
  });

  test("has extended attributes on cgroups of v2", v2, () => {
    const path = mkdtempSync(join(unified ?? "", "oomlab-xattr-"));
    const set = "import os, sys; os.setxattr(sys.argv[1], 'trusted.oomd_kill', b'2')";
    execFileSync("python3", ["-c", set, path]);
    expect(addon.xattr(path, "trusted.oomd_kill")).toBe("2");
    rmdirSync(path);
  });

  test("has the capabilities that /proc says", () => {
    expect(addon.capabilities().padStart(16, "0")).toBe(status(process.pid, "CapEff"));
  });
});

describe("memory", () => {
  const rss = (): number => Number(status(process.pid, "VmRSS")?.split(" ")[0]) << 10;

  test("is in this process once it is touched, and gone once it is freed", () => {
    const region = addon.allocate(32 << 20);
    const before = rss();
    expect(region).toMatchObject({ size: 32 << 20, touched: 0 });
    expect(region.touch(10 << 20)).toBe(10 << 20);
    expect(region.touched).toBe(10 << 20);
    expect(region.touch(100 << 20)).toBe(22 << 20);
    region.retouch();
    expect(rss() - before).toBeGreaterThan(30 << 20);
    region.free();
    region.free();
    expect(rss() - before).toBeLessThan(10 << 20);
    expect(() => region.touch(1)).toThrow("the memory has been freed");
  });

  test.for(["zero", "pattern", "random"] as const)("takes %s content in uneven steps", (content) => {
    const region = addon.allocate(100_001, { content, hugePages: false });
    for (const step of [1, 4095, 5000, 100_000]) region.touch(step);
    expect(region.touched).toBe(100_001);
    region.free();
  });

  test("is mapped beyond the machine's only without reservation", needs("vm.overcommit_memory = 0", heuristics), () => {
    const size = beyondMemory();
    expect(failure(() => addon.allocate(size))).toMatchObject({ code: "ENOMEM", syscall: "mmap" });
    const region = addon.allocate(size, { reserve: false });
    expect(region.touch(4096)).toBe(4096);
    region.free();
  });

  test("says ENOMEM where the kernel has none", () => {
    expect(failure(() => addon.allocate(2 ** 52))).toMatchObject({ code: "ENOMEM", syscall: "mmap" });
    expect(() => addon.allocate(0)).toThrow(TypeError);
  });
});

describe("a worker thread", () => {
  test("has an addon of its own, and takes its watches with it when it is terminated", async () => {
    for (let i = 0; i < 3; ++i) {
      const thread = new Thread(
        `const { parentPort } = require("node:worker_threads");
         const addon = require(${JSON.stringify(addonPath)});
         const child = addon.spawn({ file: "/bin/sleep", args: ["sleep", "100"], env: [], stdio: [-1, -1, -1] });
         addon.onExit(child, () => {});
         addon.poll(addon.pipe()[0], "readable", () => {});
         addon.allocate(1 << 20).touch(1 << 20);
         parentPort.postMessage(child.pid);`,
        { eval: true },
      );
      const pid = await new Promise<number>((resolve) => thread.once("message", resolve));
      await thread.terminate();
      process.kill(pid, "SIGKILL");
      // Its parent, this process, is still there; nobody watches it any more.
      await until(() => !isAlive(pid));
    }
    expect(await exitOf(addon.spawn(options()))).toMatchObject({ code: 0 });
  });
});
