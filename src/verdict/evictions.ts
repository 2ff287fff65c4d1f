/** What the kubelet did in a run, told from its own lines of the record. Pure. */
import type { RankedPod } from "../kubernetes/eviction.ts";
import { type EventOf, eventsOf, type RunEvent } from "../record.ts";
import { formatBytes } from "../units.ts";

/** One Pod that the kubelet evicted. Sizes in bytes; null: it was evicted for a volume, not for the node's memory. */
export interface EvictionSeen {
  pod: string;
  /** status.message. */
  message: string;
  /** Milliseconds from the start of the first process to the kubelet's decision. */
  atMs: number;
  available: number | null;
  threshold: number | null;
  /** Its place in the order of eviction, from 1, spared Pods counted in. */
  rank: number | null;
  evidence: number[];
}

/** An end that the kernel's OOM killer made, as far as this module needs it. */
export interface KillSeen {
  /** Microseconds since the record began, of its first line in the log. */
  t: number | null;
  evidence: number[];
}

type KubeletEvent = EventOf<"kubelet">;

const isEvict = (event: KubeletEvent): event is Extract<KubeletEvent, { did: "evict" }> => event.did === "evict";

const isPass = (event: KubeletEvent): event is Extract<KubeletEvent, { did: "pass" }> => event.did === "pass";

/** Every eviction, in the order of the kubelet's decisions. */
export function evictionsOf(events: readonly RunEvent[]): EvictionSeen[] {
  const start = eventsOf(events, "process-start")[0];
  return eventsOf(events, "kubelet")
    .filter(isEvict)
    .map(({ eviction, t, line }) => ({
      pod: eviction.pod,
      message: eviction.message,
      atMs: Math.max(0, Math.round((t - (start?.t ?? 0)) / 1000)),
      available: eviction.available,
      threshold: eviction.threshold,
      rank: eviction.rank,
      evidence: [line],
    }));
}

/** A check of the verdict, without the status `inconclusive` decided elsewhere. */
export interface EvictionCheck {
  name: string;
  expected: unknown;
  actual: unknown;
  status: "passed" | "failed" | "inconclusive";
  evidence: number[];
  note?: string;
}

/** The kubelet's record is whole when it started and the run came to its end: then what it does not tell did not happen. */
function kubeletLines(events: readonly RunEvent[]): { whole: boolean; lines: number[] } {
  const told = eventsOf(events, "kubelet");
  const passes = told.filter(({ did }) => did === "pass" || did === "start").map(({ line }) => line);
  return { whole: passes.length > 0 && eventsOf(events, "end").length > 0, lines: passes };
}

/** `evicted`: exactly these Pods, in whatever order. */
export function evictedCheck(expected: readonly string[], events: readonly RunEvent[]): EvictionCheck {
  const evictions = evictionsOf(events);
  const actual = [...new Set(evictions.map(({ pod }) => pod))];
  const right = actual.length === expected.length && expected.every((pod) => actual.includes(pod));
  const extra = actual.some((pod) => !expected.includes(pod));
  const { whole, lines } = kubeletLines(events);
  return {
    name: "evicted",
    expected: [...expected],
    actual,
    status: right && (whole || actual.length > 0) ? "passed" : extra || whole ? "failed" : "inconclusive",
    evidence: evictions.length > 0 ? evictions.flatMap(({ evidence }) => evidence) : lines,
    ...(whole ? {} : { note: "the kubelet's record is not whole" }),
  };
}

/**
 * `first`: what ended the first process. An eviction counts from the moment its first process ended by it, so that a
 * Pod which the kernel kills within its grace was ended by the kernel. `others`: ends that another OOM killer made.
 */
export function firstCheck(
  expected: "oom" | "eviction",
  events: readonly RunEvent[],
  kills: readonly KillSeen[],
  others: readonly (KillSeen & { by: string })[] = [],
): EvictionCheck {
  const killsInTime = kills.filter((kill): kill is KillSeen & { t: number } => kill.t !== null);
  const oom = killsInTime.toSorted((a, b) => a.t - b.t)[0];
  const eviction = firstEviction(events, killsInTime);
  const actual =
    oom === undefined && eviction === null
      ? null
      : eviction === null || (oom !== undefined && oom.t <= eviction.t)
        ? "oom"
        : "eviction";
  const { whole, lines } = kubeletLines(events);
  const undated = kills.length > killsInTime.length;
  const other = others.toSorted((a, b) => (a.t ?? 0) - (b.t ?? 0))[0];
  const first = Math.min(oom?.t ?? Number.POSITIVE_INFINITY, eviction?.t ?? Number.POSITIVE_INFINITY);
  if (other && (other.t ?? 0) < first)
    return { name: "first", expected, actual: other.by, status: "inconclusive", evidence: other.evidence };
  const evidence = [...(oom?.evidence ?? []), ...(eviction?.evidence ?? [])];
  return {
    name: "first",
    expected,
    actual,
    status: undated || (actual === null && !whole) ? "inconclusive" : actual === expected ? "passed" : "failed",
    evidence: evidence.length > 0 ? evidence : lines,
    ...(actual === null ? { note: "no process was killed or evicted" } : {}),
  };
}

