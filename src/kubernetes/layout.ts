/**
 * What a kubelet makes of Pods on a node: the kubepods tree with its names, each file with its value and the rule it
 * comes from, oom_score_adj, and the memory-backed volumes (pkg/kubelet/cm, kuberuntime, qos; KEP-2400, KEP-2570).
 * Pure: the same for the same node and Pods. Sizes are bigints in bytes; written values are strings as the kernel
 * takes them.
 */
import { driverOf, type KubeletConfig, type Runtime } from "./config.ts";
import { parseThresholds, thresholdBytes } from "./eviction-thresholds.ts";
import { aggregate, type ContainerSpec, hexOf, type PodSpec, type QosClass } from "./pod.ts";
import {
  addQuantities,
  formatQuantity,
  MAX_QUANTITY,
  parseQuantity,
  quantityOfBytes,
  quantityValue,
} from "./quantity.ts";

/** A node as a plan needs it. */
export interface NodeState {
  kubelet: KubeletConfig;
  runtime: Runtime;
  cgroupVersion: 1 | 2;
  /** MemTotal in bytes: cAdvisor's MemoryCapacity. */
  capacity: bigint;
  /** SwapCapacity in bytes. */
  swap: bigint;
  /** Swap can be limited: memory.swap.max, on v1 memory.memsw.limit_in_bytes exist. */
  swapController: boolean;
}

export interface Write {
  file: string;
  value: string;
  /** The rule it comes from. */
  why: string;
}

export interface CgroupLayout {
  /** `pod/container`, `pod`, else the path. */
  name: string;
  /** Below the hierarchy's root, without a leading slash. */
  path: string;
  writes: Write[];
}

export interface ContainerLayout {
  name: string;
  pod: string;
  kind: "init" | "sidecar" | "app";
  oomScoreAdj: number;
  /** How that comes about. */
  why: string;
  /** The smallest limit at the container and its Pod, in bytes; null: only the node's. */
  limit: bigint | null;
  /** Whether limit is the Pod's alone. */
  limitedByPod: boolean;
  /** Swap that it may take beside its limit, in bytes; null: all there is. */
  swap: bigint | null;
}

export interface VolumeLayout {
  /** `pod/volume`; `pod/dev-shm` (with a dash more where a volume has that name) is the sandbox's /dev/shm. */
  name: string;
  pod: string;
  /** The size option in bytes; null: the kernel's default, half of RAM. */
  size: bigint | null;
  why: string;
  /** Container -> the paths it sees it at. */
  mounts: { container: string; path: string }[];
}

export interface PodLayout {
  name: string;
  qos: QosClass;
  /** Never evicted (pkg/kubelet/types IsCriticalPod). */
  critical: boolean;
  /** Sums with overhead, in bytes; a limit of null is none. */
  request: bigint;
  limit: bigint | null;
}

export interface Layout {
  /** Where the limit of all Pods stands. */
  kubepods: string;
  /** That limit: node allocatable before the eviction threshold. */
  allocatable: bigint;
  /** Node.status.allocatable: less the hard eviction threshold. */
  statusAllocatable: bigint;
  /** What is kept from Pods: systemReserved, kubeReserved and the hard eviction threshold. */
  reservation: bigint;
  cgroups: CgroupLayout[];
  containers: ContainerLayout[];
  pods: PodLayout[];
  volumes: VolumeLayout[];
}

const page = 4096n;
const min = (a: bigint, b: bigint): bigint => (a < b ? a : b);
const max = (a: bigint, b: bigint): bigint => (a > b ? a : b);
const floorToPage = (bytes: number): bigint => BigInt(Math.floor(bytes / 4096)) * page;

/** The bytes of a resource in a list; 0 where it is absent, so that a stated 0 is as good as nothing. */
function bytesOf(list: Readonly<Record<string, string>>, name = "memory"): bigint {
  const text = list[name];
  return text === undefined ? 0n : quantityValue(parseQuantity(text));
}

const text = (bytes: bigint): string => formatQuantity(quantityOfBytes(bytes));

/** spec.resources where this kubelet's cluster has Pod-level resources; null: none are stated, or the field is dropped. */
const podLevelResources = (pod: PodSpec, kubelet: KubeletConfig): PodSpec["resources"] =>
  kubelet.podLevelResources ? pod.resources : null;

