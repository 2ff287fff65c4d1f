/**
 * Pods in a plan: their cgroups and processes become those of a scenario, with their paths in the hierarchy as names,
 * so that all that is decided about cgroups and processes is decided about Pods too. Pure; a plan that meets another
 * MemTotal than it reckoned with is laid out again by the same rules.
 */
import type { KubeletConfig, Runtime } from "../kubernetes/config.ts";
import { type PlannedKubelet, planKubelet } from "../kubernetes/kubelet-plan.ts";
import { type ContainerLayout, type Layout, layOutPods, type Write } from "../kubernetes/layout.ts";
import type { PodSpec, QosClass } from "../kubernetes/pod.ts";
import type { CgroupVersion, Plan, PlannedCgroup } from "../plan.ts";
import type { KubernetesSpec, ProcessSpec, Scenario, Step, StressWorkload } from "../scenario/index.ts";
import { limitFiles } from "./tree.ts";

/** Bytes; what passes 2^53 is a string, so that no reader rounds it. */
export type Bytes = number | string;

/** The Pods of a plan and their node: what the layout came from and what it came to. JSON. */
export interface PlannedPods {
  node: {
    /** What the scenario states; null: the machine's own. */
    memory: number | null;
    /** MemTotal that the files were computed from. */
    memTotal: number;
    swap: number;
    kubeletVersion: string;
    runtime: Runtime;
    /** What all Pods may take together, and Node.status.allocatable (less the hard eviction threshold). */
    allocatable: Bytes;
    statusAllocatable: Bytes;
  };
  pods: { name: string; qos: QosClass; critical: boolean; request: Bytes; limit: Bytes | null; uid: string }[];
  containers: { name: string; pod: string; kind: ContainerLayout["kind"]; oomScoreAdj: number; why: string }[];
  volumes: PlannedVolume[];
  /** Containers that are pressed in turn, and the one that this plan presses. */
  turns: string[];
  turn: string | null;
  /** Whether the scenario states any expectation; where not, every outcome is a result. */
  stated: boolean;
  ignored: string[];
  notes: string[];
  /** What it is laid out from again. */
  source: { specs: PodSpec[]; kubelet: KubeletConfig; swapController: boolean };
}

export interface PlannedVolume {
  /** `pod/volume`. */
  name: string;
  /** The tmpfs' size option; null: half of RAM. */
  size: string | null;
  why: string;
  mounts: { container: string; path: string }[];
  /** Where it is mounted; null: no process of the plan writes there. */
  path: string | null;
}

/** The machine as Pods see it. Sizes in bytes. */
export interface PodMachine {
  version: CgroupVersion;
  memTotal: number;
  swap: number;
  /** memory.swap.max, on v1 memory.memsw.limit_in_bytes exist. */
  swapController: boolean;
  /** The run's own name: volumes are mounted below /tmp/NAME. */
  runName: string;
  /** The tree stands at the hierarchy's root: a machine of its own. */
  atRoot: boolean;
}

/** Pods laid out on a machine: the scenario with their cgroups and processes in it. */
export interface LaidPods {
  scenario: Scenario;
  layout: Layout;
  volumes: PlannedVolume[];
  /** A cgroup's path for the name that the scenario has for it, and back. */
  pathOf(name: string): string;
  nameOf(path: string): string;
  /** The files of a Pod's cgroup; undefined: it is none of theirs. */
  writesOf(path: string): readonly Write[] | undefined;
}

const mebibyte = 1048576;

const json = (bytes: bigint): Bytes => (bytes <= 2n ** 53n ? Number(bytes) : String(bytes));

/** One scenario for each container that is pressed in turn; any other scenario is itself. */
export function turnsOf(scenario: Scenario): Scenario[] {
  const { kubernetes } = scenario;
  if (kubernetes === undefined || kubernetes.turns.length === 0 || kubernetes.turn !== null) return [scenario];
  return kubernetes.turns.map((turn) => ({
    ...scenario,
    name: kubernetes.turns.length === 1 ? scenario.name : `${scenario.name}: ${turn}`,
    kubernetes: { ...kubernetes, turn },
  }));
}