/** When the first process ended by a signal that the kubelet sent to evict its Pod. */
const firstEviction = (events: readonly RunEvent[], kills: readonly KillSeen[]): EvictionEnd | null =>
  evictionEnds(events, kills).toSorted((a, b) => a.t - b.t)[0] ?? null;

/** A process that the kubelet's signal ended. */
export interface EvictionEnd {
  process: string | null;
  /** Microseconds since the record began. */
  t: number;
  evidence: number[];
}

/** Every process that ended by a signal which the kubelet sent to evict its Pod. */
export function evictionEnds(events: readonly RunEvent[], kills: readonly Pick<KillSeen, "evidence">[]): EvictionEnd[] {
  const killed = new Set(kills.flatMap(({ evidence }) => evidence));
  const exits = eventsOf(events, "process-exit");
  return eventsOf(events, "kill").flatMap((sent) => {
    if (sent.why !== "eviction") return [];
    const { process } = sent;
    const exit = exits.find(({ pid, line }) => pid === sent.pid && line > sent.line);
    if (!exit) return [{ process, t: sent.t, evidence: [sent.line] }];
    // Killed by the kernel within its grace: that was its end.
    return killed.has(exit.line) ? [] : [{ process, t: exit.t, evidence: [sent.line, exit.line] }];
  });
}

/** The Pod of a container's process, which is named `pod/container`; of another process its own name. */
const podOf = (process: string): string => process.slice(0, Math.max(0, process.lastIndexOf("/"))) || process;

/** Why the kubelet and the kernel do not choose alike, where they did not. */
export function orderNotes(
  events: readonly RunEvent[],
  kills: readonly { process: string | null; line: number }[],
): string[] {
  const passes = eventsOf(events, "kubelet").filter(isPass);
  const notes: string[] = [];
  for (const event of eventsOf(events, "kubelet").filter(isEvict)) {
    const pass = passes.findLast(({ line }) => line < event.line);
    const { pod, rank } = event.eviction;
    if (!pass || rank === null) continue;
    // Whom the kernel had just killed nobody chose any more.
    if (kills.some(({ process, line }) => process !== null && podOf(process) === pod && line < event.line)) continue;
    const place = pass.ranking.find((ranked) => ranked.pod === pod);
    const [top] = Object.entries(pass.oomScores).toSorted(([, a], [, b]) => b - a);
    if (!place || !top || podOf(top[0]) === pod) continue;
    const own = Object.entries(pass.oomScores).filter(([process]) => podOf(process) === pod);
    const spared = pass.ranking.slice(0, rank - 1).map((ranked) => ranked.pod);
    notes.push(
      `the kubelet evicted ${pod} (${placeWords(place)}${spared.length > 0 ? `; ${spared.join(", ")} before it: spared` : ""}); the OOM killer would have taken ${top[0]} (oom_score ${top[1]}${own.map(([process, score]) => `, ${process} ${score}`).join("")})`,
    );
  }
  const [kill] = kills;
  const pass = kill && passes.findLast(({ line }) => line < kill.line);
  const next = pass?.ranking.find(({ spared }) => !spared);
  if (kill && pass && next && kill.process !== null && podOf(kill.process) !== next.pod) {
    const victim = podOf(kill.process);
    const own = pass.ranking.find(({ pod }) => pod === victim);
    notes.push(
      `the kernel killed ${kill.process}; by what the kubelet knew at its last pass it would have evicted ${next.pod} (${placeWords(next)}${own ? `; ${own.pod}: ${placeWords(own)}` : ""})`,
    );
  }
  return notes;
}

const placeWords = ({ workingSet, request, exceeds, priority }: RankedPod): string => {
  const size =
    workingSet === null ? "no stats of it" : `${formatBytes(workingSet)} of ${formatBytes(request)} requested`;
  return `${exceeds ? "over" : "within"} its request: ${size}, priority ${priority}`;
};