/** Sidecars count as such from 1.29 on; before, the API server drops their restartPolicy. */
const withSidecars = (pod: PodSpec, { minor }: KubeletConfig): PodSpec =>
  minor >= 29 ? pod : { ...pod, initContainers: pod.initContainers.map((init) => ({ ...init, sidecar: false })) };

/** QoS class (pkg/apis/core/v1/helper/qos): only cpu and memory, and only amounts above 0, count. */
function qosOf(spec: PodSpec, kubelet: KubeletConfig): QosClass {
  if (spec.qosClass !== null) return spec.qosClass;
  const amounts = (list: Readonly<Record<string, string>>): Map<string, bigint> =>
    new Map(
      ["cpu", "memory"].flatMap((name): [string, bigint][] => {
        const nano = parseQuantity(list[name] ?? "0").nano;
        return nano > 0n ? [[name, nano]] : [];
      }),
    );
  const same = (a: Map<string, bigint>, b: Map<string, bigint>): boolean =>
    a.size === b.size && [...a].every(([name, amount]) => b.get(name) === amount);
  const resources = podLevelResources(spec, kubelet);
  if (resources !== null && Object.keys({ ...resources.requests, ...resources.limits }).length > 0) {
    const limits = amounts(resources.limits);
    const requests = amounts(resources.requests);
    if (limits.size === 0 && requests.size === 0) return "BestEffort";
    return limits.size === 2 && same(requests, limits) ? "Guaranteed" : "Burstable";
  }
  const requests = new Map<string, bigint>();
  const limits = new Map<string, bigint>();
  let complete = true;
  for (const container of [...spec.containers, ...spec.initContainers]) {
    const own = amounts(container.limits);
    for (const [name, amount] of amounts(container.requests)) requests.set(name, (requests.get(name) ?? 0n) + amount);
    for (const [name, amount] of own) limits.set(name, (limits.get(name) ?? 0n) + amount);
    complete &&= own.size === 2;
  }
  if (requests.size === 0 && limits.size === 0) return "BestEffort";
  return complete && same(requests, limits) ? "Guaranteed" : "Burstable";
}

/** What a Pod asks for of one resource, overhead included: component-helpers PodRequests. Bytes. */
export function podRequest(spec: PodSpec, kubelet: KubeletConfig, name = "memory"): bigint {
  const pod = withSidecars(spec, kubelet);
  const stated = podLevelResources(pod, kubelet)?.requests[name];
  const sum =
    stated === undefined ? aggregate(pod.containers, pod.initContainers, "requests", name) : parseQuantity(stated);
  const overhead = pod.overhead[name];
  const zero = quantityOfBytes(0);
  const total = addQuantities(sum ?? zero, overhead === undefined ? zero : parseQuantity(overhead));
  return min(quantityValue(total), MAX_QUANTITY);
}

/** What a Pod may take: PodLimits, with overhead only where there is a limit. Bytes; 0: none is stated. */
function podLimitSum(spec: PodSpec, kubelet: KubeletConfig): bigint {
  const pod = withSidecars(spec, kubelet);
  const stated = podLevelResources(pod, kubelet)?.limits["memory"];
  const sum =
    stated === undefined ? aggregate(pod.containers, pod.initContainers, "limits", "memory") : parseQuantity(stated);
  if (sum === undefined || sum.nano === 0n) return 0n;
  const overhead = pod.overhead["memory"];
  return min(quantityValue(overhead === undefined ? sum : addQuantities(sum, parseQuantity(overhead))), MAX_QUANTITY);
}