/** Of turns that are shown as one plan, the one that asks most of its machine: a container without limit, else the largest. */
function hardestTurn({ turns, turn }: KubernetesSpec, containers: ReadonlyMap<string, ContainerLayout>): string | null {
  if (turn !== null || turns.length === 0) return turn;
  const size = (name: string): bigint => containers.get(name)?.limit ?? 2n ** 64n;
  return turns.reduce((best, name) => (size(name) > size(best) ? name : best), turns[0] ?? "");
}

function layOut({ node, pods }: Pick<KubernetesSpec, "node" | "pods">, machine: PodMachine): Layout {
  return layOutPods(pods, {
    kubelet: node.kubelet,
    runtime: node.runtime,
    cgroupVersion: machine.version,
    capacity: BigInt(machine.memTotal),
    swap: BigInt(machine.swap),
    swapController: machine.swapController,
  });
}

/** Lays the Pods of a scenario out on a machine; undefined: it has none. Of several turns it presses the hardest. */
export function layPods(scenario: Scenario, machine: PodMachine): LaidPods | undefined {
  if (scenario.kubernetes === undefined) return undefined;
  const layout = layOut(scenario.kubernetes, machine);
  const containers = new Map(layout.containers.map((container) => [container.name, container]));
  const kubernetes = { ...scenario.kubernetes, turn: hardestTurn(scenario.kubernetes, containers) };
  const paths = new Map(layout.cgroups.map(({ name, path }) => [name, path]));
  const names = new Map(layout.cgroups.map(({ name, path }) => [path, name]));
  const writes = new Map(layout.cgroups.map((cgroup) => [cgroup.path, cgroup.writes]));
  const ofPods = new Set(layout.pods.map(({ name }) => name));
  const otherDriver = otherNames(layout);
  const pathOf = (name: string): string => paths.get(name) ?? otherDriver.get(name) ?? name;
  const volumes = plannedVolumes(layout, kubernetes, machine);
  const here = { line: scenario.line, column: 1 };
  return {
    layout,
    volumes,
    pathOf,
    nameOf: (path) => names.get(path) ?? path,
    writesOf: (path) => writes.get(path),
    scenario: {
      ...scenario,
      kubernetes,
      cgroups: [
        ...scenario.cgroups,
        ...layout.cgroups.map(({ name, path, writes: own }) => ({
          name: path,
          // The limit of all Pods holds nobody back who has none of his own: it is the node's.
          files:
            ofPods.has(name) || containers.has(name)
              ? own
                  .filter(({ file }) => limitFiles.has(file))
                  .map(({ file, value }) => ({ file, value, raw: value, ...here }))
              : [],
          ...here,
        })),
      ],
      processes: [
        ...scenario.processes.map((process) => ({
          ...process,
          cgroup: process.cgroup === null ? null : pathOf(process.cgroup),
        })),
        ...kubernetes.pods.flatMap((pod) => processesOf(pod, kubernetes, containers, volumes, machine, pathOf)),
      ],
      steps: scenario.steps.map((step) => inPaths(step, pathOf)),
      expect: {
        ...scenario.expect,
        limit:
          scenario.expect.limit === null ? null : (names.get(pathOf(scenario.expect.limit)) ?? scenario.expect.limit),
      },
    },
  };
}

/** `kubepods` where the driver says `kubepods.slice`, and the other way round: scenarios need not know the driver. */
function otherNames({ kubepods, cgroups }: Layout): Map<string, string> {
  // layOutPods puts the tiers right behind their parent.
  const first = cgroups.findIndex(({ path }) => path === kubepods) + 1;
  const [burstable = "", bestEffort = ""] = cgroups.slice(first, first + 2).map(({ path }) => path);
  return new Map([
    ["kubepods", kubepods],
    ["kubepods/burstable", burstable],
    ["kubepods/besteffort", bestEffort],
    ["kubepods.slice", kubepods],
    ["kubepods.slice/kubepods-burstable.slice", burstable],
    ["kubepods.slice/kubepods-besteffort.slice", bestEffort],
  ]);
}

