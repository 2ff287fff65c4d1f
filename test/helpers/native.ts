/** Real cgroups and real workers for the tests of the native part. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readSync,
  rmdirSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { probeCgroups } from "../../src/cgroup/index.ts";
import { type ExitInfo, loadAddon, type SpawnOptions, stressPath } from "../../src/native.ts";

const ownPath = (controller: string): string | undefined =>
  readFileSync("/proc/self/cgroup", "utf8")
    .split("\n")
    .map((line) => line.split(":"))
    .find(([, controllers]) => controllers?.split(",").includes(controller))?.[2];

/** Our own memory cgroup on v1, where there is one. */
export const memoryV1: string | undefined = [
  "/sys/fs/cgroup/memory" + (ownPath("memory") ?? ""),
  "/sys/fs/cgroup/memory",
].find((path) => ownPath("memory") !== undefined && existsSync(`${path}/memory.limit_in_bytes`));

/** Where cgroups with the memory controller can be made, of whichever version has it. */
export const memoryHome: { version: 1 | 2; mount: string; directory: string } | undefined =
  probeCgroups("/").hierarchies[0];

/** A mounted cgroup2 hierarchy, with or without controllers. */
export const unified: string | undefined = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].find((path) =>
  existsSync(`${path}/cgroup.subtree_control`),
);

export const isRoot: boolean = process.getuid?.() === 0;

/** Sanitizers take memory and time of their own: what is measured then is theirs. */
export const sanitized: boolean = process.env["OOMLAB_NATIVE"] !== undefined;

/** The kernel judges each mapping by itself, and refuses one beyond all memory and swap. */
export const heuristics: boolean = readFileSync("/proc/sys/vm/overcommit_memory", "latin1") === "0\n";

/** More bytes than this machine has, swap included. */
export function beyondMemory(): number {
  const meminfo = readFileSync("/proc/meminfo", "latin1");
  const kB = (key: string): number => Number(new RegExp(`^${key}:\\s*(\\d+)`, "m").exec(meminfo)?.[1]);
  return (kB("MemTotal") + kB("SwapTotal")) * 1024 + (64 << 20);
}

let count = 0;

/** What tests that were killed left here. */
function removeAbandoned(parent: string): void {
  for (const name of readdirSync(parent)) {
    const [, pid] = /^oomlab-native-test-(\d+)-\d+$/.exec(name) ?? [];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    try {
      rmdirSync(`${parent}/${name}`);
    } catch {
      // A process lives in it.
    }
  }
}

/** A cgroup of this test, gone with it. */
export class TestCgroup implements AsyncDisposable {
  readonly path: string;

  constructor(parent: string, files: Record<string, string> = {}) {
    if (count === 0) removeAbandoned(parent);
    this.path = `${parent}/oomlab-native-test-${process.pid}-${++count}`;
    mkdirSync(this.path);
    for (const [file, value] of Object.entries(files)) this.write(file, value);
  }

  get procs(): string {
    return `${this.path}/cgroup.procs`;
  }

  read(file: string): string {
    return readFileSync(`${this.path}/${file}`, "utf8").trim();
  }

  write(file: string, value: string): void {
    writeFileSync(`${this.path}/${file}`, value);
  }

  /** A key of a flat keyed file. */
  key(file: string, key: string): number {
    const line = this.read(file)
      .split("\n")
      .find((line) => line.startsWith(`${key} `));
    return Number(line?.slice(key.length + 1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A killed process leaves its cgroup some time after it has been reaped.
    await until(() => {
      try {
        rmdirSync(this.path);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "EBUSY") return false;
        throw error;
      }
      return true;
    });
  }
}

/** What memory is charged as, and where each version counts it. v1's TCP memory is counted beside the rest. */
export type Charge = "anon" | "unevictable" | "shmem" | "file" | "kernel" | "tcp";

/** A cgroup of this test with a memory limit, below the machine's memory controller or another such cgroup. */
export class MemoryCgroup extends TestCgroup {
  readonly #version = memoryHome?.version ?? 1;

  constructor(limit: number, parent?: MemoryCgroup) {
    const home = parent?.path ?? memoryHome?.directory ?? "";
    if (memoryHome?.version === 2) writeFileSync(`${home}/cgroup.subtree_control`, "+memory");
    super(home);
    // On v1 TCP's counter runs only below a limit of its own.
    const files =
      memoryHome?.version === 2 ? ["memory.max"] : ["memory.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"];
    for (const file of files) this.write(file, String(limit));
  }

  get oomKills(): number {
    return this.#version === 2 ? this.key("memory.events", "oom_kill") : this.key("memory.oom_control", "oom_kill");
  }

  /** How often its limit was hit. */
  get hits(): number {
    return this.#version === 2 ? this.key("memory.events", "max") : Number(this.read("memory.failcnt"));
  }