/** The limit that the Pod's cgroup gets (pkg/kubelet/cm/helpers_linux.go), and why; null: none. */
function podLimit(pod: PodSpec, qos: QosClass, kubelet: KubeletConfig): { limit: bigint | null; why: string } {
  const sum = podLimitSum(pod, kubelet);
  if (qos === "BestEffort" || sum === 0n) return { limit: null, why: "" };
  const stated = podLevelResources(pod, kubelet)?.limits["memory"];
  if (stated !== undefined && bytesOf({ memory: stated }) > 0n)
    return { limit: sum, why: `spec.resources.limits.memory ${stated}${overheadWords(pod)}` };
  // From 1.27 on init containers are asked too (component-helpers' ContainerFn).
  const asked = kubelet.minor >= 27 ? [...pod.initContainers, ...pod.containers] : pod.containers;
  const open = asked.find(({ limits }) => bytesOf(limits) === 0n);
  if (qos === "Burstable" && open !== undefined) return { limit: null, why: "" };
  const sidecars = pod.initContainers.filter((init) => init.sidecar);
  const each = [...pod.containers, ...sidecars].map(({ limits }) => limits["memory"] ?? "0").join(" + ");
  const inits = pod.initContainers.length > sidecars.length ? ", or the most that an init container needs" : "";
  return { limit: sum, why: `the sum of limits.memory of its containers: ${each}${inits}${overheadWords(pod)}` };
}

const overheadWords = (pod: PodSpec): string =>
  pod.overhead["memory"] === undefined ? "" : `, and its overhead ${pod.overhead["memory"]}`;

const isCritical = (pod: PodSpec): boolean => pod.static || (pod.priority ?? 0) >= 2_000_000_000;

/** oom_score_adj of a container (pkg/kubelet/qos/policy.go GetContainerOOMScoreAdjust), and how it comes about. */
function oomScoreAdjOf(
  spec: PodSpec,
  container: ContainerSpec,
  qos: QosClass,
  { kubelet, capacity }: Pick<NodeState, "kubelet" | "capacity">,
): { value: number; why: string } {
  const pod = withSidecars(spec, kubelet);
  if (isCritical(pod) && pod.priorityClassName === "system-node-critical")
    return { value: -997, why: "the Pod is node critical" };
  if (qos === "Guaranteed") return { value: -997, why: "the Pod is Guaranteed" };
  if (qos === "BestEffort") return { value: 1000, why: "the Pod is BestEffort" };
  const request = bytesOf(container.requests);
  const resources = podLevelResources(pod, kubelet);
  let rest = 0n;
  if (resources?.requests["memory"] !== undefined) {
    const asked = aggregate(pod.containers, pod.initContainers, "requests", "memory");
    const left = bytesOf(resources.requests) - (asked === undefined ? 0n : quantityValue(asked));
    rest = left / BigInt(pod.containers.length + pod.initContainers.length);
  }
  let adjust = 1000n - (1000n * (request + rest)) / capacity;
  let why = `1000 - 1000 * ${request + rest} / ${capacity} (its request${rest === 0n ? "" : ` and its part of the Pod's, ${rest},`} over the node's memory)`;
  // The init containers as given here: only where sidecars exist is one of them a sidecar.
  const sidecar = pod.initContainers.some((init) => init.sidecar && init.name === container.name);
  if (sidecar) {
    const smallest = pod.containers.map(({ requests }) => bytesOf(requests)).reduce((a, b) => min(a, b));
    const ofApp = 1000n - (1000n * (smallest + rest)) / capacity;
    if (ofApp < adjust) {
      adjust = ofApp;
      why = `1000 - 1000 * ${smallest + rest} / ${capacity}: a sidecar, so at most that of the container that asks least`;
    }
  }
  if (adjust < 3n) return { value: 3, why: `${why} = ${adjust}, and never below 3` };
  if (adjust === 1000n) return { value: 999, why: `${why} = 1000, which is BestEffort's` };
  return { value: Number(adjust), why };
}

/** systemd's path of a cgroup: each slice repeats its parents' names. */
function slices(names: readonly string[]): string {
  const escaped = names.map((name) => name.replaceAll("-", "_"));
  return escaped.map((_, index) => `${escaped.slice(0, index + 1).join("-")}.slice`).join("/");
}

/** Names in the tree: docs of facts 2.4; `U` of the systemd driver has `_` for `-`. */
function namesOf({ kubelet, cgroupVersion, runtime }: NodeState): {
  group(...names: string[]): string;
  container(id: string): string;
} {
  const root = kubelet.cgroupRoot === "" ? [] : kubelet.cgroupRoot.split("/");
  if (driverOf(kubelet, cgroupVersion) === "systemd") {
    const prefix = { docker: "docker", containerd: "cri-containerd", "cri-o": "crio" }[runtime];
    return {
      group: (...names) => slices([...root.map((name) => name.replace(/\.slice$/, "")), ...names]),
      container: (id) => `${prefix}-${id}.scope`,
    };
  }
  return {
    group: (...names) => [...root, ...names].join("/"),
    container: (id) => (runtime === "cri-o" ? `crio-${id}` : id),
  };
}