/** A step's cgroups by their paths (or, with the way back, by their names). */
export function inPaths<T extends Step>(step: T, pathOf: (name: string) => string): T {
  if (step.do === "wait")
    return step.until.of === "counters"
      ? { ...step, until: { ...step.until, cgroup: pathOf(step.until.cgroup) } }
      : step;
  return "cgroup" in step && step.cgroup !== null ? { ...step, cgroup: pathOf(step.cgroup) } : step;
}

/** Each container's process: what presses in it, or an idle one. Init containers come before the others, in order. */
function processesOf(
  pod: PodSpec,
  kubernetes: KubernetesSpec,
  containers: ReadonlyMap<string, ContainerLayout>,
  volumes: readonly PlannedVolume[],
  machine: PodMachine,
  pathOf: (name: string) => string,
): ProcessSpec[] {
  const before: string[] = [];
  return [...pod.initContainers, ...pod.containers].map((container): ProcessSpec => {
    const name = `${pod.name}/${container.name}`;
    const laid = containers.get(name);
    const init = laid?.kind === "init";
    const stated = kubernetes.pressure.find((process) => process.name === name);
    const work: Omit<ProcessSpec, "name" | "cgroup" | "oomScoreAdj"> =
      stated !== undefined
        ? { ...stated, workload: inVolumes(stated.workload, pod.name, container.name, volumes) }
        : { ...defaults, workload: { kind: "stress", stress: idle(init) }, idle: true };
    if (kubernetes.turn === name && laid !== undefined) {
      work.workload = {
        kind: "stress",
        stress: { ...plainStress, memory: [{ kind: "anon", size: { bytes: past(laid, machine) } }] },
      };
      delete work.idle;
    }
    const after = [...before];
    if (init) before.push(name);
    return {
      ...work,
      name,
      cgroup: pathOf(name),
      oomScoreAdj: stated?.oomScoreAdj ?? laid?.oomScoreAdj ?? null,
      ...(after.length > 0 ? { after } : {}),
    };
  });
}

const plainStress: StressWorkload = {
  memory: [],
  touch: "page",
  stride: null,
  content: "zero",
  populate: false,
  hugePages: null,
  reserve: false,
  rate: null,
  steps: null,
  delayMs: 0,
  hold: 0,
  retouchMs: null,
  repeat: 1,
  workers: 1,
  threads: 1,
  shareVm: 0,
  exitMainThread: false,
  dir: null,
};

/** A page, kept as long as the others run; an init container's ends at once. */
const idle = (init: boolean): StressWorkload => ({
  ...plainStress,
  memory: [{ kind: "anon", size: { bytes: 4096 } }],
  hold: init ? 0 : "forever",
});

const defaults = {
  user: null,
  cpus: null,
  mempolicy: null,
  rlimits: [],
  start: "auto" as const,
  line: 1,
  column: 1,
};

/** More than a container may have, in whole MiB: its limit, the swap beside it, and a quarter on top; without limit more than the node has. */
function past({ limit, swap }: ContainerLayout, { memTotal, swap: ofNode }: PodMachine): number {
  const tooMuch = (memTotal + ofNode) * 1.25;
  const wholeMebibytes = (bytes: number): number => Math.ceil(bytes / mebibyte) * mebibyte;
  if (limit === null) return wholeMebibytes(tooMuch);
  const allowed = Number(limit) + (swap === null ? ofNode : Math.min(Number(swap), ofNode));
  const quarter = Math.min(256 * mebibyte, Math.max(16 * mebibyte, Number(limit) / 4));
  return wholeMebibytes(Math.min(allowed + quarter, tooMuch));
}

