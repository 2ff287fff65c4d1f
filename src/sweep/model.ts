/**
 * A plan as numbers: what the model of a node, its kubelet and its OOM killer goes by (docs/sweep.md). Pure. What it
 * does not know it refuses, in words.
 */
import type { EvictablePod, EvictionConfig } from "../kubernetes/eviction.ts";
import type { MemorySignal } from "../kubernetes/eviction-thresholds.ts";
import type { PlannedKubelet } from "../kubernetes/kubelet-plan.ts";
import { directoryOf, memTotalOf, type Plan, type PlannedProcess } from "../plan.ts";
import { parseDuration, parseRate } from "../units.ts";

/** What of a node no scenario states. Sizes in bytes. */
export interface NodeModel {
  /** The working set of the root cgroup before anything presses: what memory.available starts below the capacity. */
  workingSet: number;
  /** What is left of the capacity when the kernel begins to find none: its own, what it spares, the watermarks. */
  reserve: number;
  /** What it is more on a larger node: page tables and the like, as a share of the capacity. */
  reserveShare: number;
  /** How long the kernel tries to reclaim before it kills. */
  stallMs: number;
  /** How fast memory is taken at most, in bytes a second. */
  touchRate: number;
}

const mebibyte = 1048576;

const emulated = { reserve: 51.4 * mebibyte, reserveShare: 0.0208, stallMs: 3000, touchRate: 250 * mebibyte };

/** oomlab's own VM under software emulation, kernel 6.1, measured on the runs of docs/sweep.md. */
const emulatedNode: Readonly<Record<1 | 2, NodeModel>> = {
  1: { workingSet: 16 * mebibyte, ...emulated },
  2: { workingSet: 13.5 * mebibyte, ...emulated },
};

export interface ModelProcess {
  name: string;
  /** Its Pod, by place; -1: none. */
  pod: number;
  /** Cgroups with a limit above it, by place, the innermost first. */
  limits: number[];
  /** Cgroups above it that are killed as a whole (memory.oom.group), the innermost first: directories. */
  groups: string[];
  /** It starts when these have ended with status 0, by place. */
  after: number[];
  waits: boolean;
}

export interface ModelThreshold {
  signal: MemorySignal;
  /** Whether its value is a share of the capacity. */
  share: boolean;
  /** The same of its minimum reclaim; null: it has none. */
  reclaimShare: boolean | null;
}

/** What is the same at all points that differ in numbers only. */
export interface ModelShape {
  processes: ModelProcess[];
  /** Cgroups with a limit. */
  cgroups: { name: string; directory: string }[];
  thresholds: ModelThreshold[];
  pods: { name: string; static: boolean; processes: number[]; containers: { name: string; processes: number[] }[] }[];
  kubelet: Pick<EvictionConfig, "minor" | "maxPodGracePeriodSeconds" | "pressureTransitionPeriodMs"> | null;
  seed: string;
}

export interface Model {
  shape: ModelShape;
  numbers: Float64Array;
}

/** Where in `numbers` what stands; the rest follows in the order of the shape's lists. */
export const at = {
  capacity: 0,
  workingSet: 1,
  room: 2,
  kubepods: 3,
  timeoutMs: 4,
  stallMs: 5,
  touchRate: 6,
  first: 7,
} as const;
/** Of each process. */
export const ofProcess = { delayMs: 0, rate: 1, bytes: 2, holdMs: 3, adj: 4, size: 5 } as const;
/** Of each threshold. */
export const ofThreshold = { value: 0, graceMs: 1, reclaim: 2, size: 3 } as const;
/** Of each Pod; priority and grace are NaN where they are null. */
export const ofPod = { request: 0, priority: 1, graceSeconds: 2, size: 3 } as const;

export interface Offsets {
  processes: number;
  cgroups: number;
  thresholds: number;
  pods: number;
}

export function offsetsOf({ processes, cgroups, thresholds }: ModelShape): Offsets {
  const afterProcesses = at.first + processes.length * ofProcess.size;
  const afterCgroups = afterProcesses + cgroups.length;
  return {
    processes: at.first,
    cgroups: afterProcesses,
    thresholds: afterCgroups,
    pods: afterCgroups + thresholds.length * ofThreshold.size,
  };
}

