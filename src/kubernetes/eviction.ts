/**
 * The kubelet's eviction manager for memory as a pure core: observations and a clock in, decisions out
 * (kubernetes pkg/kubelet/eviction). `synchronize` is one pass, `advance` the loop around it. Times are milliseconds
 * of any one clock, sizes bytes, `minor` the kubelet's minor version (20 for 1.20).
 *
 * Where the kubelet's own order is left to chance (Go's maps, an unstable sort) the order of the configuration and of
 * the Pods stands in for it: nothing may rest on that.
 */
import { type MemorySignal, type Threshold, thresholdBytes, thresholdText } from "./eviction-thresholds.ts";
import { formatQuantity, quantityOfBytes } from "./quantity.ts";

/** pkg/kubelet/kubelet.go evictionMonitoringPeriod. */
const monitoringPeriodMs = 10_000;
/** eviction_manager.go podCleanupTimeout, podCleanupPollFreq. */
const cleanupTimeoutMs = 30_000;
const cleanupPollMs = 1_000;
/** memory_threshold_notifier.go notifierRefreshInterval. */
export const notifierRefreshMs = 10_000;
/** pkg/apis/scheduling SystemCriticalPriority. */
const systemCriticalPriority = 2_000_000_000;
/** The API server's default of spec.terminationGracePeriodSeconds. */
const defaultPodGraceSeconds = 30;

/** What of a node's configuration the manager goes by. */
export interface EvictionConfig {
  minor: number;
  thresholds: readonly Threshold[];
  /** evictionMaxPodGracePeriod. */
  maxPodGracePeriodSeconds: number;
  /** evictionPressureTransitionPeriod; the default is five minutes. */
  pressureTransitionPeriodMs: number;
  /** kernelMemcgNotification. */
  memcgNotification: boolean;
}

/** An amount of memory as the API holds it: whole bytes, rounded up, and its canonical text. */
export interface Amount {
  bytes: number;
  text: string;
}

/** What of a Pod decides about its eviction. */
export interface EvictablePod {
  /** Unique on the node. */
  name: string;
  /** spec.priority; null counts as 0. */
  priority: number | null;
  /** From a file or URL, or the mirror of one: never evicted. */
  static: boolean;
  /** The Pod's memory request as the scheduler sums it, overhead included. */
  request: number;
  /** spec.resources.requests.memory where Pod-level resources are on. */
  podRequest: Amount | null;
  terminationGracePeriodSeconds: number | null;
  /** In the manifest's order; the kubelet names them in the order of its stats, which is none. */
  containers: readonly { name: string; init: boolean; request: Amount | null }[];
  /** emptyDir volumes with a sizeLimit. */
  volumes: readonly { name: string; sizeLimit: Amount }[];
}

/** The last that cAdvisor knows of a Pod: up to 20 s old. */
export interface PodStats {
  workingSet: number;
  containers: Readonly<Record<string, number>>;
  /** Bytes used of its emptyDir volumes. */
  volumes: Readonly<Record<string, number>>;
}

export interface Observation {
  available: number;
  capacity: number;
  /** When it was measured: what is no newer than in the last pass never evicts. */
  timeMs: number;
}

export type Observations = Readonly<Partial<Record<MemorySignal, Observation>>>;

export interface ManagerState {
  /** Met, their grace over, in the last pass. */
  met: readonly Threshold[];
  firstObserved: ReadonlyMap<Threshold, number>;
  pressureLastObserved: number | null;
  last: Observations;
}

export const initialState: ManagerState = { met: [], firstObserved: new Map(), pressureLastObserved: null, last: {} };

/** An event of the API. */
export interface ApiEvent {
  type: "Warning" | "Normal";
  reason: string;
  message: string;
}

export interface RankedPod {
  pod: string;
  /** 1: would go first. */
  rank: number;
  /** null: there are no stats of it yet. */
  workingSet: number | null;
  request: number;
  exceeds: boolean;
  priority: number;
  /** Never evicted, whatever its rank. */
  spared: boolean;
}