/** A workload's `dir` is the container's own path; where a volume is mounted there, it is the volume's. */
function inVolumes(
  workload: ProcessSpec["workload"],
  pod: string,
  container: string,
  volumes: readonly PlannedVolume[],
): ProcessSpec["workload"] {
  if (workload.kind !== "stress" || workload.stress.dir === null) return workload;
  const dir = realPath(workload.stress.dir, pod, container, volumes);
  return dir === undefined ? workload : { ...workload, stress: { ...workload.stress, dir } };
}

function realPath(dir: string, pod: string, container: string, volumes: readonly PlannedVolume[]): string | undefined {
  for (const volume of volumes) {
    if (volume.name.slice(0, volume.name.lastIndexOf("/")) !== pod || volume.path === null) continue;
    const mount = volume.mounts.find((candidate) => candidate.container === container && isWithin(dir, candidate.path));
    if (mount !== undefined) return `${volume.path}${dir.slice(mount.path.replace(/\/+$/, "").length)}`;
  }
  return undefined;
}

const isWithin = (path: string, folder: string): boolean => {
  const plain = folder.replace(/\/+$/, "");
  return path === plain || path.startsWith(`${plain}/`);
};

/** Volumes; those that a process of the scenario writes to are mounted. */
function plannedVolumes(layout: Layout, { pressure }: KubernetesSpec, { runName }: PodMachine): PlannedVolume[] {
  return layout.volumes.map(({ name, pod, size, why, mounts }, index): PlannedVolume => {
    const used = pressure.some(({ name: process, workload }) => {
      const dir = workload.kind === "stress" ? workload.stress.dir : null;
      return (
        dir !== null && mounts.some(({ container, path }) => process === `${pod}/${container}` && isWithin(dir, path))
      );
    });
    return {
      name,
      size: size === null ? null : String(size),
      why,
      mounts,
      path: used ? `/tmp/${runName}/${index}-${name.slice(name.lastIndexOf("/") + 1)}` : null,
    };
  });
}

/** What a plan says of its Pods. */
export function plannedPods(
  scenario: Scenario,
  { layout, volumes }: LaidPods,
  machine: PodMachine,
): PlannedPods | null {
  const { kubernetes } = scenario;
  if (kubernetes === undefined) return null;
  const { node, pods, turns, turn } = kubernetes;
  const notes = [...kubernetes.warnings];
  if (node.kubelet.failCgroupV1 && machine.version === 1)
    notes.push(`kubelet 1.${node.kubelet.minor} starts on cgroup v1 only with failCgroupV1: false`);
  if (layout.reservation > BigInt(machine.memTotal))
    notes.push(
      `such a kubelet does not start: Resource "memory" has a reservation of ${layout.reservation} but capacity of ${machine.memTotal}. Expected capacity >= reservation.`,
    );
  for (const { name, priority, priorityClassName } of pods)
    if (priorityClassName !== null && priority === null)
      notes.push(
        `${name}: what its priorityClassName ${priorityClassName} is worth is not in these files, taken for 0: spec.priority tells it (kubectl get pod shows it)`,
      );
  if (node.kubelet.failSwapOn && machine.swap > 0)
    notes.push("the node has swap, and a kubelet with failSwapOn (the default) does not start there");
  return {
    node: {
      memory: node.memory,
      memTotal: machine.memTotal,
      swap: machine.swap,
      kubeletVersion: `1.${node.kubelet.minor}`,
      runtime: node.runtime,
      allocatable: json(layout.allocatable),
      statusAllocatable: json(layout.statusAllocatable),
    },
    pods: layout.pods.map(({ name, qos, critical, request, limit }, index) => ({
      name,
      qos,
      critical,
      request: json(request),
      limit: limit === null ? null : json(limit),
      uid: pods[index]?.uid ?? "",
    })),
    containers: layout.containers.map(({ name, pod, kind, oomScoreAdj, why }) => ({
      name,
      pod,
      kind,
      oomScoreAdj,
      why,
    })),
    volumes,
    turns,
    turn,
    stated: isStated(scenario),
    ignored: [...kubernetes.ignored, ...node.kubelet.ignored.map((field) => `KubeletConfiguration.${field}`)],
    notes,
    source: { specs: pods, kubelet: node.kubelet, swapController: machine.swapController },
  };
}