/** The limit of all Pods together (node_container_manager_linux.go), and how it comes about. */
function kubepodsLimit({ kubelet, capacity }: NodeState): { limit: bigint | null; allocatable: bigint; why: string } {
  const system = BigInt(kubelet.systemReserved);
  const kube = BigInt(kubelet.kubeReserved);
  const allocatable = max(0n, capacity - system - kube);
  const { enforceNodeAllocatable } = kubelet;
  if (enforceNodeAllocatable.includes("none") || enforceNodeAllocatable.length === 0)
    return { limit: null, allocatable, why: "" };
  if (!enforceNodeAllocatable.includes("pods"))
    return {
      limit: capacity,
      allocatable,
      why: `the node's memory ${capacity}: pods is not in enforceNodeAllocatable`,
    };
  return {
    limit: allocatable,
    allocatable,
    why: `the node's memory ${capacity} - systemReserved ${system} - kubeReserved ${kube}`,
  };
}

/** The hard eviction threshold of the node's memory in bytes: what Node.status.allocatable is less, and what counts as reserved. */
function hardEviction({ kubelet, capacity }: NodeState): bigint {
  const { thresholds } = parseThresholds(
    {
      evictionHard: kubelet.evictionHard ?? undefined,
      mergeDefaultEvictionSettings: kubelet.mergeDefaultEvictionSettings,
      enforceNodeAllocatable: [],
    },
    kubelet.minor,
  );
  const hard = thresholds.find(({ signal }) => signal === "memory.available");
  return hard === undefined ? 0n : BigInt(thresholdBytes(hard.value, Number(capacity)));
}

/** memory.high of a container (KEP-2570); null: not written. */
function memoryHigh(
  request: bigint,
  limit: bigint,
  allocatable: bigint,
  { minor, memoryThrottlingFactor: factor }: KubeletConfig,
): bigint | null {
  if (factor === null) return null;
  // A BestEffort container has 0 and 0: until 1.36 that counts as equal.
  if (request === limit && (request > 0n || minor < 37)) return null;
  const ceiling = limit > 0n ? Number(limit) : Number(allocatable);
  const high =
    minor < 27 ? floorToPage(ceiling * factor) : floorToPage(Number(request) + (ceiling - Number(request)) * factor);
  return high > request ? high : null;
}

