/**
 * The record of one run: append-only NDJSON, written as things happen and enough to judge again without a run.
 * Line n of a record is its nth event; findings cite these lines.
 */
import { OomlabError } from "./errors.ts";
import type { KmsgRecord } from "./kmsg/index.ts";
import type { KubeletEvent } from "./kubernetes/kubelet-event.ts";
import type { Capabilities, MachineName, Plan } from "./plan.ts";

export const recordSchemaVersion = 1;

/** What the native worker says of itself, one NDJSON line each (docs/stress.md). `t`: CLOCK_MONOTONIC in microseconds. */
export type WorkerReport = { t?: number; pid: number } & (
  | { type: "start"; worker: number; bytes: number }
  | { type: "progress"; kind: string; touched: number; rss: number }
  | { type: "touched"; touched: number; rss: number; hwm: number; slow?: boolean }
  | { type: "error"; op: string; kind?: string; errno?: string; bytes?: number; touched?: number; message?: string }
  | { type: "note"; message: string }
  | { type: "child-end"; child: number; code: number | null; signal: string | null }
  | { type: "end"; touched: number; rss: number; hwm: number; code: number }
);

/** Counters in cgroup v2's names, `file.key`, e.g. `memory.events.oom_kill`; absent = this kernel has none. Sizes in bytes. */
export type Counters = Record<string, number | "max">;

/** When a snapshot was taken: `before` any process, a periodic `sample`, all `touched` and held, a `step`, when the run had `settled`, at the `end` before removal. */
export type SnapshotMoment = "before" | "sample" | "touched" | "step" | "settled" | "end";

/** Where a run stands among all that its command asked for. */
export interface Selection {
  /** Unique to the command's run. */
  session: string;
  /** From 1, over all shards. */
  index: number;
  of: number;
  shard: { index: number; of: number } | null;
  /** From 1; more than 1 with --repeat-each. */
  repeat: number;
  /** From 1; more than 1 with --retries. */
  attempt: number;
}

/** Of a sweep: which point it is. */
export interface SweepPoint {
  /** What is varied and the value of each, as the scenario has it. */
  values: Record<string, string>;
  /** Of the scenario's text at this point and of where it is run: a record with the same one is of the same run. */
  digest: string;
}

export type RunEventBody =
  | {
      type: "run";
      schemaVersion: number;
      oomlab: string;
      record: string;
      startedAt: string;
      plan: Plan;
      capabilities: Capabilities | null;
      /** Absent in records that were made without it. */
      selection?: Selection;
      /** Of a sweep only. */
      point?: SweepPoint;
    }
  /** A machine of its own has come up: what the engine in it found. */
  | {
      type: "machine";
      machine: MachineName;
      /** From the start of its making until the engine in it was ready. */
      bootMs: number;
      /** It came from a snapshot. */
      restored: boolean;
      capabilities: Capabilities;
    }
  /** The machine's MemTotal, where the plan's Pods reckoned with another: the plan that is run instead. */
  | { type: "node"; stated: number | null; planned: number; memTotal: number; plan: Plan }
  /** The machine's kernel or hardware lacks what the plan needs, found once it was up. */
  | { type: "unmet"; reason: string }
  /** A line of the machine's console: the second copy of its kernel log. */
  | { type: "console"; text: string }
  /** The machine's kernel panicked. */
  | { type: "panic"; message: string }
  | { type: "phase"; phase: "create" | "collect" | "start" | "settle" | "remove" }
  | { type: "cgroup"; cgroup: string; path: string }
  | {
      type: "write";
      cgroup: string;
      file: string;
      value: string;
      read: string | null;
      errno: string | null;
      note: string | null;
      ms: number;
    }
  | { type: "process-start"; process: string; pid: number; cgroup: string | null }
  | { type: "worker"; process: string; report: WorkerReport }
  | { type: "output"; process: string; text: string }
  /** Processes and threads newly seen in a cgroup whose processes fork (and below it); a thread's parent is its process. */
  | { type: "procs"; cgroup: string; processes: { pid: number; parent: number | null }[] }
  | {
      type: "process-exit";
      process: string;
      pid: number;
      code: number | null;
      signal: string | null;
      coreDumped: boolean;
      userUs: number;
      systemUs: number;
    }
  | {
      type: "kill";
      process: string | null;
      cgroup: string | null;
      pid: number;
      signal: string;
      why: "step" | "timeout" | "interrupted" | "cleanup" | "eviction";
    }
  | { type: "counters"; cgroup: string; moment: SnapshotMoment; counters: Counters }
  | { type: "vmstat"; moment: SnapshotMoment; oomKill: number | null }
  | ({ type: "kmsg" } & Omit<KmsgRecord, "line">)
  | { type: "kmsg-lost"; afterSeq: number | null; reason?: string }
  /** Where the kernel's log is read from; null: nowhere, and what opens it. Absent in records of old: /dev/kmsg. */
  | { type: "kernel-log"; source: "kmsg" | "journal" | null; problem: string | null; hint: string | null }
  /** Whether the fourth witness is there from now on; null: it is, else why not. */
  | { type: "trace"; problem: string | null }
  /** A SIGKILL or SIGTERM to any process of the machine (signal:signal_generate); pids as the kernel's log has them. */
  | {
      type: "trace-signal";
      /** By the clock of the kernel's log. */
      timeUs: number;
      signal: "SIGKILL" | "SIGTERM";
      /** siginfo's si_code: 0 (SI_USER) a process sent it, 128 (SI_KERNEL) the kernel. */
      code: number;
      pid: number;
      comm: string | null;
      /** By kill(2) and the like to all threads; false: to one task, as cgroup.kill does. */
      toProcess: boolean | null;
      /** 0 delivered, 1 ignored, 2 already pending (include/trace/events/signal.h). */
      result: number | null;
      /** The task that was running as it was sent: the sender, or of a kernel's signal whoever asked for memory. */
      sender: { pid: number; comm: string | null; unit: string | null };
    }
  /** The OOM killer chose a victim (oom:mark_victim). Sizes in bytes; null: kernels before 6.8 name the pid alone. */
  | {
      type: "trace-victim";
      timeUs: number;
      pid: number;
      comm: string | null;
      uid: number | null;
      totalVm: number | null;
      anonRss: number | null;
      fileRss: number | null;
      shmemRss: number | null;
      pgtables: number | null;
      oomScoreAdj: number | null;
      by: { pid: number; comm: string | null };
    }
  /** The trace's buffer overran: so many events are missing. */
  | { type: "trace-lost"; events: number }
  | {
      type: "step";
      index: number;
      do: string;
      status: "done" | "failed" | "timeout";
      detail: string | null;
      ms: number;
    }
  /** The OOM killer came for a cgroup: on v2 memory.events changed, on v1 `count` notifications by its eventfd. */
  | { type: "oom-event"; cgroup: string; file: string; count: number }
  /** Userspace OOM killers on this machine, as found when the run ended. `unit`: the systemd unit that one runs in. */
  | { type: "oom-killers"; running: { name: string; pid: number; unit: string | null }[] }
  /** A line about a kill that a userspace OOM killer wrote to the journal during the run. `us`: CLOCK_REALTIME. */
  | { type: "oom-killer-log"; killer: string; pid: number | null; us: number; text: string }
  /** The journal was searched for such lines; `problem`: why some of them may be missing, null if none is. */
  | { type: "journal"; problem: string | null; hint: string | null }
  /** The extended attributes by which oomd and systemd-oomd mark what they kill, of the run's cgroups and those above. `top`: the run's own cgroup, below the hierarchy's mount point. */
  | {
      type: "oomd-marks";
      moment: "before" | "end";
      top: string;
      marks: { path: string; name: string; count: number }[];
    }
  | KubeletEvent
  | { type: "timeout"; ms: number }
  | { type: "interrupted"; reason: string }
  | { type: "error"; code: string; message: string; hint: string | null }
  | { type: "end"; durationMs: number };