/** What a plan is to the model; a text: why it is nothing to it. */
export function modelOf(plan: Plan, stated: Partial<NodeModel> = {}): Model | string {
  const node: NodeModel = { ...emulatedNode[plan.cgroupVersion], ...stated };
  const problem = beyond(plan);
  if (problem !== null) return problem;
  const limits = new Map<string, { name: string; limit: number }>();
  const groups = new Set<string>();
  for (const cgroup of plan.cgroups) {
    const directory = directoryOf(cgroup);
    for (const { file, value } of cgroup.writes) {
      if ((file === "memory.max" || file === "memory.limit_in_bytes") && /^\d+$/.test(value))
        limits.set(directory, { name: cgroup.name, limit: Number(value) });
      if (file === "memory.oom.group" && value === "1") groups.add(directory);
    }
  }
  const limited = [...limits.keys()];
  const directories = new Map(plan.cgroups.map((cgroup) => [cgroup.name, directoryOf(cgroup)]));
  const numbers: number[] = [];
  const processes: ModelProcess[] = [];
  const places = new Map<string, number[]>();
  const podOf = podsByProcess(plan.kubelet ?? null);
  for (const process of plan.processes) {
    const growth = growthOf(process);
    if (typeof growth === "string") return growth;
    const above = ancestors(process.cgroup === null ? null : (directories.get(process.cgroup) ?? null));
    const own: number[] = [];
    for (let worker = 0; worker < Math.max(1, process.workers); worker++) {
      own.push(processes.length);
      processes.push({
        name: process.name,
        pod: podOf.get(process.name) ?? -1,
        limits: above.flatMap((directory) => (limits.has(directory) ? [limited.indexOf(directory)] : [])),
        groups: above.filter((directory) => groups.has(directory)),
        after: (process.after ?? []).flatMap((name) => places.get(name) ?? []),
        waits: process.waits,
      });
      numbers.push(growth.delayMs, growth.rate / 1000, growth.bytes, growth.holdMs, process.oomScoreAdj ?? 0);
    }
    places.set(process.name, own);
  }
  const capacity =
    plan.vm === null ? Number.POSITIVE_INFINITY : (plan.pods?.node.memTotal ?? memTotalOf(plan.vm.memory));
  const { kubelet } = plan;
  const thresholds = kubelet?.config.thresholds ?? [];
  const pods = kubelet?.pods ?? [];
  const kubepods = kubelet ? limits.get(directories.get(kubelet.kubepods) ?? "") : undefined;
  return {
    shape: {
      processes,
      cgroups: limited.map((directory) => ({ name: limits.get(directory)?.name ?? directory, directory })),
      thresholds: thresholds.map(({ signal, value, minReclaim }) => ({
        signal,
        share: "fraction" in value,
        reclaimShare: minReclaim === null ? null : "fraction" in minReclaim,
      })),
      pods: pods.map(({ name, static: isStatic, containers }) => ({
        name,
        static: isStatic,
        processes: containers.flatMap(({ process }) => places.get(process) ?? []),
        containers: containers.map((container) => ({
          name: container.name,
          processes: places.get(container.process) ?? [],
        })),
      })),
      kubelet: kubelet
        ? {
            minor: kubelet.config.minor,
            maxPodGracePeriodSeconds: kubelet.config.maxPodGracePeriodSeconds,
            pressureTransitionPeriodMs: kubelet.config.pressureTransitionPeriodMs,
          }
        : null,
      seed: plan.name,
    },
    numbers: Float64Array.from([
      capacity,
      node.workingSet,
      capacity - node.reserve - (Number.isFinite(capacity) ? capacity * node.reserveShare : 0),
      kubepods?.limit ?? Number.POSITIVE_INFINITY,
      plan.timeoutMs,
      node.stallMs,
      node.touchRate / 1000,
      ...numbers,
      ...limited.map((directory) => limits.get(directory)?.limit ?? Number.POSITIVE_INFINITY),
      ...thresholds.flatMap(({ value, gracePeriodMs, minReclaim }) => [
        "fraction" in value ? value.fraction : value.bytes,
        gracePeriodMs,
        minReclaim === null ? 0 : "fraction" in minReclaim ? minReclaim.fraction : minReclaim.bytes,
      ]),
      ...pods.flatMap(({ request, priority, terminationGracePeriodSeconds }: EvictablePodNumbers) => [
        request,
        priority ?? Number.NaN,
        terminationGracePeriodSeconds ?? Number.NaN,
      ]),
    ]),
  };
}

type EvictablePodNumbers = Pick<EvictablePod, "request" | "priority" | "terminationGracePeriodSeconds">;

/** A cgroup's directory and those above it, the innermost first. */
function ancestors(directory: string | null): string[] {
  const all: string[] = [];
  for (let path = directory; path !== null && path !== "";) {
    all.push(path);
    const end = path.lastIndexOf("/");
    path = end < 0 ? null : path.slice(0, end);
  }
  return all;
}