/** Lays Pods out on a node. */
export function layOutPods(specs: readonly PodSpec[], node: NodeState): Layout {
  const { kubelet, cgroupVersion: version } = node;
  const names = namesOf(node);
  const v1 = version === 1;
  const limitFile = v1 ? "memory.limit_in_bytes" : "memory.max";
  const kubepods: CgroupLayout = { name: names.group("kubepods"), path: names.group("kubepods"), writes: [] };
  const tier = (qos: string): CgroupLayout => {
    const path = names.group("kubepods", qos);
    return { name: path, path, writes: [] };
  };
  const burstable = tier("burstable");
  const bestEffort = tier("besteffort");
  const all = kubepodsLimit(node);
  if (all.limit !== null) kubepods.writes.push({ file: limitFile, value: String(all.limit), why: all.why });
  const eviction = hardEviction(node);
  const status = max(0n, all.allocatable - eviction);
  const reservedGroups = reservedCgroups(node, limitFile);
  const memoryQoS = kubelet.memoryQoS && !v1;

  const pods: PodLayout[] = [];
  const containers: ContainerLayout[] = [];
  const volumes: VolumeLayout[] = [];
  const podGroups: CgroupLayout[] = [];
  const requested: Record<QosClass, bigint> = { Guaranteed: 0n, Burstable: 0n, BestEffort: 0n };
  for (const given of specs) {
    const pod = withSidecars(given, kubelet);
    const qos = qosOf(pod, kubelet);
    const { limit, why } = podLimit(pod, qos, kubelet);
    const request = podRequest(pod, kubelet);
    requested[qos] += request;
    const uid = `pod${pod.uid}`;
    const group: CgroupLayout = {
      name: pod.name,
      path: qos === "Guaranteed" ? names.group("kubepods", uid) : names.group("kubepods", qos.toLowerCase(), uid),
      writes: [],
    };
    if (limit !== null) group.writes.push({ file: limitFile, value: String(limit), why });
    if (memoryQoS) protect(group, qos, request, "the Pod's requests.memory", kubelet);
    hugetlb(group, pod, null, version);
    podGroups.push(group);
    pods.push({ name: pod.name, qos, critical: isCritical(pod), request, limit });
    for (const container of [...pod.initContainers, ...pod.containers]) {
      const name = `${pod.name}/${container.name}`;
      const own = containerLimit(pod, container, kubelet);
      const cgroup: CgroupLayout = {
        name,
        path: `${group.path}/${names.container(container.id ?? hexOf(`${pod.uid}/${container.name}`, 64))}`,
        writes: [],
      };
      if (own.limit > 0n) cgroup.writes.push({ file: limitFile, value: String(own.limit), why: own.why });
      const swap = swapOf(pod, container, own.limit, qos, node);
      if (swap !== null) cgroup.writes.push(swap);
      if (!v1 && kubelet.minor >= 28 && !kubelet.singleProcessOOMKill)
        cgroup.writes.push({ file: "memory.oom.group", value: "1", why: "cgroup v2 and no singleProcessOOMKill" });
      if (memoryQoS) {
        const mine = bytesOf(container.requests);
        const high = memoryHigh(mine, own.limit, all.allocatable, kubelet);
        if (high !== null)
          cgroup.writes.push({
            file: "memory.high",
            value: String(high),
            why: `MemoryQoS: memoryThrottlingFactor ${kubelet.memoryThrottlingFactor} between request and ${own.limit > 0n ? "limit" : "node allocatable"}`,
          });
        protect(cgroup, qos, mine, "requests.memory", kubelet);
      }
      hugetlb(cgroup, pod, container, version);
      podGroups.push(cgroup);
      const adjust = oomScoreAdjOf(pod, container, qos, node);
      const tightest = own.limit > 0n && (limit === null || own.limit <= limit) ? own.limit : limit;
      containers.push({
        name,
        pod: pod.name,
        kind: container.sidecar ? "sidecar" : pod.initContainers.includes(container) ? "init" : "app",
        oomScoreAdj: adjust.value,
        why: adjust.why,
        limit: tightest,
        limitedByPod: tightest !== null && tightest !== own.limit,
        swap: swapAllowance(swap, own.limit, version),
      });
    }
    volumes.push(...volumesOf(pod, limit, status, kubelet));
  }
  if (memoryQoS) protectTiers(kubepods, burstable, requested, kubelet);
  if (kubelet.qosReservedMemory !== null && all.limit !== null) {
    const share = BigInt(kubelet.qosReservedMemory);
    const forBurstable = max(0n, all.limit - (requested.Guaranteed * share) / 100n);
    const forBestEffort = max(0n, forBurstable - (requested.Burstable * share) / 100n);
    const why = `qosReserved: ${share}% of`;
    burstable.writes.push({
      file: limitFile,
      value: String(forBurstable),
      why: `${why} what Guaranteed Pods request is kept`,
    });
    bestEffort.writes.push({
      file: limitFile,
      value: String(forBestEffort),
      why: `${why} what the others request is kept`,
    });
  }
  return {
    kubepods: kubepods.path,
    allocatable: all.allocatable,
    statusAllocatable: status,
    reservation: BigInt(node.kubelet.systemReserved) + BigInt(node.kubelet.kubeReserved) + eviction,
    cgroups: [...parentsOf(kubepods.path), kubepods, burstable, bestEffort, ...reservedGroups, ...podGroups],
    containers,
    pods,
    volumes,
  };
}

/** Cgroups above one that nobody else lists: cgroupRoot's. */
function parentsOf(path: string): CgroupLayout[] {
  const parts = path.split("/").slice(0, -1);
  return parts.map((_, index) => {
    const parent = parts.slice(0, index + 1).join("/");
    return { name: parent, path: parent, writes: [] };
  });
}

