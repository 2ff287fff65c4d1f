/**
 * The only file that loads the native addon and finds the `stress` worker.
 * The interfaces below are the contract between TypeScript and `native/`.
 */
import { accessSync, constants, existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { MachineError } from "./errors.ts";

/** How a child is started; everything is done in the child between fork and exec, in the order of the fields. */
export interface SpawnOptions {
  /** Absolute path of the program. */
  file: string;
  /** argv, argv[0] included. */
  args: string[];
  /** The whole environment as `KEY=value`. */
  env: string[];
  cwd?: string;
  /** cgroup v2: an open descriptor of the cgroup's directory for clone3(CLONE_INTO_CGROUP). */
  cgroupFd?: number;
  /** cgroup v1 (and v2 where clone3 cannot): `cgroup.procs` files that the child writes itself into before exec. */
  cgroupProcs?: string[];
  /** /proc/self/oom_score_adj, -1000..1000. */
  oomScoreAdj?: number;
  /** setrlimit: resource name as in getrlimit(2) without RLIMIT_ ("AS", "MEMLOCK"), soft = hard, in its own unit. */
  rlimits?: { resource: string; value: number }[];
  /** set_mempolicy(2): mode and nodes. */
  mempolicy?: { mode: "bind" | "preferred" | "interleave"; nodes: number[] };
  /** sched_setaffinity(2). */
  cpus?: number[];
  uid?: number;
  gid?: number;
  /** Descriptors of ours that become 0, 1, 2, ... of the child; -1 is /dev/null. All others are closed on exec. */
  stdio: number[];
  /** setsid(2): a session of its own, which a terminal's Ctrl-C and hang-up do not reach. */
  setsid?: boolean;
  /** The child gets this signal when the thread that started it ends (PR_SET_PDEATHSIG, set last, parent re-checked). */
  pdeathsig?: number;
}

/** What waitid(2) said of a child, with its rusage. */
export interface ExitInfo {
  pid: number;
  /** Exit status, or null when a signal ended it. */
  code: number | null;
  /** Signal number, or null when it exited. */
  signal: number | null;
  coreDumped: boolean;
  /** CPU time in microseconds. */
  userUs: number;
  systemUs: number;
}

/** A watched descriptor. */
export interface PollHandle {
  close(): void;
}

/** An error of a system call: `code` is the errno's name, `errno` negative as in Node's own, `syscall` the call, `path` the file where there is one. */
export interface SystemCallError extends Error {
  code: string;
  errno: number;
  syscall: string;
  path?: string;
}

/** Memory held inside this process by the addon's memory engine. */
export interface MemoryRegion {
  /** Bytes mapped. */
  readonly size: number;
  /** Bytes touched so far. */
  readonly touched: number;
  /** Touch the next `bytes` (page by page), returns bytes touched by this call. Throws SystemCallError when the kernel says no. */
  touch(bytes: number): number;
  /** Touch what has been touched once more. */
  retouch(): void;
  free(): void;
}

/** The addon: the system calls that Node lacks, and the memory engine. */
export interface Addon {
  /**
   * Starts a child. Does not copy this process's page tables (vfork semantics), whatever its RSS.
   * A failure before or in exec is thrown as SystemCallError naming the step (`syscall`) and the path.
   */
  spawn(options: SpawnOptions): { pid: number; pidfd: number };
  /**
   * Calls back once, when the child has ended and been reaped (waitid); closes the pidfd. Keeps the event loop alive.
   * Every spawned child needs it, else it stays a zombie. `code` and `signal` are both null where somebody else reaped it.
   */
  onExit(child: { pid: number; pidfd: number }, callback: (exit: ExitInfo) => void): void;
  /** Sends a signal through the pidfd: never hits a recycled pid. False when the child has already been reaped. */
  signal(child: { pid: number; pidfd: number }, signal: number): boolean;
  /** Watches a descriptor (`readable`: POLLIN, `priority`: POLLPRI as cgroup v2's *.events and PSI need it). */
  poll(fd: number, event: "readable" | "priority", callback: () => void): PollHandle;
  /** eventfd(2), non-blocking and close-on-exec: for cgroup v1's cgroup.event_control. */
  eventfd(): number;
  /** pipe2(O_CLOEXEC): [read end (non-blocking), write end]. */
  pipe(): [number, number];
  /** socketpair(AF_UNIX, SOCK_STREAM, O_CLOEXEC): both ends blocking except the first, which is non-blocking. */
  socketpair(): [number, number];
  /** sendto(2) of one datagram to a Unix socket. Throws the system call's error. */
  sendDatagram(path: string, bytes: Uint8Array): void;
  /**
   * All records that a non-blocking /dev/kmsg descriptor has now, each as the kernel wrote it
   * (`prio,seq,us,flags;text` with continuation lines), without the last newline. `lost`: the ring overran us (EPIPE) before the first record returned
   * after it; reading goes on behind the gap. At most `max` records a call.
   */
  readKmsg(fd: number, max: number): { records: string[]; lost: boolean };
  /** lseek(fd, 0, SEEK_END): on /dev/kmsg, behind the last record. */
  seekEnd(fd: number): void;
  /** statfs(2).f_type, e.g. 0x63677270 = CGROUP2_SUPER_MAGIC, 0x27e0eb = CGROUP_SUPER_MAGIC. */
  fsMagic(path: string): number;
  /** getxattr(2), as text; null where the file has no such attribute, or only CAP_SYS_ADMIN may read it (`trusted.*`). */
  xattr(path: string, name: string): string | null;
  /** flock(LOCK_EX | LOCK_NB): false when another open file holds it. */
  lock(fd: number): boolean;
  /** Mounts a filesystem by type where no path leads to it: a descriptor of its root, unmounted as that is closed (fsmount(2)). */
  mountDetached(type: string): number;
  /**
   * From now on each of these signals to this process is written to the descriptor (non-blocking), as three int32: its
   * number, si_code and si_pid. Node's own handlers do not hear them. -1: they have their default action again.
   */
  watchSignals(fd: number, signals: number[]): void;
  /** prctl(PR_SET_PDEATHSIG) of this process. */
  setParentDeathSignal(signal: number): void;
  /** clock_settime(CLOCK_REALTIME), in milliseconds since 1970. */
  setClock(ms: number): void;
  /** prctl(PR_SET_CHILD_SUBREAPER). */
  setChildSubreaper(on: boolean): void;
  /**
   * Reaps whatever orphans were given to us as subreaper, except our own spawned children; returns what ended.
   * Children of node:child_process look like orphans: their pids go into `except`, or Node never hears of their end.
   */
  reapOrphans(except?: number[]): ExitInfo[];
  /** Effective capabilities as a bit mask in hex, e.g. from capget(2): "1fffeffffff". */
  capabilities(): string;
  /** Maps `size` bytes of anonymous private memory, to be touched with MemoryRegion.touch. `reserve: false`: MAP_NORESERVE. */
  allocate(
    size: number,
    options?: { hugePages?: boolean; reserve?: boolean; content?: "zero" | "pattern" | "random" },
  ): MemoryRegion;
}

const root = new URL("../", import.meta.url);

function find(name: string, anyBuild = true): string | undefined {
  // For the tests of another build, the sanitizers' for one.
  const other = anyBuild ? process.env["OOMLAB_NATIVE"] : undefined;
  const candidates = [
    ...(other ? [new URL(`${other}/${name}`, root)] : []),
    new URL(`native/build/Release/${name}`, root),
    new URL(`prebuilds/linux-${process.arch}/${name}`, root),
  ];
  return candidates.map((url) => fileURLToPath(url)).find((path) => existsSync(path));
}

/** How to compile: a checkout sets itself up, an installed package has its sources and npm's node-gyp. */
const howToBuild = (): string =>
  existsSync(new URL("scripts/setup.mjs", root))
    ? "run `npm run setup` in the oomlab folder (it needs Linux, a C++ compiler, make and python3)"
    : `run \`npm run build:native\` in ${fileURLToPath(root)} (it needs Linux, a C++ compiler, make and python3)`;

const missing = (what: string): MachineError =>
  new MachineError(
    "NATIVE_MISSING",
    `the native part is not built: no ${what} in ${fileURLToPath(new URL("native/build/Release", root))}`,
    { hint: howToBuild() },
  );

let addon: Addon | undefined;

/** Loads the addon once. Throws MachineError where it is not built or does not load. */
export function loadAddon(): Addon {
  if (addon) return addon;
  const path = addonPath();
  try {
    const loaded = { exports: {} };
    // What `require` does for it (lib/internal/modules/cjs/loader.js), without a loader, which a guest would have to load.
    process.dlopen(loaded, path);
    addon = loaded.exports as Addon;
  } catch (cause) {
    throw new MachineError("NATIVE_BROKEN", `the native addon ${path} does not load: ${(cause as Error).message}`, {
      cause,
      hint: howToBuild(),
    });
  }
  return addon;
}

/** Absolute path of the addon. */
export function addonPath(): string {
  const path = find("oomlab.node");
  if (!path) throw missing("oomlab.node");
  return path;
}

/** Absolute path of process 1 of a VM. Never of another build: nothing is there that a sanitizer needs. */
export function initPath(): string {
  const path = find("init", false);
  if (!path) throw missing("init");
  return path;
}

/** Absolute path of the static `stress` worker. */
export function stressPath(): string {
  const path = find("stress");
  if (!path) throw missing("stress");
  accessSync(path, constants.X_OK);
  return path;
}
