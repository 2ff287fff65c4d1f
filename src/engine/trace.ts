/**
 * The fourth witness: who sent each SIGKILL and SIGTERM, and each OOM victim without a rate limit, from a tracefs instance
 * of our own (Documentation/trace/ftrace.rst). The instance is locked (flock) for as long as its oomlab lives, so that
 * two of them do not disturb each other and `clean` finds what a killed one left.
 */
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmdirSync,
  writeFileSync,
  promises as files,
} from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Addon } from "../native.ts";
import { type TraceEvent, traceReader } from "./trace-lines.ts";

export type { TraceEvent } from "./trace-lines.ts";

/** One that this process keeps for its next run. */
interface Kept extends Trace {
  /** All that has come, and what is missing, up to now. */
  finish(): TraceEvent[];
  /** Removes it as the process ends. Throws the system call's error. */
  abandon(): void;
}

export interface Trace {
  /** What happened since the last call; reads nothing that is not there yet. */
  drain(): TraceEvent[];
  /** Ends it and removes its instance; what was not drained yet is returned. */
  close(removal?: Removal): Promise<TraceEvent[]>;
}

/**
 * How an instance is removed, for which the kernel makes us wait some 40 ms (for RCU): `now`; `later`, so that the next run
 * has it, and with this process at the latest; by a `guard` (guard.ts).
 */
export type Removal = "now" | "later" | "guard";

/** A tracefs, by a path that holds while `close` has not been called. */
interface Tracefs {
  path: string;
  close(): void;
}

const mounts = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const signalEvent = "events/signal/signal_generate";
const victimEvent = "events/oom/mark_victim";
/** Of each CPU: some thousand events, where the kernel's default takes 1.4 MiB. */
const bufferKib = 256;

/** The mounted tracefs, or one mounted for this process alone, which no path leads to. Throws the system call's error. */
function openTracefs(addon: Addon): Tracefs {
  const mounted = mountedTracefs();
  if (mounted !== undefined) return { path: mounted, close: () => undefined };
  const fd = addon.mountDetached("tracefs");
  return { path: `/proc/self/fd/${fd}`, close: () => closeSync(fd) };
}

/** A tracefs for a child: a descriptor of its root where none is mounted, null where one is, or none can be had. */
export function shareTracefs(addon: Addon): number | null {
  try {
    return mountedTracefs() === undefined ? addon.mountDetached("tracefs") : null;
  } catch {
    return null;
  }
}

/** Where an instance is; `fd`: what shareTracefs returned, as the reader numbers it. */
export const instancePath = (fd: number | null, name: string): string =>
  `${fd === null ? (mountedTracefs() ?? mounts[0]) : `/proc/self/fd/${fd}`}/instances/${name}`;

const mountedTracefs = (): string | undefined => mounts.find((path) => existsSync(join(path, "instances")));

/** Why signals cannot be traced here, in words; null where they can. Makes and leaves nothing. */
export function traceProblem(addon: Addon): string | null {
  let tracefs: Tracefs | null = null;
  try {
    tracefs = openTracefs(addon);
    return lacking(tracefs);
  } catch (error) {
    return inWords(error);
  } finally {
    tracefs?.close();
  }
}

/** What a tracefs has not that is needed. */
function lacking({ path }: Tracefs): string | null {
  const missing = [signalEvent, victimEvent].find((event) => !existsSync(join(path, event)));
  if (missing !== undefined) return `this kernel has no ${missing.replace("events/", "").replace("/", ":")}`;
  // Read as root, or in the group that a distribution lets into it.
  readFileSync(join(path, signalEvent, "format"));
  return null;
}

function inWords(error: unknown): string {
  const { code, syscall, message } = error as NodeJS.ErrnoException;
  if (code === "EPERM" || code === "EACCES")
    return "tracefs is only for root (in a container: --privileged; not under lockdown=confidentiality)";
  if (code === "ENODEV") return "this kernel has no tracefs";
  if (code === "ENOSYS")
    return "tracefs is not mounted, and this kernel cannot mount it for one process: mount -t tracefs none /sys/kernel/tracing";
  return syscall === undefined ? message : `${syscall}: ${code}`;
}

