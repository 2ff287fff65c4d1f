/** Why each process of a record ended: what the record says, brought to `cause/`. Pure. */
import { type Cause, causeOf, type Death, type Evidence, type TracedSignal } from "../cause/index.ts";
import type { PlannedProcess } from "../plan.ts";
import { type EventOf, eventsOf } from "../record.ts";
import { formatBytes } from "../units.ts";
import type { Kill } from "../verdict.ts";
import { endedByUs, type OtherEnds } from "./ends.ts";
import { evictionsOf } from "./evictions.ts";
import { type Facts, outputOf, reportsOf } from "./facts.ts";
import type { OomKills } from "./kills.ts";

export type Causes = ReadonlyMap<string, Cause<Kill>>;

/** By the scenario's names; one for each process of the plan. */
export function causesOf(facts: Facts, found: OomKills, others: OtherEnds): Causes {
  return new Map(facts.plan.processes.map((process) => [process.name, causeOfProcess(facts, found, others, process)]));
}

/** Suspicions that the trace does not confirm are none: it names the sender. */
export function confirmed(facts: Facts, others: OtherEnds): OtherEnds {
  return new Map(
    [...others].filter(([name, { sender, exit }]) => {
      if (sender.confidence === "proven" || exit === undefined) return true;
      const { signals } = tracedSignals(facts, name, exit.pid);
      const traced = signals?.find(({ pid, signal }) => pid === exit.pid && signal === exit.signal);
      return traced === undefined || sender.by.split(" or ").includes(traced.sender.comm ?? "");
    }),
  );
}

function causeOfProcess(facts: Facts, found: OomKills, others: OtherEnds, process: PlannedProcess): Cause<Kill> {
  const { name } = process;
  const exit = facts.exits.get(name);
  if (!exit) return open(facts, name);
  const { signals, untraced } = tracedSignals(facts, name, exit.pid);
  const sent = endedByUs(facts, exit);
  const other = others.get(name);
  const death: Death<Kill> = {
    name,
    pid: victimPid(facts, found, name) ?? exit.pid,
    exit: { code: exit.code, signal: exit.signal, at: isoTime(facts, exit.t) },
    kills: found.kills
      .filter((kill) => kill.process === name)
      .map((kill) => ({ kill, evidence: killEvidence(facts, kill) })),
    signals,
    untraced,
    own: sent === undefined ? null : { signal: sent.signal, why: sent.why, at: isoTime(facts, sent.t) },
    eviction: evictionOf(facts, name, exit),
    oomKiller: other ? { ...other.sender, evidence: otherEvidence(facts, other.sender.evidence) } : null,
    output: outputOf(facts, name)
      .map(({ text }) => text)
      .join(""),
    refused: refusal(facts, name),
    rlimits: process.rlimits
      .filter(({ resource }) => memoryLimits.has(resource))
      .map(({ resource, value }) => `RLIMIT_${resource} ${formatBytes(value)}`),
    limits: limitsOf(facts),
    noKill:
      facts.logComplete && found.counted === 0
        ? { source: "counters", at: null, text: "the cgroups counted no OOM kill" }
        : null,
    namelessKill: namelessKill(facts, found),
  };
  return causeOf(death);
}

/** Kills that the counters show and that no kill accounts for, where only one process can have been hit or be its parent. */
function namelessKill({ plan }: Facts, { kills, counted }: OomKills): Death<Kill>["namelessKill"] {
  if (plan.processes.length !== 1 || counted === null || counted <= kills.length) return null;
  return { source: "counters", at: null, text: `oom_kill grew by ${counted}, and ${kills.length} kill(s) are known` };
}

/** Limits of setrlimit(2) that make an allocation fail. */
const memoryLimits: ReadonlySet<string> = new Set(["AS", "DATA", "MEMLOCK", "RSS", "STACK"]);

/** Of the cgroups that have one, as it was at the end. */
function limitsOf({ final }: Facts): Record<string, number> {
  const limits: Record<string, number> = {};
  for (const [cgroup, { counters }] of final) {
    const limit = counters["memory.max"];
    // What v1 calls unlimited is the largest number of whole pages.
    if (typeof limit === "number" && limit < 2 ** 60) limits[cgroup] = limit;
  }
  return limits;
}