/** The decision to evict a Pod. */
export interface Eviction {
  pod: string;
  rank: number | null;
  /** status.message, and the message of the event `Evicted` and of the condition. */
  message: string;
  annotations: Readonly<Record<string, string>>;
  /** The signal whose threshold chose it; null for a volume over its limit. */
  signal: MemorySignal | null;
  available: number | null;
  /** In bytes. */
  threshold: number | null;
  graceSeconds: number;
  /** How long the kubelet waits for the Pod to be killed before it goes on. */
  killTimeoutMs: number;
  condition: { type: "DisruptionTarget"; status: "True"; reason: "TerminationByKubelet"; message: string } | null;
}

export interface Pass {
  state: ManagerState;
  /** Met now or not yet past their minimum reclaim, whatever their grace. */
  met: readonly Threshold[];
  /** Of these, the ones that evict now. */
  due: readonly Threshold[];
  /** Node condition MemoryPressure. */
  memoryPressure: boolean;
  /** The event on the node, where a threshold is due. */
  event: ApiEvent | null;
  ranking: readonly RankedPod[];
  /** At most one for memory; every Pod with a volume over its limit. */
  evictions: readonly Eviction[];
  /** What the kubelet logs of a pass that evicts nobody though it should. */
  log: string | null;
}

/** Critical Pods are never evicted (pkg/kubelet/types IsCriticalPod). */
export const isSpared = (pod: EvictablePod): boolean => pod.static || (pod.priority ?? 0) >= systemCriticalPriority;

/** Thresholds that are met, in their order; with `enforceMinReclaim` until so much more is free. */
function thresholdsMet(
  thresholds: readonly Threshold[],
  observations: Observations,
  enforceMinReclaim: boolean,
): Threshold[] {
  return thresholds.filter((threshold) => {
    const observed = observations[threshold.signal];
    if (!observed) return false;
    const reclaim =
      enforceMinReclaim && threshold.minReclaim ? thresholdBytes(threshold.minReclaim, observed.capacity) : 0;
    return observed.available < thresholdBytes(threshold.value, observed.capacity) + reclaim;
  });
}

/** What a pass comes to, before any of it is put in words. */
export interface Decision extends Pick<Pass, "state" | "met" | "due" | "memoryPressure" | "log"> {
  /** The first threshold that is due, and what was observed of its signal; null: none is. */
  chosen: { threshold: Threshold; observed: Observation } | null;
  /** All Pods in the order of eviction, where a threshold is due. */
  ranked: readonly EvictablePod[];
  /** The place of the one that goes; -1: nobody does. */
  victim: number;
}

/** Decides one pass about memory (managerImpl.synchronize); volumes over their limit come before it. `pods` are the active ones. */
export function decide(
  config: EvictionConfig,
  state: ManagerState,
  nowMs: number,
  observations: Observations,
  pods: readonly EvictablePod[],
  stats: (pod: string) => PodStats | null,
): Decision {
  const now = thresholdsMet(config.thresholds, observations, false);
  const unresolved = thresholdsMet(state.met, observations, true);
  const met = config.thresholds.filter((threshold) => now.includes(threshold) || unresolved.includes(threshold));
  // One that is no longer met is forgotten: its grace starts over.
  const firstObserved = new Map(met.map((threshold) => [threshold, state.firstObserved.get(threshold) ?? nowMs]));
  const pressureLastObserved = met.length > 0 ? nowMs : state.pressureLastObserved;
  const memoryPressure =
    pressureLastObserved !== null && nowMs - pressureLastObserved < config.pressureTransitionPeriodMs;
  const past = met.filter((threshold) => nowMs - (firstObserved.get(threshold) ?? nowMs) >= threshold.gracePeriodMs);
  const due = past.filter(({ signal }) => {
    const observed = observations[signal];
    const last = state.last[signal];
    return observed !== undefined && (last === undefined || observed.timeMs > last.timeMs);
  });
  const decision: Decision = {
    state: { met: past, firstObserved, pressureLastObserved, last: observations },
    met,
    due,
    memoryPressure,
    chosen: null,
    ranked: [],
    victim: -1,
    log: null,
  };
  const [threshold] = due;
  const observed = threshold && observations[threshold.signal];
  if (!threshold || !observed) return decision;
  const chosen = { threshold, observed };
  if (pods.length === 0)
    return { ...decision, chosen, log: "eviction thresholds have been met, but no pods are active to evict" };
  const ranked = rankMemoryPressure(pods, stats);
  const victim = ranked.findIndex((pod) => !isSpared(pod));
  return { ...decision, chosen, ranked, victim, log: victim < 0 ? "unable to evict any pods from the node" : null };
}