  /** Bytes charged as what. */
  charged(what: Charge): number {
    const stat = (key: string): number => this.key("memory.stat", key);
    const v1 = this.#version === 1;
    switch (what) {
      case "anon":
        return stat(v1 ? "rss" : "anon");
      case "file":
        return stat(v1 ? "cache" : "file") - stat("shmem");
      case "kernel":
        return v1 ? Number(this.read("memory.kmem.usage_in_bytes")) : stat("kernel");
      case "tcp":
        return v1 ? Number(this.read("memory.kmem.tcp.usage_in_bytes")) : stat("sock");
      default:
        return stat(what);
    }
  }
}

/** An event of the worker, see docs/stress.md. */
export interface WorkerEvent {
  type: string;
  pid: number;
  t: number;
  worker?: number;
  kind?: string | null;
  bytes?: number;
  touched?: number;
  rss?: number;
  hwm?: number;
  slow?: boolean;
  op?: string;
  errno?: string;
  child?: number;
  code?: number | null;
  signal?: string | null;
}

/** A `stress` of ours with its reports and its handshake. */
export class Worker implements AsyncDisposable {
  readonly child: { pid: number; pidfd: number };
  readonly exit: Promise<ExitInfo>;
  readonly events: WorkerEvent[] = [];
  stderr = "";
  private sync: number | undefined;
  private ended = false;
  private readonly waiting = new Set<() => void>();

  constructor(args: string[], options: Partial<SpawnOptions> = {}) {
    const addon = loadAddon();
    const [report, reportEnd] = addon.pipe();
    const [errors, errorsEnd] = addon.pipe();
    const [sync, syncEnd] = addon.socketpair();
    try {
      this.child = addon.spawn({
        file: stressPath(),
        args: ["stress", "--report-fd", "3", "--sync-fd", "4", ...args],
        env: [],
        stdio: [-1, -1, errorsEnd, reportEnd, syncEnd],
        pdeathsig: 9,
        ...options,
      });
    } finally {
      for (const fd of [reportEnd, errorsEnd, syncEnd]) closeSync(fd);
    }
    this.sync = sync;
    const lines = { rest: "" };
    const reports = readAll(report, (text) => {
      const parts = (lines.rest + text).split("\n");
      lines.rest = parts.pop() ?? "";
      this.events.push(...parts.map((line) => JSON.parse(line) as WorkerEvent));
      for (const wake of this.waiting) wake();
    });
    const messages = readAll(errors, (text) => (this.stderr += text));
    const end = new Promise<ExitInfo>((resolve) => addon.onExit(this.child, resolve));
    this.exit = Promise.all([end, reports, messages]).then(([exit]) => {
      this.ended = true;
      for (const wake of this.waiting) wake();
      return exit;
    });
  }

  get pid(): number {
    return this.child.pid;
  }

  /** The first event of that type; undefined if the worker ends without one. */
  async event(type: string): Promise<WorkerEvent | undefined> {
    for (;;) {
      const found = this.events.find((event) => event.type === type);
      if (found || this.ended) return found;
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          this.waiting.delete(wake);
          resolve();
        };
        this.waiting.add(wake);
      });
    }
  }

  /** One byte on the handshake's descriptor. */
  go(): void {
    if (this.sync !== undefined) writeSync(this.sync, "x");
  }

  /** The end of the handshake's descriptor. */
  hangUp(): void {
    if (this.sync !== undefined) closeSync(this.sync);
    this.sync = undefined;
  }

  /** Lets it go on whenever it waits, and tells how it ended. */
  async finish(): Promise<ExitInfo> {
    this.hangUp();
    return await this.exit;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.hangUp();
    loadAddon().signal(this.child, 9);
    await this.exit;
  }
}

/** Reads a non-blocking descriptor to its end, and closes it. */
export async function readAll(fd: number, onText: (text: string) => void): Promise<void> {
  await new Promise<void>((resolve) => {
    const buffer = Buffer.alloc(64 << 10);
    const handle = loadAddon().poll(fd, "readable", () => {
      const size = readSync(fd, buffer);
      if (size > 0) {
        onText(buffer.toString("utf8", 0, size));
        return;
      }
      handle.close();
      closeSync(fd);
      resolve();
    });
  });
}

/** Runs a program through the addon: what it wrote, and how it ended. */
export async function run(
  file: string,
  args: string[],
  options: Partial<SpawnOptions> = {},
): Promise<{ stdout: string; stderr: string; exit: ExitInfo }> {
  const addon = loadAddon();
  const [out, outEnd] = addon.pipe();
  const [err, errEnd] = addon.pipe();
  let child;
  try {
    child = addon.spawn({
      file,
      args: [file, ...args],
      env: ["PATH=/usr/bin:/bin"],
      stdio: [-1, outEnd, errEnd],
      ...options,
    });
  } finally {
    closeSync(outEnd);
    closeSync(errEnd);
  }
  const result = { stdout: "", stderr: "" };
  const [exit] = await Promise.all([
    new Promise<ExitInfo>((resolve) => addon.onExit(child, resolve)),
    readAll(out, (text) => (result.stdout += text)),
    readAll(err, (text) => (result.stderr += text)),
  ]);
  return { ...result, exit };
}

/** Waits until it is true, ten seconds at most. */
export async function until(condition: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within 10 s: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Whether any thread of a process still runs: its main thread may have ended before the others. */
export function isAlive(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).some(
      (thread) => !/^State:\t[ZX]/m.test(readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8")),
    );
  } catch {
    return false;
  }
}

/** A line of /proc/PID/status. */
export function status(pid: number, key: string): string | undefined {
  return new RegExp(`^${key}:\\s*(.*)$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
}