/** One line of a record. `t`: microseconds since the record began. */
export type RunEvent = { line: number; t: number } & RunEventBody;

/** Takes what happens, the moment it happens. */
export type Emit = (event: RunEventBody) => void;

export type EventOf<T extends RunEventBody["type"]> = Extract<RunEvent, { type: T }>;

/** The events of one type, in order. */
export function eventsOf<T extends RunEventBody["type"]>(events: readonly RunEvent[], type: T): EventOf<T>[] {
  return events.filter((event): event is EventOf<T> => event.type === type);
}

/** Splits NDJSON text (one record, or several behind each other) into records. Throws OomlabError with `file:line`. */
export function parseRecords(text: string, file: string): RunEvent[][] {
  const records: RunEvent[][] = [];
  const lines = text.split("\n");
  for (const [index, line] of lines.entries()) {
    if (line.trim() === "") continue;
    const where = `${file}:${index + 1}`;
    let event: RunEvent;
    try {
      event = JSON.parse(line) as RunEvent;
    } catch {
      // A run that was killed may leave half a last line; what stands before it still counts.
      if (index === lines.length - 1 && records.length > 0) break;
      throw notARecord(`${where}: expected a JSON object a line, got ${JSON.stringify(line.slice(0, 60))}`);
    }
    if (
      typeof event !== "object" ||
      event === null ||
      typeof event.type !== "string" ||
      typeof event.line !== "number"
    ) {
      throw notARecord(`${where}: expected an event with "type" and "line", got ${line.slice(0, 60)}`);
    }
    if (event.type === "run") {
      if (event.schemaVersion !== recordSchemaVersion) {
        throw notARecord(
          `${where}: expected a record of schemaVersion ${recordSchemaVersion}, got ${String(event.schemaVersion)}`,
        );
      }
      records.push([]);
    }
    const record = records.at(-1);
    if (!record)
      throw notARecord(`${where}: expected the record's first event to be of type "run", got "${event.type}"`);
    record.push(event);
  }
  if (records.length === 0) throw notARecord(`${file}: the file holds no record`);
  return records;
}

const notARecord = (message: string): OomlabError =>
  new OomlabError("BAD_RECORD", message, {
    exitCode: 2,
    hint: "records are the .ndjson files that `oomlab run --output DIR` writes",
  });