/** A process whose end is not in the record. */
function open({ events, whole }: Facts, name: string): Cause<Kill> {
  const started = eventsOf(events, "process-start").some(({ process }) => process === name);
  return {
    cause: "unknown",
    by: null,
    kill: null,
    sentence: started
      ? `how ${name} ended is not in the record${whole ? "" : ", which breaks off"}`
      : `${name} was never started`,
    advice: [],
    confidence: "unknown",
    evidence: [],
    missing: started ? ["exit: its status"] : [],
  };
}

/** In a pid namespace of our own the log names a process by another number: that of its kill. */
function victimPid(facts: Facts, { kills }: OomKills, name: string): number | null {
  if (!facts.privatePids) return null;
  const kill = kills.find(({ process, witnesses }) => process === name && witnesses.includes("exit"));
  return kill?.victim.pid ?? null;
}

/** The signals that reached it or a child of it. */
function tracedSignals(
  facts: Facts,
  name: string,
  own: number,
): { signals: (TracedSignal & { pid: number })[] | null; untraced: string | null } {
  const { events, pids, privatePids } = facts;
  const begun = eventsOf(events, "trace")[0];
  if (!begun) return { signals: null, untraced: "the record has no trace of signals" };
  if (begun.problem !== null) return { signals: null, untraced: begun.problem };
  if (privatePids)
    return { signals: null, untraced: "the trace numbers processes as the host does, not this pid namespace" };
  const victims = new Set(eventsOf(events, "trace-victim").map(({ pid }) => pid));
  const signals = eventsOf(events, "trace-signal").flatMap((event) => {
    const { pid, signal, code, toProcess, sender, result } = event;
    if ((pid !== own && pids.get(pid) !== name) || (result !== null && result !== 0)) return [];
    const victim = code === 128 && victims.has(pid);
    return [{ pid, signal, code, toProcess, sender, victim, at: isoTime(facts, event.t) }];
  });
  const lost = eventsOf(events, "trace-lost").reduce((sum, { events: count }) => sum + count, 0);
  if (lost > 0 && signals.length === 0) return { signals: null, untraced: `${lost} traced signals were lost` };
  return { signals, untraced: "no such signal was traced" };
}

function killEvidence(facts: Facts, kill: Kill): Evidence[] {
  const cited = new Set(kill.evidence);
  const evidence: Evidence[] = [];
  for (const event of facts.events) {
    const at = isoTime(facts, event.t);
    if (event.type === "kmsg" && cited.has(event.line) && /oom-kill:constraint|Killed process \d+/.test(event.text))
      evidence.push({ source: "kernel-log", at, text: event.text });
    else if (event.type === "trace-victim" && event.pid === kill.victim.pid)
      evidence.push({ source: "trace", at, text: `oom:mark_victim names pid ${event.pid}` });
    else if (event.type === "counters" && cited.has(event.line))
      evidence.push({ source: "counters", at, text: `oom_kill of ${event.cgroup || "the run's cgroup"} grew` });
  }
  return evidence;
}

/** A killer's own lines, and its marks. */
const otherEvidence = (facts: Facts, lines: readonly number[]): Evidence[] =>
  facts.events
    .filter(({ line }) => lines.includes(line))
    .flatMap((event): Evidence[] => {
      const at = isoTime(facts, event.t);
      if (event.type === "oom-killer-log") return [{ source: "journal", at, text: event.text }];
      if (event.type === "kmsg") return [{ source: "kernel-log", at, text: event.text }];
      if (event.type === "oomd-marks")
        return [{ source: "counters", at, text: "the killer's mark on the cgroup was counted up" }];
      return [];
    });

function evictionOf(facts: Facts, name: string, exit: EventOf<"process-exit">): Death["eviction"] {
  const pod = facts.plan.pods?.containers.find((container) => container.name === name)?.pod;
  if (pod === undefined) return null;
  const event = eventsOf(facts.events, "kubelet").find((one) => one.did === "evict" && one.eviction.pod === pod);
  if (!event || event.line > exit.line) return null;
  const words = evictionsOf(facts.events).find((eviction) => eviction.pod === pod)?.message ?? "";
  return { words, at: isoTime(facts, event.t) };
}

/** What a worker of ours said of an allocation that failed. */
function refusal(facts: Facts, name: string): string | null {
  for (const { report } of reportsOf(facts, name))
    if (report.type === "error" && report.errno === "ENOMEM") return `${report.op} failed: ENOMEM`;
  return null;
}

/** `t`: microseconds since the record began. */
function isoTime({ run }: Facts, t: number): string | null {
  const began = Date.parse(run.startedAt);
  return Number.isNaN(began) ? null : new Date(began + Math.round((t - run.t) / 1000)).toISOString();
}
