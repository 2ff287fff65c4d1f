/**
 * judge(record) -> verdict. Pure. The kernel log, the counters and the exit statuses are three witnesses, a trace of signals
 * a fourth: two must agree on a kill and none may contradict; every check cites lines of the record.
 */
import type { Cause } from "./cause/index.ts";
import type { OomKill } from "./kmsg/index.ts";
import type { Plan } from "./plan.ts";
import { eventsOf, type RunEvent } from "./record.ts";
import { causesOf, confirmed } from "./verdict/causes.ts";
import { otherEndsOf } from "./verdict/ends.ts";
import type { EvictionSeen } from "./verdict/evictions.ts";
import { expectationChecks } from "./verdict/expectations.ts";
import { type Facts, factsOf } from "./verdict/facts.ts";
import { oomKillsOf } from "./verdict/kills.ts";
import { notesOf } from "./verdict/notes.ts";
import { observedOf } from "./verdict/observed.ts";
import type { ContainerStatus } from "./verdict/statuses.ts";
import { workloadChecks } from "./verdict/workloads.ts";

export type Status = "passed" | "failed" | "inconclusive" | "skipped" | "errored";
export type Kind = "memcg" | "global" | "cpuset" | "mempolicy" | "none" | "unknown";
export type Witness = "kmsg" | "counters" | "exit" | "trace";

/** One thing that was expected, what came, and the lines of the record that show it. */
export interface Check {
  name: string;
  expected: unknown;
  actual: unknown;
  status: "passed" | "failed" | "inconclusive";
  evidence: number[];
  /** Why, where expected and actual do not say it. */
  note?: string;
}

/** Who was killed, as the kernel's log has it; without a log its pid at most is known. */
export type Victim = Omit<OomKill["victim"], "pid" | "comm"> & { pid: number | null; comm: string | null };

/** Sizes in bytes; null: nobody observed it. */
export interface Kill {
  kind: Kind;
  constraint: string | null;
  trigger: string;
  oomMemcg: string | null;
  taskMemcg: string | null;
  group: boolean;
  /** The scenario's name of the cgroup whose limit was hit. */
  limit: string | null;
  process: string | null;
  witnesses: Witness[];
  victim: Victim;
  /** Milliseconds from the start of the first process, as read: up to one sample (50 ms) late. */
  atMs: number | null;
  /** Records of the report that are missing. */
  missing: string[];
  evidence: number[];
}

export interface Observed {
  oom: Kind;
  kills: Kill[];
  /** Null: the kernel's log was not readable. */
  foreignKills: Kill[] | null;
  processes: Record<
    string,
    {
      exit: { code: number | null; signal: string | null } | null;
      maxRss: number | null;
      touched: number | null;
      cause: Cause<Kill>;
    }
  >;
  cgroups: Record<string, Record<string, unknown>>;
  /** With a kubelet only. */
  evictions?: EvictionSeen[];
  /** With Pods: what kubectl would show of each container, next to what became of it. */
  containerStatuses?: ContainerStatus[];
  /** With Pods: the node's memory as stated, and the MemTotal that the kubelet's files were computed from. */
  node?: { memory: number | null; memTotal: number };
}

export interface Verdict {
  name: string;
  file: string;
  machine: string;
  cgroupVersion: 1 | 2;
  kernel: string | null;
  status: Status;
  reason: string | null;
  durationMs: number | null;
  checks: Check[];
  observed: Observed | null;
  /** The kernel's own records of the run, as dmesg prints them. */
  kernelLog: string[];
  /** Things worth knowing that decide nothing. */
  notes: string[];
}

/** Judges a record. Never throws on a record that parseRecords accepted. */
export function judge(events: readonly RunEvent[]): Verdict {
  const run = eventsOf(events, "run")[0];
  if (!run) throw new TypeError("a record begins with an event of type run");
  if (run.plan.skip !== null)
    return skippedVerdict(run.plan, run.plan.machine === "host" ? (run.capabilities?.kernel ?? null) : null);
  const facts = factsOf(run, events);
  const found = oomKillsOf(facts);
  const others = confirmed(facts, otherEndsOf(facts, found));
  const causes = causesOf(facts, found, others);
  const workloads = workloadChecks(facts, found.kills, others, causes);
  const unreached = workloads.some(({ status }) => status === "inconclusive");
  const checks = [...expectationChecks(facts, found, others, unreached), ...found.doubts, ...workloads];
  const notes = notesOf(facts, found, { others, causes });
  const base = {
    ...identity(facts.plan, kernelOf(facts)),
    durationMs: eventsOf(events, "end")[0]?.durationMs ?? null,
    kernelLog: found.log.map(
      ({ timeUs, text }) => `${timeUs === null ? "" : `[${(timeUs / 1e6).toFixed(6).padStart(12)}] `}${text}`,
    ),
  };
  const unmet = eventsOf(events, "unmet")[0];
  if (unmet) return { ...base, status: "skipped", reason: unmet.reason, checks: [], observed: null, notes };
  return { ...base, ...outcomeOf(facts, checks), checks, observed: observedOf(facts, found, causes), notes };
}

/** A verdict for a plan that was not run. */
function skippedVerdict(plan: Plan, kernel: string | null): Verdict {
  return {
    ...identity(plan, kernel),
    status: "skipped",
    reason: plan.skip,
    durationMs: 0,
    checks: [],
    observed: null,
    kernelLog: [],
    notes: [],
  };
}

const identity = (
  plan: Plan,
  kernel: string | null,
): Pick<Verdict, "name" | "file" | "machine" | "cgroupVersion" | "kernel"> => ({
  name: plan.name,
  file: plan.file,
  machine: plan.machine,
  cgroupVersion: plan.cgroupVersion,
  kernel,
});

/** A machine of its own says which kernel it runs; until it does, nobody has seen it. */
function kernelOf({ events, plan, run }: Facts): string | null {
  const machine = eventsOf(events, "machine")[0];
  if (machine) return machine.capabilities.kernel;
  return plan.machine === "host" ? (run.capabilities?.kernel ?? null) : null;
}

/** What went wrong with the run itself comes before what it shows. */
function outcomeOf({ events, whole }: Facts, checks: readonly Check[]): Pick<Verdict, "status" | "reason"> {
  const error = eventsOf(events, "error")[0];
  if (error)
    return {
      status: "errored",
      reason: error.hint === null ? error.message : `${error.message}: ${error.hint}`,
    };
  const interrupted = eventsOf(events, "interrupted")[0];
  if (interrupted) return { status: "errored", reason: `interrupted (${interrupted.reason}) before it ended` };
  if (!whole) return { status: "errored", reason: "the record breaks off before the run's end" };
  const failed = checks.find((check) => check.status === "failed");
  if (failed) return { status: "failed", reason: sentence(failed) };
  const unproven = checks.filter((check) => check.status === "inconclusive");
  // That a worker gave up is why the others are open.
  const open = unproven.find(({ name }) => name.startsWith("workload.")) ?? unproven[0];
  if (open) return { status: "inconclusive", reason: sentence(open) };
  return { status: "passed", reason: null };
}

/** A check as one sentence. */
function sentence({ name, expected, actual, note }: Check): string {
  const show = (value: unknown): string =>
    value === null
      ? "nothing"
      : typeof value === "string"
        ? value
        : Array.isArray(value) && value.length === 0
          ? "none"
          : JSON.stringify(value);
  return `${name}: expected ${show(expected)}, got ${show(actual)}${note === undefined ? "" : ` (${note})`}`;
}