const podsByProcess = (kubelet: PlannedKubelet | null): Map<string, number> =>
  new Map(
    (kubelet?.pods ?? []).flatMap(({ containers }, place) =>
      containers.map(({ process }): [string, number] => [process, place]),
    ),
  );

/** What of a plan the model does not know, or null. */
function beyond(plan: Plan): string | null {
  if (plan.steps.length > 0) return `the model knows no steps, and the scenario's first is ${plan.steps[0]?.do}`;
  if (plan.vm && plan.vm.memory < 192 * mebibyte) return "the model knows no node of less than 192Mi";
  if (plan.vm?.swap) return "the model knows no swap";
  if (plan.vm?.numa) return "the model knows no NUMA nodes";
  const sysctl = Object.entries(plan.vm?.sysctl ?? {}).find(
    ([name, value]) =>
      (/^vm\.(?:panic_on_oom|oom_kill_allocating_task)$/.test(name) && value !== "0") ||
      (name === "vm.overcommit_memory" && value === "2"),
  );
  if (sysctl) return `the model knows no ${sysctl[0]} = ${sysctl[1]}`;
  for (const { name, writes } of plan.cgroups) {
    const high = writes.find(({ file, value }) => file === "memory.high" && value !== "max");
    if (high) return `the model knows no memory.high, and cgroup ${name} has ${high.value}`;
    if (writes.some(({ file, value }) => file === "memory.oom_control" && value === "1"))
      return `the model knows no memory.oom_control = 1, as cgroup ${name} has`;
  }
  if (plan.kubelet?.config.memcgNotification && plan.cgroupVersion === 1)
    return "the model knows no kernelMemcgNotification";
  return null;
}

/** Kinds of memory that are a process' own: gone with it, counted in its score. */
const owned = new Set(["--anon", "--shared", "--shmem", "--mlock", "--stack", "--brk"]);
/** Those of them that the kernel reserves, unless asked not to. */
const reserved = new Set(["--anon", "--shared", "--mlock", "--brk"]);
/** Kinds that the model cannot tell. */
const unknownKinds: Readonly<Record<string, string>> = {
  "--file": "page cache, which the kernel reclaims",
  "--file-write": "page cache, which the kernel reclaims",
  "--tmpfs": "tmpfs, which outlives its process",
  "--shm": "System V shared memory, which outlives its process",
  "--hugetlb": "reserved huge pages",
  "--pipes": "kernel memory",
  "--sockets": "kernel memory",
  "--kernel-stacks": "kernel memory",
  "--steps": "growth in steps",
  "--stride": "sparse touching",
};

interface Growth {
  delayMs: number;
  /** Bytes a second. */
  rate: number;
  bytes: number;
  holdMs: number;
}

/** A process' memory over time, or why the model cannot tell it. */
function growthOf({ name, program, argv, bytes }: PlannedProcess): Growth | string {
  if (program === "command") return `the model does not know what the command of process ${name} takes`;
  if (program === "node") {
    const { rate, delayMs, hold } = JSON.parse(argv[0] ?? "{}") as {
      rate: number | null;
      delayMs: number;
      hold: number | "forever";
    };
    return {
      delayMs,
      rate: rate ?? Number.POSITIVE_INFINITY,
      // Node's own, before it takes any.
      bytes: (bytes ?? 0) + 45 * mebibyte,
      holdMs: hold === "forever" ? Number.POSITIVE_INFINITY : hold,
    };
  }
  if (!argv.includes("--no-reserve") && argv.some((flag) => reserved.has(flag)))
    return `the model knows no memory that the kernel may refuse, and process ${name} states reserve: true`;
  const growth: Growth = { delayMs: 0, rate: Number.POSITIVE_INFINITY, bytes: 0, holdMs: 0 };
  for (const [index, flag] of argv.entries()) {
    const value = argv[index + 1] ?? "";
    if (owned.has(flag)) growth.bytes += Number(value);
    const kind = unknownKinds[flag];
    if (kind !== undefined) return `the model knows no ${kind}, and process ${name} asks for it`;
    if (flag === "--repeat") return `the model knows no repetition, and process ${name} repeats ${value} times`;
    if (flag === "--rate") growth.rate = parseRate(value);
    if (flag === "--delay") growth.delayMs = parseDuration(value);
    if (flag === "--hold") growth.holdMs = value === "forever" ? Number.POSITIVE_INFINITY : parseDuration(value);
  }
  return growth;
}