/**
 * Begins to trace. `name`: the instance's, unique on this machine; null: the tracefs itself, where the whole machine is
 * ours (kernels before 6.8 make hundreds of files for an instance). Throws an Error that says in words why not.
 */
export async function openTrace(addon: Addon, name: string | null): Promise<Trace> {
  if (name === null) return makeTrace(addon, null);
  const kept = idle;
  idle = null;
  // What came between two runs is of neither.
  kept?.finish();
  const trace = kept ?? (await makeTrace(addon, name));
  return {
    drain: () => trace.drain(),
    async close(removal = "now") {
      if (removal !== "later" || idle !== null) return trace.close(removal);
      idle = trace;
      process.off("exit", abandonIdle);
      process.once("exit", abandonIdle);
      // A program that uses the library lives on.
      setTimeout(() => {
        if (idle !== trace) return;
        idle = null;
        void trace.close().catch(() => undefined);
      }, idleMs).unref();
      return trace.finish();
    },
  };
}

const idleMs = 2_000;
let idle: Kept | null = null;

function abandonIdle(): void {
  try {
    idle?.abandon();
  } catch {
    // `oomlab clean` finds it.
  }
}

async function makeTrace(addon: Addon, name: string | null): Promise<Kept> {
  let tracefs: Tracefs | null = null;
  let instance: Instance | null = null;
  try {
    tracefs = openTracefs(addon);
    const problem = lacking(tracefs);
    if (problem !== null) throw new Error(problem);
    instance =
      name === null
        ? { path: tracefs.path, remove: async () => undefined }
        : await makeInstance(addon, join(tracefs.path, "instances", name));
    return started(tracefs, instance);
  } catch (error) {
    if (instance) await instance.remove();
    tracefs?.close();
    throw new Error(inWords(error), { cause: error });
  }
}

interface Instance {
  path: string;
  /** Removes it and lets go of its lock. */
  remove(): Promise<void>;
}

/** Makes and locks an instance. In between a `clean` of another oomlab may take it for a dead one's. */
async function makeInstance(addon: Addon, path: string): Promise<Instance> {
  for (let tries = 0; ; tries++) {
    // Takes the kernel some milliseconds of waiting (for RCU), not of work.
    await files.mkdir(path);
    try {
      const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
      addon.lock(fd);
      if (existsSync(join(path, "trace_pipe")))
        return {
          path,
          async remove() {
            await removeInstance(path);
            closeSync(fd);
          },
        };
      closeSync(fd);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT" || tries >= 2) throw error;
    }
  }
}

/** rmdir of an instance says EBUSY while somebody reads in it. */
async function removeInstance(path: string): Promise<void> {
  for (let pause = 5; ; pause *= 2) {
    try {
      await files.rmdir(path);
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return;
      if (code !== "EBUSY" || pause > 200) throw error;
      await sleep(pause);
    }
  }
}