/** system-reserved and kube-reserved limit their own cgroups, where they are named and enforced. */
function reservedCgroups({ kubelet }: NodeState, limitFile: string): CgroupLayout[] {
  return (["system", "kube"] as const).flatMap((who) => {
    const path = kubelet[`${who}ReservedCgroup`];
    const amount = kubelet[`${who}Reserved`];
    if (path === "" || !kubelet.enforceNodeAllocatable.includes(`${who}-reserved`) || amount === "0") return [];
    const why = `${who}Reserved, enforced on ${who}ReservedCgroup`;
    return [...parentsOf(path), { name: path, path, writes: [{ file: limitFile, value: amount, why }] }];
  });
}

/** The container's own limit, else the Pod's where that has one of its own (getMemoryLimit). */
function containerLimit(
  pod: PodSpec,
  container: ContainerSpec,
  kubelet: KubeletConfig,
): { limit: bigint; why: string } {
  const own = bytesOf(container.limits);
  if (own > 0n) return { limit: own, why: `limits.memory ${container.limits["memory"]}` };
  const stated = podLevelResources(pod, kubelet)?.limits["memory"];
  return stated === undefined
    ? { limit: 0n, why: "" }
    : { limit: bytesOf({ memory: stated }), why: `spec.resources.limits.memory ${stated}: it has no limit of its own` };
}

/** What is written about swap (kuberuntime_container_linux.go), or null. */
function swapOf(
  pod: PodSpec,
  container: ContainerSpec,
  limit: bigint,
  qos: QosClass,
  { kubelet, cgroupVersion, runtime, capacity, swap, swapController }: NodeState,
): Write | null {
  if (!swapController) return null;
  const { swapBehavior } = kubelet;
  if (cgroupVersion === 1) {
    const file = "memory.memsw.limit_in_bytes";
    if (limit === 0n || swapBehavior === "UnlimitedSwap") return null;
    if (swapBehavior === "Runtime" && runtime === "docker")
      return { file, value: String(2n * limit), why: "dockerd: memory and swap are twice the limit" };
    const who = swapBehavior === "Runtime" ? runtime : "NoSwap";
    return { file, value: String(limit), why: `${who}: memory and swap together are the limit` };
  }
  const file = "memory.swap.max";
  if (swapBehavior === "UnlimitedSwap") return { file, value: "max", why: "swapBehavior UnlimitedSwap" };
  if (swapBehavior === "Runtime") {
    if (limit === 0n) return null;
    return runtime === "docker"
      ? { file, value: String(limit), why: "dockerd: memory and swap are twice the limit" }
      : { file, value: "0", why: `${runtime}: memory and swap together are the limit` };
  }
  if (swapBehavior === "NoSwap") return { file, value: "0", why: "swapBehavior NoSwap" };
  const request = bytesOf(container.requests);
  const why = "swapBehavior LimitedSwap:";
  if (qos !== "Burstable") return { file, value: "0", why: `${why} Burstable Pods only, and this is ${qos}` };
  if (isCritical(pod)) return { file, value: "0", why: `${why} not for critical Pods` };
  if (request === bytesOf(container.limits))
    return {
      file,
      value: "0",
      why: `${why} ${request === 0n ? "no memory request and limit" : "request equals limit"}`,
    };
  if (request > capacity) return { file, value: "0", why: `${why} the request is more than the node has` };
  const share = Math.trunc((Number(request) / Number(capacity)) * Number(swap));
  return { file, value: String(share), why: `${why} request ${request} / memory ${capacity} * swap ${swap}` };
}

function swapAllowance(write: Write | null, limit: bigint, version: 1 | 2): bigint | null {
  if (write === null || write.value === "max") return null;
  return version === 1 ? BigInt(write.value) - limit : BigInt(write.value);
}

/** memory.min and memory.low of a container or a Pod. */
function protect(cgroup: CgroupLayout, qos: QosClass, request: bigint, what: string, kubelet: KubeletConfig): void {
  if (request === 0n || kubelet.memoryReservationPolicy === "None" || qos === "BestEffort") return;
  const tiered = kubelet.memoryReservationPolicy === "TieredReservation";
  cgroup.writes.push({
    file: tiered && qos === "Burstable" ? "memory.low" : "memory.min",
    value: String(request),
    why: `MemoryQoS${tiered ? `, TieredReservation for ${qos}` : ""}: ${what}`,
  });
}