const isStated = ({ expect }: Scenario): boolean => Object.keys(expect.where).length > 0;

/** The kubelet that watches the Pods; null: there are none. */
export function plannedKubelet({ kubernetes }: Scenario, { layout }: LaidPods): PlannedKubelet | null {
  return kubernetes === undefined ? null : planKubelet(kubernetes.node.kubelet, kubernetes.pods, layout.kubepods);
}

/**
 * The plan for the MemTotal that its machine turned out to have: files and oom_score_adj are computed again, nothing
 * else changes. The plan itself where it has no Pods or reckoned with just that.
 */
export function relayPlan(plan: Plan, memTotal: number): Plan {
  const { pods } = plan;
  if (!pods || pods.node.memTotal === memTotal) return plan;
  const { source, node } = pods;
  const layout = layOutPods(source.specs, {
    kubelet: source.kubelet,
    runtime: node.runtime,
    cgroupVersion: plan.cgroupVersion,
    capacity: BigInt(memTotal),
    swap: BigInt(node.swap),
    swapController: source.swapController,
  });
  const writes = new Map(layout.cgroups.map((cgroup) => [cgroup.path, cgroup.writes]));
  const laid = new Map(layout.containers.map((container) => [container.name, container]));
  const before = new Map(pods.containers.map((container) => [container.name, container.oomScoreAdj]));
  return {
    ...plan,
    cgroups: plan.cgroups.map((cgroup): PlannedCgroup => {
      const again = writes.get(cgroup.directory ?? cgroup.name);
      // What passes controllers on is the plan's own.
      const own = cgroup.writes.filter(({ file }) => file.startsWith("cgroup."));
      return again === undefined ? cgroup : { ...cgroup, writes: [...again, ...own] };
    }),
    processes: plan.processes.map((process) => {
      const container = laid.get(process.name);
      // A stated oom_score_adj is not the kubelet's.
      return container === undefined || process.oomScoreAdj !== before.get(process.name)
        ? process
        : { ...process, oomScoreAdj: container.oomScoreAdj };
    }),
    pods: {
      ...pods,
      node: {
        ...node,
        memTotal,
        allocatable: json(layout.allocatable),
        statusAllocatable: json(layout.statusAllocatable),
      },
      containers: layout.containers.map(({ name, pod, kind, oomScoreAdj, why }) => ({
        name,
        pod,
        kind,
        oomScoreAdj,
        why,
      })),
      volumes: pods.volumes.map((volume) => {
        const again = layout.volumes.find(({ name }) => name === volume.name);
        return again === undefined
          ? volume
          : { ...volume, size: again.size === null ? null : String(again.size), why: again.why };
      }),
    },
  };
}

/**
 * What of a guest's memory its kernel keeps from the start, measured with the cloud kernels of Debian 12 (6.1): a fixed
 * part, a page struct for each page, and above 3 GiB, where addresses pass 4 GiB, the bounce buffers.
 */
const kernelShare = (memory: number): number =>
  34 * mebibyte + Math.ceil(memory * 0.0171) + (memory > 3072 * mebibyte ? 64 * mebibyte : 0);

/** MemTotal of a guest with so much memory. */
export const memTotalOf = (memory: number): number => Math.floor((memory - kernelShare(memory)) / 4096) * 4096;

/** The memory of a guest that is to have a MemTotal: whole MiB. */
export function memoryFor(memTotal: number): number {
  let memory = memTotal;
  for (let round = 0; round < 8; round++) memory = memTotal + kernelShare(memory);
  return Math.ceil(memory / mebibyte) * mebibyte;
}
