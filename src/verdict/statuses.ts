/** What `kubectl` would show of each container, next to what really became of it. Pure. */
import type { Plan } from "../plan.ts";
import { type EventOf, eventsOf, type RunEvent } from "../record.ts";
import { haveEqualLimits } from "./turn.ts";
import { signalNumber } from "../scenario/index.ts";

/**
 * A container's state as a kubelet reports it (ContainerStatus, k8s.io/api/core/v1 types.go). Its reason is the runtime's
 * word: `OOMKilled` wherever the runtime saw an OOM event of the container's cgroup before the container ended
 * (containerd's oom watchers: memory.events oom_kill on v2, the oom_control eventfd on v1), whoever died and for whose
 * limit.
 */
export interface ContainerStatus {
  /** `pod/container` */
  name: string;
  state: "waiting" | "running" | "terminated";
  reason: "OOMKilled" | "Error" | "Completed" | null;
  /** 128 + the signal where one ended it. */
  exitCode: number | null;
  /** The Pod's reason. */
  podReason: "Evicted" | null;
  /** What really happened, and where the words above mislead. */
  really: string;
  misleading: boolean;
}

/** An OOM kill, as far as this module needs it. */
export interface KillOfContainer {
  kind: string;
  limit: string | null;
  process: string | null;
  victim: { pid: number | null } | null;
}

/** One for each container of the plan's Pods, in their order. `evicted`: Pods that the kubelet evicted. */
export function containerStatuses(
  plan: Plan,
  events: readonly RunEvent[],
  kills: readonly KillOfContainer[],
  evicted: readonly string[],
): ContainerStatus[] {
  const starts = new Map(eventsOf(events, "process-start").map((event) => [event.process, event]));
  const exits = new Map(eventsOf(events, "process-exit").map((event) => [event.process, event]));
  // What ends later was alive at the run's end.
  const over = eventsOf(events, "phase").find(({ phase }) => phase === "settle")?.line ?? Number.POSITIVE_INFINITY;
  return (plan.pods?.containers ?? []).map(({ name, pod }) => {
    const podReason = evicted.includes(pod) ? "Evicted" : null;
    const started = starts.get(name);
    const exit = exits.get(name);
    const ended = exit !== undefined && exit.line < over ? exit : null;
    const own = kills.filter(({ process }) => process === name);
    if (!started)
      return {
        name,
        state: "waiting",
        reason: null,
        exitCode: null,
        podReason,
        really: "never started",
        misleading: false,
      };
    if (ended === null) {
      const really = own.length === 0 ? "it lives" : `${killWords(plan, name, own)}, and its main process lives on`;
      return { name, state: "running", reason: null, exitCode: null, podReason, really, misleading: own.length > 0 };
    }
    const exitCode = ended.code ?? 128 + (signalNumber(ended.signal ?? "") ?? 0);
    const reason = sawOom(plan, events, name) ? "OOMKilled" : exitCode === 0 ? "Completed" : "Error";
    return { name, state: "terminated", reason, exitCode, podReason, ...reality(plan, name, ended, reason, own) };
  });
}

/** Whether the runtime's watch on the container's own cgroup told it of an OOM. */
function sawOom(plan: Plan, events: readonly RunEvent[], name: string): boolean {
  if (plan.cgroupVersion === 1)
    return eventsOf(events, "oom-event").some(({ cgroup, count }) => cgroup === name && count > 0);
  const told = eventsOf(events, "counters")
    .filter(({ cgroup }) => cgroup === name)
    .map(({ counters }) => counters["memory.events.oom_kill"])
    .filter((count) => typeof count === "number");
  return told.length > 1 && (told.at(-1) ?? 0) > (told[0] ?? 0);
}

function reality(
  plan: Plan,
  name: string,
  exit: EventOf<"process-exit">,
  reason: "OOMKilled" | "Error" | "Completed",
  own: readonly KillOfContainer[],
): { really: string; misleading: boolean } {
  const ending = exit.signal === null ? `it ended by itself with status ${exit.code}` : `${exit.signal} ended it`;
  if (own.length === 0)
    return {
      really: reason === "OOMKilled" ? `${ending}; the log tells no OOM kill of it` : ending,
      misleading: reason === "OOMKilled",
    };
  const main = own.some(({ victim }) => victim?.pid === exit.pid);
  const words = killWords(plan, name, own);
  const misleading = reason !== "OOMKilled" || !main || own.some((kill) => !isOwnLimit(plan, kill, name));
  return { really: main ? words : `${words}; ${ending}`, misleading };
}

const isOwnLimit = (plan: Plan, { kind, limit }: KillOfContainer, name: string): boolean =>
  kind === "memcg" && (limit === name || isPodsEqualLimit(plan, limit, name));

const isPodsEqualLimit = (plan: Plan, limit: string | null, name: string): boolean =>
  limit !== null && isPod(plan, limit) && haveEqualLimits(plan, limit, name);

const isPod = ({ pods }: Plan, name: string): boolean => pods?.pods.some((pod) => pod.name === name) === true;

function killWords(plan: Plan, name: string, own: readonly KillOfContainer[]): string {
  const [kill] = own;
  if (!kill) return "";
  const what = own.length > 1 ? `${own.length} OOM kills in it` : "an OOM kill";
  if (kill.kind === "global") return `${what}: the node ran out of memory, its own limit was not hit`;
  if (kill.kind !== "memcg") return `${what} (${kill.kind}), its own limit was not hit`;
  if (kill.limit === name) return `${what}: its own limit was hit`;
  if (isPodsEqualLimit(plan, kill.limit, name)) return `${what}: the Pod's limit was hit, which is as large as its own`;
  const whose =
    kill.limit === null
      ? "another cgroup's limit"
      : kill.limit === plan.kubelet?.kubepods
        ? "the limit of all Pods together"
        : isPod(plan, kill.limit)
          ? "the Pod's limit"
          : `the limit of ${kill.limit}`;
  return `${what}: ${whose} was hit, not its own`;
}