function protectTiers(
  kubepods: CgroupLayout,
  burstable: CgroupLayout,
  requested: Record<QosClass, bigint>,
  kubelet: KubeletConfig,
): void {
  if (kubelet.memoryReservationPolicy === "None") return;
  const file = kubelet.memoryReservationPolicy === "TieredReservation" ? "memory.low" : "memory.min";
  const why = "MemoryQoS: the sum of what its Pods request";
  if (requested.Burstable > 0n) burstable.writes.push({ file, value: String(requested.Burstable), why });
  const total = requested.Guaranteed + requested.Burstable;
  if (total > 0n) kubepods.writes.push({ file: "memory.min", value: String(total), why });
}

/** Limits of huge pages, where the Pod states any: containers get their own, the Pod the sum of requests. */
function hugetlb(cgroup: CgroupLayout, pod: PodSpec, container: ContainerSpec | null, version: 1 | 2): void {
  const all = [...pod.initContainers, ...pod.containers];
  const sizes = new Set(
    all.flatMap(({ limits }) => Object.keys(limits).filter((name) => name.startsWith("hugepages-"))),
  );
  for (const name of sizes) {
    const size = name.slice("hugepages-".length);
    const amount =
      container === null
        ? (aggregate(pod.containers, pod.initContainers, "requests", name) ?? quantityOfBytes(0))
        : parseQuantity(container.limits[name] ?? "0");
    cgroup.writes.push({
      file: `hugetlb.${pageSize(size)}.${version === 1 ? "limit_in_bytes" : "max"}`,
      value: String(quantityValue(amount)),
      why: container === null ? `the sum of requests.${name}` : `limits.${name}`,
    });
  }
}

/** 2Mi as the kernel names it: 2MB. */
function pageSize(size: string): string {
  let bytes = quantityValue(parseQuantity(size));
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (unit < 3 && bytes % 1024n === 0n) {
    bytes /= 1024n;
    unit++;
  }
  return `${bytes}${units[unit]}`;
}

const shmSize = 64n * 1048576n;

/** emptyDir volumes of medium Memory, and the sandbox's /dev/shm. */
function volumesOf(pod: PodSpec, limit: bigint | null, allocatable: bigint, kubelet: KubeletConfig): VolumeLayout[] {
  const all = [...pod.initContainers, ...pod.containers];
  const memory = pod.volumes.map(({ name, sizeLimit }): VolumeLayout => {
    const mounts = all.flatMap(({ name: container, mounts: own }) =>
      own.filter(({ volume }) => volume === name).map(({ path }) => ({ container, path })),
    );
    const common = { name: `${pod.name}/${name}`, pod: pod.name, mounts };
    if (!kubelet.sizeMemoryBackedVolumes)
      return { ...common, size: null, why: "without SizeMemoryBackedVolumes: the kernel's default, half of RAM" };
    const stated = sizeLimit === null ? 0n : bytesOf({ memory: sizeLimit });
    // calculateEmptyDirMemorySize (pkg/volume/emptydir): what the Pod's cgroup is limited to, else the node's allocatable.
    const cap = limit !== null && limit < allocatable ? limit : allocatable;
    const from = cap === limit ? "the Pod's limit" : "node allocatable";
    if (stated > 0n && stated < cap) return { ...common, size: stated, why: `sizeLimit ${sizeLimit}` };
    return { ...common, size: cap, why: stated > 0n ? `sizeLimit ${sizeLimit}, cut to ${from} ${text(cap)}` : from };
  });
  let name = "dev-shm";
  while (pod.volumes.some((volume) => volume.name === name)) name += "-";
  const shm: VolumeLayout = {
    name: `${pod.name}/${name}`,
    pod: pod.name,
    size: shmSize,
    why: "the sandbox's /dev/shm, which its containers share",
    mounts: all.map((container) => ({ container: container.name, path: "/dev/shm" })),
  };
  // A volume mounted there takes its place.
  shm.mounts = shm.mounts.filter(({ container }) =>
    memory.every(({ mounts }) => mounts.every((mount) => mount.container !== container || mount.path !== "/dev/shm")),
  );
  return [...memory, shm];
}