/** One pass of the manager with all that it says. `pods` are the active ones. */
export function synchronize(
  config: EvictionConfig,
  state: ManagerState,
  nowMs: number,
  observations: Observations,
  pods: readonly EvictablePod[],
  stats: (pod: string) => PodStats | null,
): Pass {
  const { chosen, ranked, victim, ...decision } = decide(config, state, nowMs, observations, pods, stats);
  const overLimit = pods.flatMap((pod) => volumeEviction(config, pod, stats(pod.name)));
  // Volumes come first, and with them the pass is over.
  if (overLimit.length > 0) return { ...decision, event: null, ranking: [], evictions: overLimit, log: null };
  if (chosen === null) return { ...decision, event: null, ranking: [], evictions: [] };
  const event: ApiEvent = { type: "Warning", reason: "EvictionThresholdMet", message: "Attempting to reclaim memory" };
  const pass: Pass = { ...decision, event, ranking: describeRanking(ranked, stats), evictions: [] };
  const pod = ranked[victim];
  if (!pod) return pass;
  const { threshold, observed } = chosen;
  const { message, annotations } = evictionMessage(config.minor, pod, stats(pod.name), threshold, observed);
  const graceSeconds = evictionGraceSeconds(config, threshold.gracePeriodMs === 0, pod.terminationGracePeriodSeconds);
  return {
    ...pass,
    evictions: [
      {
        pod: pod.name,
        rank: victim + 1,
        message,
        annotations,
        signal: threshold.signal,
        available: observed.available,
        threshold: thresholdBytes(threshold.value, observed.capacity),
        graceSeconds,
        killTimeoutMs: killTimeoutMs(graceSeconds),
        condition: disruption(config.minor, message),
      },
    ],
  };
}

/** What puts each Pod in its place; `ranked` as rankMemoryPressure orders them. */
export function describeRanking(ranked: readonly EvictablePod[], stats: (pod: string) => PodStats | null): RankedPod[] {
  return ranked.map((pod, index) => {
    const workingSet = stats(pod.name)?.workingSet ?? null;
    return {
      pod: pod.name,
      rank: index + 1,
      workingSet,
      request: pod.request,
      exceeds: workingSet === null || workingSet > pod.request,
      priority: pod.priority ?? 0,
      spared: isSpared(pod),
    };
  });
}

const compareBool = (a: boolean, b: boolean): number => Number(b) - Number(a);

/**
 * The order of eviction (rankMemoryPressure): over their request first, then the lower priority, then who is further
 * over. A Pod without stats goes before all.
 */
export function rankMemoryPressure(
  pods: readonly EvictablePod[],
  stats: (pod: string) => PodStats | null,
): EvictablePod[] {
  return pods.toSorted((a, b) => {
    const [first, second] = [stats(a.name), stats(b.name)];
    if (!first || !second) {
      const unknown = compareBool(first === null, second === null);
      return unknown === 0 ? (a.priority ?? 0) - (b.priority ?? 0) : unknown;
    }
    return (
      compareBool(first.workingSet > a.request, second.workingSet > b.request) ||
      (a.priority ?? 0) - (b.priority ?? 0) ||
      second.workingSet - b.request - (first.workingSet - a.request)
    );
  });
}

