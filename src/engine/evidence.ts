/** The collectors: the kernel log as it is written, the counters of cgroups, the machine-wide count of OOM kills, the trace. */
import { closeSync, constants, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { type Counters, readProcs, subtree } from "../cgroup/index.ts";
import { OomlabError } from "../errors.ts";
import type { Addon, PollHandle } from "../native.ts";
import type { Capabilities } from "../plan.ts";
import type { Emit, RunEventBody, SnapshotMoment } from "../record.ts";
import type { RunCgroups } from "./cgroups.ts";
import { type KernelLog, openRunLog, type Trail } from "./kernel-log.ts";
import type { Removal, Trace } from "./trace.ts";

/** /proc/vmstat oom_kill: every OOM kill of this kernel, of any kind; null before 4.13. */
function oomKillsOfMachine(): number | null {
  const found = /^oom_kill (\d+)$/m.exec(readFileSync("/proc/vmstat", "latin1"));
  return found ? Number(found[1]) : null;
}

/** Collects what the kernel tells of a run's cgroups: its log, their counters, its notifications of an OOM. */
export class Collector {
  readonly #cgroups: RunCgroups;
  readonly #addon: Addon;
  readonly #emit: Emit;
  readonly #watches: PollHandle[] = [];
  readonly #descriptors: number[] = [];
  /** What was last told of a cgroup's levels. */
  readonly #levels = new Map<string, string>();
  /** Cgroups that somebody removed under the run. */
  readonly #lost = new Set<string>();
  /** Processes and threads that were told. */
  readonly #seen = new Set<number>();
  #killsLogged = 0;
  #killsBefore = 0;
  #log: KernelLog | null = null;
  #tracing: Promise<Trace | string> | null = null;
  #trace: Trace | null = null;
  /** How long the log may trail behind the counters. */
  trail: Trail = { least: 0, most: 0 };
  #sampler: NodeJS.Timeout | null = null;

  constructor(cgroups: RunCgroups, addon: Addon, emit: Emit) {
    this.#cgroups = cgroups;
    this.#addon = addon;
    this.#emit = emit;
  }

  /** Makes the trace ready, which takes the kernel some milliseconds; `name`: its instance's, null on a machine of our own. */
  prepareTrace(name: string | null): void {
    this.#tracing = import("./trace.ts")
      .then(({ openTrace }) => openTrace(this.#addon, name))
      .catch((error: unknown) => (error as Error).message);
  }

  /** Begins: what is logged and counted from now on is the run's. */
  async open(caps: Capabilities): Promise<void> {
    const trace = await this.#tracing;
    if (trace !== null) {
      this.#trace = typeof trace === "string" ? null : trace;
      this.#emit({ type: "trace", problem: typeof trace === "string" ? trace : null });
    }
    const { log, opened, trail } = await openRunLog(this.#addon, caps);
    this.#log = log;
    this.trail = trail;
    this.#emit(opened);
    this.#emit({ type: "vmstat", moment: "before", oomKill: oomKillsOfMachine() });
    this.snapshot("before");
    this.#killsBefore = this.#killCount();
    for (const name of this.#cgroups.made) this.#watchOom(name);
  }

  /** Tells what the kernel has logged and traced so far. */
  drain(): void {
    for (const event of this.#log?.drain() ?? []) {
      this.#emit(event);
      if (event.type !== "kmsg" || event.facility !== 0) continue;
      if (/(?:^|: )Killed process \d+ \(/.test(event.text)) this.#killsLogged++;
    }
    for (const event of this.#trace?.drain() ?? []) this.#emit(event);
  }

  /** Whether the log says as many kills as the counters. */
  get isComplete(): boolean {
    return this.#killsLogged >= this.#killCount() - this.#killsBefore;
  }

  /** A cgroup's counters; none where it is gone. */
  counters(name: string): Counters {
    return this.#read(name, () => this.#cgroups.driver.counters(name)) ?? {};
  }

  /** Tells all counters, of all cgroups or of one and those above it: a limit above may be the one that is hit. */
  snapshot(moment: SnapshotMoment, only?: string): void {
    for (const name of this.#cgroups.made) {
      if (only !== undefined && name !== only && name !== "" && !this.#cgroups.isAbove(name, only)) continue;
      const counters = this.#read(name, () => this.#cgroups.driver.counters(name));
      if (counters !== null) this.#emit({ type: "counters", cgroup: name, moment, counters });
    }
    if (moment === "settled" || moment === "end") this.#emit({ type: "vmstat", moment, oomKill: oomKillsOfMachine() });
  }

  /** Samples levels and drains the log, less often as a run goes on; `forking` names cgroups whose processes fork. */
  sample(forking: () => Iterable<string>, sampled: () => void, everyMs = 10): void {
    this.#sampler = setTimeout(() => {
      this.drain();
      for (const name of this.#cgroups.made) if (name !== "") this.#tellLevels(name);
      for (const name of forking()) this.#tellThreads(name);
      sampled();
      this.sample(forking, sampled, Math.min(50, everyMs * 1.05));
    }, everyMs);
  }

  stopSampling(): void {
    if (this.#sampler) clearTimeout(this.#sampler);
    this.#sampler = null;
  }

  /** Notifications are for cgroups that still stand: closed before those are removed. */
  closeWatches(): void {
    for (const watch of this.#watches.splice(0)) watch.close();
  }

  /** Ends the trace; what it still has is told. Never throws. */
  async endTrace(removal: Removal = "later"): Promise<void> {
    const trace = await this.#tracing;
    this.#tracing = null;
    this.#trace = null;
    if (trace === null || typeof trace === "string") return;
    try {
      for (const event of await trace.close(removal)) this.#emit(event);
    } catch (error) {
      this.#emit(errorEvent(error));
    }
  }

  close(): void {
    this.stopSampling();
    this.closeWatches();
    for (const fd of this.#descriptors.splice(0)) closeSync(fd);
    this.#log?.close();
    this.#log = null;
  }

  #tellLevels(name: string): void {
    const counters = this.#read(name, () => this.#cgroups.driver.levels(name));
    if (counters === null) return;
    const told = JSON.stringify(counters);
    if (this.#levels.get(name) === told) return;
    this.#levels.set(name, told);
    this.#emit({ type: "counters", cgroup: name, moment: "sample", counters });
  }

  /** Whom the log may name beside the process itself: what it forked, wherever below its cgroup that went. */
  #tellThreads(cgroup: string): void {
    const file = this.#cgroups.driver.version === 1 ? "tasks" : "cgroup.threads";
    const found = subtree(this.#cgroups.pathOf(cgroup)).flatMap((path) => readProcs(join(path, file)));
    const processes = found.filter((pid) => !this.#seen.has(pid)).map((pid) => ({ pid, parent: parentOf(pid) }));
    if (processes.length === 0) return;
    for (const { pid } of processes) this.#seen.add(pid);
    this.#emit({ type: "procs", cgroup, processes });
  }

  /** Tells when the kernel's OOM killer comes for a cgroup: POLLPRI on memory.events, on v1 an eventfd. */
  #watchOom(name: string): void {
    const { driver } = this.#cgroups;
    const { version, oomEventFile } = driver;
    if (name === "" && version === 2) return;
    try {
      const file = openSync(this.#cgroups.pathOf(name, oomEventFile), constants.O_RDONLY);
      this.#descriptors.push(file);
      const told = (count: number): void => this.#emit({ type: "oom-event", cgroup: name, file: oomEventFile, count });
      if (version === 2) {
        // A change is told until the file has been read again (fs/kernfs/file.c kernfs_fop_poll).
        let seen = readOomCount(file);
        this.#watches.push(
          this.#addon.poll(file, "priority", () => {
            const count = readOomCount(file);
            if (count > seen) told(count - seen);
            seen = count;
          }),
        );
        return;
      }
      const event = this.#addon.eventfd();
      this.#descriptors.push(event);
      driver.write(name, "cgroup.event_control", `${event} ${file}`);
      this.#watches.push(this.#addon.poll(event, "readable", () => told(readEventfd(event))));
    } catch (error) {
      // Notifications are extra evidence: a kernel without them still has counters and its log.
      if ((error as NodeJS.ErrnoException).code === undefined) throw error;
    }
  }

  /** OOM kills that our cgroups' own counters tell, summed. */
  #killCount(): number {
    return this.#cgroups.made.reduce((sum, name) => {
      const { "memory.events.local.oom_kill": own, "memory.events.oom_kill": all } = this.counters(name);
      return sum + (typeof own === "number" ? own : typeof all === "number" ? all : 0);
    }, 0);
  }

  /** Reads counters; a cgroup that somebody removed under the run is told once, as an error. */
  #read(name: string, read: () => Counters): Counters | null {
    if (this.#lost.has(name)) return null;
    try {
      return read();
    } catch (error) {
      this.#lost.add(name);
      this.#emit(errorEvent(error));
      return null;
    }
  }
}

/** An error as the record has it. */
export function errorEvent(error: unknown): RunEventBody {
  if (error instanceof OomlabError)
    return { type: "error", code: error.code, message: error.message, hint: error.hint ?? null };
  const { code, message } = error as NodeJS.ErrnoException;
  return { type: "error", code: code ?? "UNEXPECTED", message, hint: null };
}

/** The process of a thread, the parent of a process; null where it has ended. */
function parentOf(pid: number): number | null {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "latin1");
    const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0);
    return field("Tgid") === pid ? field("PPid") : field("Tgid");
  } catch {
    return null;
  }
}

/** How often the OOM killer came, from an open memory.events; 0 where its cgroup is gone. */
function readOomCount(fd: number): number {
  const text = Buffer.alloc(1024);
  try {
    const size = readSync(fd, text, 0, text.length, 0);
    const key = (name: string): number =>
      Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text.toString("latin1", 0, size))?.[1] ?? 0);
    return Math.max(key("oom"), key("oom_kill"));
  } catch {
    return 0;
  }
}

/** eventfd(2): the count since the last read. */
function readEventfd(fd: number): number {
  const count = Buffer.alloc(8);
  readSync(fd, count, 0, 8, null);
  return Number(count.readBigUInt64LE());
}
