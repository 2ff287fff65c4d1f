/** What became of one point, told by a run's verdict or by the model in the same words. Pure. */
import { eventsOf, type RunEvent } from "../record.ts";
import type { Kind, Verdict } from "../verdict.ts";
import { evictionEnds } from "../verdict/evictions.ts";

/** A process that memory ended: by somebody else, or because it gave up. */
export interface End {
  /** The kubelet's eviction, the kind of OOM kill, or why it gave up. */
  by: "eviction" | Exclude<Kind, "none"> | GaveUp;
  process: string;
  /** Milliseconds from the start of the first process. */
  atMs: number;
  /** The cgroup whose limit was hit; null: none was. */
  limit: string | null;
}

/** What ends a process that no OOM kill and no eviction ended, and that the run did not end: it does not live. */
type GaveUp = "heap-limit" | "enomem" | "userspace-oom" | "signal" | "exit";

const gaveUp: ReadonlySet<string> = new Set<GaveUp>(["heap-limit", "enomem", "userspace-oom", "signal", "exit"]);

export interface Outcome {
  /** In the order of time. */
  ends: End[];
  /** The Pods that the kubelet decided to evict, in its order. */
  evicted: string[];
  /** What the kubelet saw at its polls. */
  polls: Poll[];
  /** memory.available between them: of a run from kubepods' own usage, of the model as it reckons. */
  course: Poll[];
  /** Below so many bytes of memory.available the kubelet evicts at once; null: no such threshold. */
  threshold: number | null;
  /** Why there is no outcome; ends and evictions say then what there was of one. */
  problem: string | null;
}

export interface Poll {
  /** Milliseconds from the start of the first process. */
  atMs: number;
  /** memory.available in bytes. */
  available: number;
}

/** An outcome in a word or two: `lives`, `eviction`, `global`, `eviction, global`, `unknown`. */
export function outcomeWord({ ends, evicted, problem }: Outcome): string {
  if (problem !== null) return "unknown";
  const ways = [...new Set(ends.map(({ by }) => by))];
  return ways.length > 0 ? ways.join(", ") : evicted.length > 0 ? "eviction" : "lives";
}

/** What a run's verdict says of it. */
export function outcomeOf(verdict: Verdict, events: readonly RunEvent[]): Outcome {
  const began = eventsOf(events, "process-start")[0]?.t ?? 0;
  const ms = (t: number): number => Math.max(0, Math.round((t - began) / 1000));
  const { observed, status, reason } = verdict;
  const kills = observed?.kills ?? [];
  const byKernel = kills.map(({ kind, process, victim, atMs, limit }): End => ({
    by: kind === "none" ? "unknown" : kind,
    process: process ?? victim.comm ?? `pid ${victim.pid}`,
    atMs: atMs ?? Number.POSITIVE_INFINITY,
    limit,
  }));
  const byKubelet = evictionEnds(events, kills).map(({ process, t }): End => ({
    by: "eviction",
    process: process ?? "",
    atMs: ms(t),
    limit: null,
  }));
  const exits = new Map(eventsOf(events, "process-exit").map((event) => [event.process, event.t]));
  const byItself = Object.entries(observed?.processes ?? {}).flatMap(([process, { exit, cause }]): End[] =>
    isGaveUp(cause.cause) && exit?.code !== 0 && cause.by?.kind !== "oomlab"
      ? [{ by: cause.cause, process, atMs: ms(exits.get(process) ?? Number.POSITIVE_INFINITY), limit: null }]
      : [],
  );
  const start = eventsOf(events, "kubelet").find(({ did }) => did === "start");
  const thresholds = start?.did === "start" ? start.thresholds : [];
  const polls = eventsOf(events, "kubelet").flatMap((event): Poll[] => {
    if (event.did !== "pass") return [];
    const node = event.signals.find(({ signal }) => signal === "memory.available");
    return node ? [{ atMs: Math.round((event.t - began) / 1000), available: node.available }] : [];
  });
  return {
    ends: [...byKernel, ...byKubelet, ...byItself].toSorted((a, b) => a.atMs - b.atMs),
    evicted: (observed?.evictions ?? []).map(({ pod }) => pod),
    polls,
    course: courseOf(events, polls[0]?.available ?? null, began),
    threshold:
      thresholds.find(({ signal, gracePeriodMs }) => signal === "memory.available" && gracePeriodMs === 0)?.bytes ??
      null,
    problem: status === "passed" || status === "failed" ? null : (reason ?? status),
  };
}

const isGaveUp = (cause: string): cause is GaveUp => gaveUp.has(cause);

/** So many points draw a line. */
const mostOfCourse = 120;

/** What kubepods' cgroup took away of what was there before, sample by sample. */
function courseOf(events: readonly RunEvent[], before: number | null, began: number): Poll[] {
  const plan = eventsOf(events, "node")[0]?.plan ?? eventsOf(events, "run")[0]?.plan;
  const { kubepods } = plan?.kubelet ?? {};
  if (before === null || kubepods === undefined) return [];
  const samples = eventsOf(events, "counters").flatMap(({ cgroup, counters, t }): Poll[] => {
    const current = counters["memory.current"];
    if (cgroup !== kubepods || typeof current !== "number" || t < began) return [];
    return [{ atMs: Math.round((t - began) / 1000), available: Math.max(0, before - current) }];
  });
  const step = Math.max(1, Math.ceil(samples.length / mostOfCourse));
  return samples.filter((_, index) => index % step === 0 || index === samples.length - 1);
}