/**
 * What the kubelet gives a Pod to end, in seconds; 0: SIGKILL at once. 1.22 to 1.30 mistook the 0 of "at once" for
 * none and gave the Pod's own (kubernetes #115819, mended by #124063); before it was 0, since it is 1. From 1.32 on a
 * soft one takes the smaller of the maximum and the Pod's own (#122890).
 */
export function evictionGraceSeconds(
  { minor, maxPodGracePeriodSeconds }: Pick<EvictionConfig, "minor" | "maxPodGracePeriodSeconds">,
  hard: boolean,
  podGraceSeconds: number | null,
): number {
  const own = podGraceSeconds ?? defaultPodGraceSeconds;
  if (minor <= 21) return hard ? 0 : Math.max(0, maxPodGracePeriodSeconds);
  if (minor <= 30) {
    const override = hard ? 0 : maxPodGracePeriodSeconds;
    return Math.max(1, override === 0 ? own : override);
  }
  if (hard) return 1;
  return Math.max(1, minor >= 32 ? Math.min(maxPodGracePeriodSeconds, own) : maxPodGracePeriodSeconds);
}

/** pod_workers.go killPodNow: half as long again as the grace, ten seconds at least. */
const killTimeoutMs = (graceSeconds: number): number =>
  Math.max(10, graceSeconds + Math.floor(graceSeconds / 2)) * 1000;

/** PodDisruptionConditions: beta, and on, since 1.26. */
const disruption = (minor: number, message: string): Eviction["condition"] =>
  minor >= 26 ? { type: "DisruptionTarget", status: "True", reason: "TerminationByKubelet", message } : null;

/** An amount of bytes as the kubelet's messages print it. */
const printed = (bytes: number): string => formatQuantity(quantityOfBytes(bytes));

/** status.message and the event's annotations (helpers.go evictionMessage). Each piece ends in a blank. */
function evictionMessage(
  minor: number,
  pod: EvictablePod,
  stats: PodStats | null,
  threshold: Threshold,
  observed: Observation,
): { message: string; annotations: Record<string, string> } {
  let message = "The node was low on resource: memory. ";
  if (minor >= 26)
    message += `Threshold quantity: ${thresholdText(threshold.value, observed.capacity)}, available: ${printed(observed.available)}. `;
  if (stats === null) return { message, annotations: {} };
  const annotations: Record<string, string> = {};
  if (pod.podRequest !== null) {
    const usage = printed(stats.workingSet);
    message += `Pod ${pod.name} was using ${usage}, request is ${pod.podRequest.text}, has larger consumption of memory. `;
    annotations["offending_pod"] = pod.name;
    annotations["offending_pod_usage"] = usage;
  }
  const over = pod.containers.flatMap(({ name, init, request }) => {
    const used = stats.containers[name];
    // Init containers are looked at since there are sidecars among them.
    if (used === undefined || (init && minor < 29) || used <= (request?.bytes ?? 0)) return [];
    return [{ name, usage: printed(used), request: request?.text ?? "0" }];
  });
  for (const { name, usage, request } of over)
    message +=
      minor >= 26
        ? `Container ${name} was using ${usage}, request is ${request}, has larger consumption of memory. `
        : `Container ${name} was using ${usage}, which exceeds its request of ${request}. `;
  annotations["offending_containers"] = over.map(({ name }) => name).join(",");
  annotations["offending_containers_usage"] = over.map(({ usage }) => usage).join(",");
  annotations["starved_resource"] = "memory";
  return { message, annotations };
}

