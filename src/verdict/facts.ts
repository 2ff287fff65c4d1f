/** What a record says, by what it is of and before anything is judged. Pure. */
import type { Capabilities, Plan } from "../plan.ts";
import { type EventOf, eventsOf, type RunEvent, type WorkerReport } from "../record.ts";
import { type CgroupNames, cgroupNames } from "./cgroups.ts";

/** Processes and cgroups are keyed by the scenario's names; lines are those of the record. */
export interface Facts {
  run: EventOf<"run">;
  /** The plan that was run, which the machine's MemTotal may have changed. */
  plan: Plan;
  /** What was found of the machine that it ran on; null where nothing was. */
  capabilities: Capabilities | null;
  cgroups: CgroupNames;
  events: readonly RunEvent[];
  kmsg: readonly EventOf<"kmsg">[];
  /** How each process ended. */
  exits: ReadonlyMap<string, EventOf<"process-exit">>;
  /** pid -> process, workers and children included. */
  pids: ReadonlyMap<number, string>;
  /** In a private pid namespace the kernel's log numbers processes otherwise than we do. */
  privatePids: boolean;
  /** The signals that we sent ourselves. */
  sent: readonly EventOf<"kill">[];
  /** The counters of each cgroup before any process was started, and at the end. */
  first: ReadonlyMap<string, EventOf<"counters">>;
  final: ReadonlyMap<string, EventOf<"counters">>;
  /** The record reaches to the run's end: what is not in it did not happen. */
  whole: boolean;
  /** Where the kernel's log was read from; null: records of old, /dev/kmsg. */
  kernelLog: EventOf<"kernel-log"> | null;
  /** Kernel log complete over the run. */
  logComplete: boolean;
  /** Lines of the record that say that records of the kernel's log were lost. */
  gaps: number[];
}

/** `run`: the first event of `events`, the whole record. */
export function factsOf(run: EventOf<"run">, events: readonly RunEvent[]): Facts {
  const relaid = eventsOf(events, "node")[0]?.plan;
  // The file is the host's, whatever it is called in a guest.
  const plan = relaid ? { ...relaid, file: run.plan.file } : run.plan;
  const capabilities = eventsOf(events, "machine")[0]?.capabilities ?? run.capabilities;
  const gaps = eventsOf(events, "kmsg-lost").map(({ line }) => line);
  const whole = eventsOf(events, "end").length > 0;
  const kernelLog = eventsOf(events, "kernel-log")[0] ?? null;
  return {
    run,
    plan,
    capabilities,
    cgroups: cgroupNames(plan),
    events,
    kmsg: eventsOf(events, "kmsg"),
    exits: new Map(eventsOf(events, "process-exit").map((event) => [event.process, event])),
    pids: pidsOf(plan, events),
    privatePids: capabilities?.initPidNamespace === false,
    sent: eventsOf(events, "kill"),
    ...countersOf(events),
    whole,
    kernelLog,
    logComplete: gaps.length === 0 && whole && !isClosed(kernelLog),
    gaps,
  };
}

const isClosed = (log: EventOf<"kernel-log"> | null): boolean => log !== null && log.source === null;

/** Whether the kernel's log could not be read: kills rest on the counters and the ends of processes. */
export const isLogClosed = ({ kernelLog }: Facts): boolean => isClosed(kernelLog);

/** Why the kernel's log was not readable, and what opens it. */
export function closedLogWords({ kernelLog }: Facts): string {
  const { problem = null, hint = null } = kernelLog ?? {};
  return `the kernel log was not readable${problem === null ? "" : ` (${problem})`}${hint === null ? "" : `; to read it: ${hint}`}`;
}

function countersOf(events: readonly RunEvent[]): Pick<Facts, "first" | "final"> {
  const first = new Map<string, EventOf<"counters">>();
  const final = new Map<string, EventOf<"counters">>();
  for (const event of eventsOf(events, "counters")) {
    if (event.moment === "before") first.set(event.cgroup, event);
    // The watchdog's own kills come after "settled"; a counter that "end" adds was the kernel's all the same.
    if (event.moment === "settled" || event.moment === "end") final.set(event.cgroup, event);
  }
  return { first, final };
}

function pidsOf(plan: Plan, events: readonly RunEvent[]): Map<number, string> {
  const pids = new Map<number, string>();
  /** What a process forked is that process's, by its parents; else that of the only process in its cgroup. */
  const adopt = (pid: number, parent: number | null, cgroup: string): void => {
    if (pids.has(pid)) return;
    const inside = plan.processes.filter((process) => process.cgroup === cgroup);
    const owner =
      (parent === null ? undefined : pids.get(parent)) ?? (inside.length === 1 ? inside[0]?.name : undefined);
    if (owner !== undefined) pids.set(pid, owner);
  };
  for (const event of events) {
    if (event.type === "process-start") pids.set(event.pid, event.process);
    else if (event.type === "worker") {
      pids.set(event.report.pid, event.process);
      if (event.report.type === "child-end") pids.set(event.report.child, event.process);
    } else if (event.type === "procs") {
      for (const { pid, parent } of event.processes) adopt(pid, parent, event.cgroup);
    }
  }
  return pids;
}

/** The signal of ours that ended a process: sent before its end, and the one it died of. */
export function ourSignal({ sent }: Facts, exit: EventOf<"process-exit"> | undefined): EventOf<"kill"> | undefined {
  return exit && sent.find(({ pid, signal, line }) => pid === exit.pid && signal === exit.signal && line < exit.line);
}

/** What a process's workers said of themselves. */
export const reportsOf = ({ events }: Facts, process: string): { line: number; report: WorkerReport }[] =>
  eventsOf(events, "worker").filter((event) => event.process === process);

/** What a process wrote. */
export const outputOf = ({ events }: Facts, name: string): EventOf<"output">[] =>
  eventsOf(events, "output").filter(({ process }) => process === name);

/** What a process wrote last, in one line. */
export function lastWordsOf(facts: Facts, name: string): string {
  const words = outputOf(facts, name)
    .map(({ text }) => text)
    .join("")
    .replace(/\s+/g, " ")
    .trim();
  return words.length <= 200 ? words : `...${words.slice(-200)}`;
}

/** How a process ended, in words. */
export const describeExit = (exit: { code: number | null; signal: string | null } | undefined): string =>
  exit === undefined ? "nothing" : (exit.signal ?? `status ${exit.code}`);