function started(tracefs: Tracefs, instance: Instance): Kept {
  const at = (file: string): string => join(instance.path, file);
  // To change it takes the kernel tens of milliseconds.
  if (availableParallelism() > 16) writeFileSync(at("buffer_size_kb"), String(bufferKib));
  // Names of senders; the default, and on newer kernels of the whole tracefs alone.
  if (existsSync(at("options/record-cmd"))) writeFileSync(at("options/record-cmd"), "1");
  writeFileSync(at(`${signalEvent}/filter`), "sig==9||sig==15");
  const read = traceReader({
    signal: readFileSync(at(`${signalEvent}/format`), "latin1"),
    victim: readFileSync(at(`${victimEvent}/format`), "latin1"),
  });
  const pipe = openSync(at("trace_pipe"), constants.O_RDONLY | constants.O_NONBLOCK);
  writeFileSync(at(`${victimEvent}/enable`), "1");
  writeFileSync(at(`${signalEvent}/enable`), "1");
  const buffer = Buffer.allocUnsafe(65_536);
  let told = 0;
  const drain = (): TraceEvent[] => {
    const events: TraceEvent[] = [];
    for (;;) {
      const size = readSome(pipe, buffer);
      if (size === 0) break;
      events.push(...read(buffer.toString("utf8", 0, size)));
    }
    for (const event of events) {
      if (event.type === "trace-lost") told += event.events;
      if (event.type === "trace-signal") Object.assign(event.sender, whoIs(event.sender));
    }
    return events;
  };
  /** Overruns behind the last event that was read are in no line. */
  const overrun = (): TraceEvent[] => {
    const count = lostOf(at("per_cpu")) - told;
    if (count <= 0) return [];
    told += count;
    return [{ type: "trace-lost", events: count }];
  };
  return {
    drain: () => drain(),
    finish: () => [...drain(), ...overrun()],
    abandon() {
      closeSync(pipe);
      rmdirSync(instance.path);
    },
    async close(removal = "now") {
      writeFileSync(at(`${signalEvent}/enable`), "0");
      writeFileSync(at(`${victimEvent}/enable`), "0");
      const events = drain();
      closeSync(pipe);
      events.push(...overrun());
      if (removal !== "guard") await instance.remove();
      tracefs.close();
      return events;
    },
  };
}

/** 0: nothing more now. */
function readSome(fd: number, buffer: Buffer): number {
  try {
    return readSync(fd, buffer, 0, buffer.length, null);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return 0;
    throw error;
  }
}

/** Events that all CPUs' buffers had no room for. */
function lostOf(perCpu: string): number {
  let sum = 0;
  for (const cpu of readdirSync(perCpu)) {
    const stats = readFileSync(join(perCpu, cpu, "stats"), "latin1");
    for (const [, count] of stats.matchAll(/^(?:overrun|commit overrun|dropped events): (\d+)$/gm))
      sum += Number(count);
  }
  return sum;
}

/** A sender that still lives: its name where the kernel's cache has lost it, and its cgroup's systemd unit. */
function whoIs({ pid, comm }: { pid: number; comm: string | null }): { comm: string | null; unit: string | null } {
  try {
    const now = readFileSync(`/proc/${pid}/comm`, "utf8").replace(/\n$/, "");
    if (pid === 0 || (comm !== null && comm !== now)) return { comm, unit: null };
    const cgroups = readFileSync(`/proc/${pid}/cgroup`, "latin1");
    const unit = /^(?:0:|\d+:name=systemd):.*\/([^/\n]+\.(?:service|scope))(?:\/[^\n]*)?$/m.exec(cgroups)?.[1];
    return { comm: now, unit: unit ?? null };
  } catch {
    return { comm, unit: null };
  }
}

/** Instances of oomlabs in a tracefs: removed, of a living one, or left with the reason. */
export async function cleanTraces(
  addon: Addon,
): Promise<{ removed: string[]; inUse: string[]; left: { path: string; reason: string }[] }> {
  const result: Awaited<ReturnType<typeof cleanTraces>> = { removed: [], inUse: [], left: [] };
  let tracefs: Tracefs;
  try {
    tracefs = openTracefs(addon);
  } catch {
    // Who may not trace has left nothing there.
    return result;
  }
  const folder = join(tracefs.path, "instances");
  for (const name of readdirSync(folder).filter((entry) => /^oomlab-[0-9a-z]+$/.test(entry))) {
    const shown = `tracefs instances/${name}`;
    try {
      const fd = openSync(join(folder, name), constants.O_RDONLY | constants.O_DIRECTORY);
      try {
        if (!addon.lock(fd)) result.inUse.push(shown);
        else {
          await removeInstance(join(folder, name));
          result.removed.push(shown);
        }
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT")
        result.left.push({ path: shown, reason: (error as Error).message });
    }
  }
  tracefs.close();
  return result;
}