/** A memory-backed volume over its sizeLimit (emptyDirLimitEviction): looked at in each pass, before memory. */
function volumeEviction(config: EvictionConfig, pod: EvictablePod, stats: PodStats | null): Eviction[] {
  const volume = pod.volumes.find(
    ({ name, sizeLimit }) => sizeLimit.bytes > 0 && (stats?.volumes[name] ?? 0) > sizeLimit.bytes,
  );
  if (!volume || isSpared(pod)) return [];
  const message = `Usage of EmptyDir volume ${JSON.stringify(volume.name)} exceeds the limit ${JSON.stringify(volume.sizeLimit.text)}. `;
  const graceSeconds = evictionGraceSeconds(config, true, pod.terminationGracePeriodSeconds);
  return [
    {
      pod: pod.name,
      rank: null,
      message,
      annotations: {},
      signal: null,
      available: null,
      threshold: null,
      graceSeconds,
      killTimeoutMs: killTimeoutMs(graceSeconds),
      condition: null,
    },
  ];
}

/** What a Pod that comes under MemoryPressure is told (managerImpl.Admit); null: it is taken. */
export function refusal(
  memoryPressure: boolean,
  pod: { spared: boolean; bestEffort: boolean; toleratesMemoryPressure: boolean },
): { phase: "Failed"; reason: "Evicted"; message: string } | null {
  if (!memoryPressure || pod.spared || !pod.bestEffort || pod.toleratesMemoryPressure) return null;
  return { phase: "Failed", reason: "Evicted", message: "The node had condition: [MemoryPressure]. " };
}

/** The node's condition as the kubelet writes it (pkg/kubelet/nodestatus MemoryPressureCondition). */
export function memoryPressureCondition(pressure: boolean): {
  status: "True" | "False";
  reason: string;
  message: string;
} {
  return pressure
    ? { status: "True", reason: "KubeletHasInsufficientMemory", message: "kubelet has insufficient memory available" }
    : { status: "False", reason: "KubeletHasSufficientMemory", message: "kubelet has sufficient memory available" };
}

// the loop around the passes ---------------------------------------------------------------------------------------

/** What the loop does next, and when. A pass ends with the Pods killed: what it took is in the next event's clock. */
export type Next =
  | { do: "pass"; atMs: number }
  | { do: "kill"; evictions: readonly Eviction[] }
  | { do: "look"; pods: readonly string[]; atMs: number; untilMs: number };

export type LoopEvent =
  /** A pass has ended; killing is still to be done. */
  | { type: "passed"; nowMs: number; pass: Pass }
  /** Its Pods have been killed, or the time for that is over. */
  | { type: "killed"; nowMs: number; pods: readonly string[] }
  /** It was looked whether the Pods are gone with all that they held. */
  | { type: "looked"; nowMs: number; look: Extract<Next, { do: "look" }>; cleanedUp: boolean };

/** The monitoring loop (managerImpl.Start): sleeps after a pass that evicted nobody, else waits for the clean-up and goes on at once. */
export function advance(event: LoopEvent): Next {
  switch (event.type) {
    case "passed":
      return event.pass.evictions.length > 0
        ? { do: "kill", evictions: event.pass.evictions }
        : { do: "pass", atMs: event.nowMs + monitoringPeriodMs };
    case "killed":
      return {
        do: "look",
        pods: event.pods,
        atMs: event.nowMs + cleanupPollMs,
        untilMs: event.nowMs + cleanupTimeoutMs,
      };
    case "looked": {
      const { look, nowMs, cleanedUp } = event;
      if (cleanedUp || nowMs >= look.untilMs) return { do: "pass", atMs: nowMs };
      // A ticker: it does not wait for a look that took long.
      return { ...look, atMs: Math.min(look.atMs + cleanupPollMs, look.untilMs) };
    }
  }
}

/** Usage of the cgroup at which the kernel's notification (cgroup v1) calls for a pass: working set = capacity - threshold. */
export function notifierThreshold(
  threshold: Threshold,
  memory: { usage: number; workingSet: number; available: number },
): number {
  const capacity = memory.available + memory.workingSet;
  return capacity - thresholdBytes(threshold.value, capacity) + (memory.usage - memory.workingSet);
}
