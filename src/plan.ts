/**
 * Scenario x what the machine can do -> plan: cgroups with their ordered writes, processes, steps, expectations,
 * or the reason to skip. Pure: a plan is data, printable, the same for the same input.
 */
import type {
  CgroupSpec,
  Comparison,
  Expectations,
  ProcessSpec,
  Scenario,
  Size,
  Step,
  StressWorkload,
} from "./scenario/index.ts";
import { CGROUP_FILES, splitCounter } from "./scenario/cgroupfiles.ts";
import {
  inPaths,
  type LaidPods,
  layPods,
  memoryFor,
  memTotalOf,
  plannedKubelet,
  type PlannedPods,
  plannedPods,
  type PodMachine,
} from "./plan/pods.ts";
import { leastVmMemory, vmCapabilities, vmDemand, vmMemory, type VmSpec, vmSpec } from "./plan/vm.ts";
import type { PlannedKubelet } from "./kubernetes/kubelet-plan.ts";
import { formatBytes } from "./units.ts";

export { memTotalOf, type PlannedPods, type PlannedVolume, relayPlan, turnsOf } from "./plan/pods.ts";
export type { VmSpec } from "./plan/vm.ts";

export type MachineName = "host" | "vm" | "container" | "kubernetes";
export type CgroupVersion = 1 | 2;

/** A hierarchy with the memory controller in which oomlab may make its cgroup. */
export interface Hierarchy {
  version: CgroupVersion;
  /** Where the hierarchy is mounted. */
  mount: string;
  /** Directory under which the run's own cgroup is made. */
  directory: string;
  /** The same as the kernel's log names it ("" for the hierarchy's root). */
  path: string;
  /** v1: the cpuset hierarchy's directory; null where there is none or it is not writable. */
  cpusetDirectory: string | null;
  /** v2: controllers that the run's own cgroup may enable. */
  controllers: string[];
  /** v1: memory.memsw.* exists (swap is accounted). */
  memsw: boolean;
  /** v2: oomlab alone stands in the directory, the root of a container's own namespace, and leaves it for a child. */
  occupied?: boolean;
}

/** What one machine can do, as probed. Sizes in bytes. */
export interface Capabilities {
  kernel: string;
  cpus: number;
  uid: number;
  memTotal: number;
  memAvailable: number;
  swapTotal: number;
  hierarchies: Hierarchy[];
  /** The version that the memory controller is on, usable or not. */
  memoryController: CgroupVersion | null;
  /** Both cgroup versions are mounted, whichever the memory controller is on. */
  hybrid: boolean;
  /** Why a cgroup version cannot be used, in words. */
  cgroupProblems: Partial<Record<CgroupVersion, string>>;
  /** Why the kernel log cannot be read, or null. */
  kmsgProblem: string | null;
  /** Effective capabilities without CAP_, e.g. SYS_RESOURCE. */
  capabilities: string[];
  oomScoreAdj: number;
  /** Free huge pages of the default size, in bytes. */
  hugetlbFree: number;
  /** Userspace OOM killers at work here (systemd-oomd, earlyoom ...). */
  oomKillers: string[];
  /** systemd owns the cgroup tree: a delegated scope is asked for. */
  systemd: boolean;
  initPidNamespace: boolean;
}

export interface PlannedWrite {
  file: string;
  value: string;
  /** The scenario's own words it comes from. */
  why: string;
}

export interface PlannedCgroup {
  /** As the scenario names it; of Pods `pod` and `pod/container`. */
  name: string;
  /** Below the run's own cgroup; absent: the name. */
  directory?: string;
  /** As the kernel's log names it. */
  path: string;
  writes: PlannedWrite[];
}

/** Where a cgroup stands below the run's own. */
export const directoryOf = ({ name, directory }: Pick<PlannedCgroup, "name" | "directory">): string =>
  directory ?? name;

export interface PlannedProcess {
  name: string;
  cgroup: string | null;
  program: "stress" | "node" | "command";
  /** Without argv[0], except for a command. */
  argv: string[];
  env: Record<string, string>;
  cwd: string | null;
  oomScoreAdj: number | null;
  user: { uid: number; gid: number } | null;
  cpus: number[] | null;
  mempolicy: ProcessSpec["mempolicy"];
  rlimits: ProcessSpec["rlimits"];
  start: "auto" | "step";
  /** Bytes that each of its workers states it will touch; null for a command. */
  bytes: number | null;
  workers: number;
  /** Makes processes or threads of its own that the kernel's log may name. */
  forks: boolean;
  /** Holds what it has touched until the others have ended. */
  waits: boolean;
  /** It starts when these have ended with status 0; absent: at once. */
  after?: string[];
}

export type PlannedStep =
  | Exclude<Step, { do: "write" }>
  | (Extract<Step, { do: "write" }> & { writes: PlannedWrite[] });

export interface Plan {
  name: string;
  file: string;
  /** Where the scenario begins in its file, from 1; records of old do not say. */
  line?: number;
  machine: MachineName;
  cgroupVersion: CgroupVersion;
  /** Why it is not run, or null. */
  skip: string | null;
  /**
   * The run's own cgroup: its name, its directory in the hierarchy (absent: the name; "" in a VM of Pods, whose tree
   * stands at the root), and its path as the kernel's log names it.
   */
  top: { name: string; directory?: string; path: string; writes: PlannedWrite[] };
  cgroups: PlannedCgroup[];
  processes: PlannedProcess[];
  steps: PlannedStep[];
  expect: Expectations;
  timeoutMs: number;
  /** Memory it can take at most, in bytes; null: no limit holds it. Of a VM: what it takes of the host. */
  demand: number | null;
  /** The guest it runs in; null on the host and in a container. */
  vm: VmSpec | null;
  /** The kubelet that watches its Pods; absent or null: there are none. */
  kubelet?: PlannedKubelet | null;
  /** Its Pods and their node; absent or null: there are none. */
  pods?: PlannedPods | null;
}

export interface PlanOptions {
  /** Makes the run's own cgroup unique: `oomlab-<runId>`. */
  runId: string;
  machine: MachineName | "auto";
  cgroupVersion?: CgroupVersion;
  /** Both cgroup versions must be mounted; the memory controller is on v1 unless the scenario states otherwise. */
  hybrid?: boolean;
  timeoutMs?: number;
  allowHostOom?: boolean;
  /** Of the VM, where the command line names one. */
  kernel?: string;
}

const defaultTimeoutMs = 60_000;

/** cgroup v2's files that have no like on v1, and why. */
const onlyV2: Record<string, string> = {
  "memory.high": "throttles; v1 has no such limit",
  "memory.low": "protects memory; v1 has no such protection",
  "memory.min": "protects memory; v1 has no such protection",
  "memory.oom.group": "kills a cgroup as a whole; v1 kills one process",
  "memory.swap.high": "throttles swap; v1 has no such limit",
  "memory.zswap.max": "limits zswap; v1 has no such limit",
  "memory.zswap.writeback": "v1 has no such switch",
};

/** cgroup v2's counters that v1 can tell too; the v1 driver translates them. */
const countersOnV1 = [
  /^memory\.(current|peak|max|swap\.current)$/,
  /^memory\.events(\.local)?\.(max|oom_kill)$/,
  /^memory\.stat\./,
  /^cgroup\.procs$/,
];

/** Whether a file or counter is one of cgroup v1's own: a scenario that uses it runs on v1 only. */
function isV1Name(name: string): boolean {
  const versions = CGROUP_FILES.get(name)?.versions ?? splitCounter(name)?.known.versions ?? [];
  return versions.length === 1 && versions[0] === 1;
}

interface Translated {
  writes: PlannedWrite[];
  skip: string | null;
}

/** The files of one cgroup as this version writes them, in the order of writing. */
function translate(
  files: { file: string; value: string; raw?: string }[],
  version: CgroupVersion,
  caps: Capabilities,
  limit: string | undefined,
): Translated {
  const writes: PlannedWrite[] = [];
  const said = (file: string, raw: string): string => `${file}: ${raw}`;
  let skip: string | null = null;
  if (version === 2) {
    for (const { file, value, raw } of files) {
      if (isV1Name(file)) skip ??= `${file} is cgroup v1's own, and this is cgroup v2`;
      writes.push({ file, value, why: said(file, raw ?? value) });
    }
    return { writes, skip };
  }
  const memsw: PlannedWrite[] = [];
  for (const { file, value, raw } of files) {
    const why = said(file, raw ?? value);
    if (file === "memory.max") {
      writes.push({ file: "memory.limit_in_bytes", value: value === "max" ? "-1" : value, why });
    } else if (file === "memory.swap.max") {
      const max = files.find((other) => other.file === "memory.max")?.value ?? limit;
      if (value === "max") {
        memsw.push({ file: "memory.memsw.limit_in_bytes", value: "-1", why });
      } else if (max === undefined || max === "max") {
        skip ??= "memory.swap.max without memory.max: cgroup v1 limits memory and swap together only";
      } else if (hierarchyOf(caps, 1)?.memsw === false) {
        if (caps.swapTotal > 0)
          skip ??=
            "memory.swap.max needs swap accounting, which this cgroup v1 kernel has not (boot with swapaccount=1)";
      } else {
        memsw.push({
          file: "memory.memsw.limit_in_bytes",
          value: String(Number(max) + Number(value)),
          why: `${why}, and memory.max: together on v1`,
        });
      }
    } else if (file === "memory.memsw.limit_in_bytes") {
      memsw.push({ file, value: value === "max" ? "-1" : value, why });
    } else if (file in onlyV2) {
      if (file === "memory.oom.group" && value === "0") continue;
      skip ??= `${file} ${onlyV2[file]} (cgroup v2 only)`;
    } else if (file.startsWith("cgroup.")) {
      skip ??= `${file} is cgroup v2's own, and this is cgroup v1`;
    } else {
      writes.push({ file, value, why });
    }
    if (file.startsWith("cpuset.") && hierarchyOf(caps, 1)?.cpusetDirectory === null)
      skip ??= `${file} needs the cpuset controller, which is not mounted or not writable here`;
  }
  // memsw may never be below the limit: on a new cgroup (both unlimited) the limit comes down first.
  return { writes: [...writes, ...memsw], skip };
}

export function hierarchyOf(caps: Capabilities, version: CgroupVersion): Hierarchy | undefined {
  return caps.hierarchies.find((hierarchy) => hierarchy.version === version);
}

const parentOf = (name: string): string | null => (name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : null);

/** Every cgroup of the scenario, parents (also those not listed) before children. */
function cgroupNames(scenario: Scenario): string[] {
  const names = new Set<string>();
  const add = (name: string): void => {
    const parent = parentOf(name);
    if (parent !== null) add(parent);
    names.add(name);
  };
  for (const { name } of scenario.cgroups) add(name);
  return [...names];
}

const indexes = new WeakMap<Scenario, Map<string, CgroupSpec>>();

/** The cgroups of a scenario by name; a manifest may bring a thousand. */
function byName(scenario: Scenario): Map<string, CgroupSpec> {
  let index = indexes.get(scenario);
  if (!index) indexes.set(scenario, (index = new Map(scenario.cgroups.map((spec) => [spec.name, spec]))));
  return index;
}

const limitFiles = new Set(["memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]);

const asLimit = (value: string): number => (/^\d+$/.test(value) ? Number(value) : Number.POSITIVE_INFINITY);

/** The smallest memory limit that holds for a cgroup, its ancestors' included; steps that write a limit count with their largest value. */
function effectiveLimit(scenario: Scenario, cgroup: string | null): number {
  let limit = Number.POSITIVE_INFINITY;
  const specs = byName(scenario);
  for (let name = cgroup; name !== null; name = parentOf(name)) {
    const here = name;
    for (const { file, value } of specs.get(here)?.files ?? []) {
      if (!limitFiles.has(file)) continue;
      const later = scenario.steps.filter(
        (step) => step.do === "write" && step.cgroup === here && step.file === file,
      ) as Extract<Step, { do: "write" }>[];
      limit = Math.min(limit, Math.max(...[value, ...later.map((step) => step.value)].map(asLimit)));
    }
  }
  return limit;
}

const sizeIn = (size: Size, whole: number): number =>
  "bytes" in size ? size.bytes : Math.floor((whole * size.percent) / 100);

/** What a percentage in a workload is a percentage of: the limit above the process, else the machine's memory. */
function wholeOf(scenario: Scenario, cgroup: string | null, caps: Capabilities): number {
  const limit = effectiveLimit(scenario, cgroup);
  return Number.isFinite(limit) ? limit : (scenario.machine.memory ?? caps.memTotal);
}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** The worker's arguments (docs/stress.md). */
function stressArgv(stress: StressWorkload, whole: number): string[] {
  const argv: string[] = [];
  for (const { kind, size } of stress.memory) argv.push(`--${kebab(kind)}`, String(sizeIn(size, whole)));
  const flag = (name: string, value: string | number | null, unless?: string | number): void => {
    if (value !== null && value !== unless) argv.push(`--${name}`, String(value));
  };
  flag("touch", stress.touch, "page");
  flag("stride", stress.stride);
  flag("content", stress.content, "zero");
  if (stress.populate) argv.push("--populate");
  if (stress.hugePages !== null) argv.push("--huge-pages", stress.hugePages ? "on" : "off");
  if (stress.rate !== null) argv.push("--rate", `${stress.rate}/s`);
  if (stress.steps) argv.push("--steps", `${stress.steps.size}/${stress.steps.everyMs}ms`);
  if (stress.delayMs > 0) argv.push("--delay", `${stress.delayMs}ms`);
  if (stress.hold === "forever") argv.push("--hold", "forever");
  else if (stress.hold > 0) argv.push("--hold", `${stress.hold}ms`);
  if (stress.retouchMs !== null) argv.push("--retouch", `${stress.retouchMs}ms`);
  flag("repeat", stress.repeat, 1);
  flag("workers", stress.workers, 1);
  flag("threads", stress.threads, 1);
  flag("share-vm", stress.shareVm, 0);
  if (stress.exitMainThread) argv.push("--exit-main-thread");
  flag("dir", stress.dir);
  return argv;
}

function planProcess(spec: ProcessSpec, scenario: Scenario, caps: Capabilities): PlannedProcess {
  const whole = wholeOf(scenario, spec.cgroup, caps);
  const common = {
    name: spec.name,
    cgroup: spec.cgroup,
    oomScoreAdj: spec.oomScoreAdj,
    user: spec.user,
    cpus: spec.cpus,
    mempolicy: spec.mempolicy,
    rlimits: spec.rlimits,
    start: spec.start,
    ...(spec.after === undefined ? {} : { after: spec.after }),
  };
  const { workload } = spec;
  if (workload.kind === "stress") {
    const { stress } = workload;
    return {
      ...common,
      program: "stress",
      argv: stressArgv(stress, whole),
      env: {},
      cwd: null,
      bytes: stress.memory.reduce((sum, { size }) => sum + sizeIn(size, whole), 0),
      workers: stress.workers,
      forks: stress.shareVm > 0 || stress.exitMainThread,
      waits: stress.hold === "forever",
    };
  }
  if (workload.kind === "node") {
    const { node } = workload;
    const sizes = node.memory.map(({ kind, size }) => ({ kind, bytes: sizeIn(size, whole) }));
    return {
      ...common,
      program: "node",
      argv: [JSON.stringify({ memory: sizes, rate: node.rate, delayMs: node.delayMs, hold: node.hold })],
      env:
        node.maxOldSpaceSize === null
          ? {}
          : { NODE_OPTIONS: `--max-old-space-size=${Math.max(1, Math.round(node.maxOldSpaceSize / 1048576))}` },
      cwd: null,
      bytes: sizes.reduce((sum, { bytes }) => sum + bytes, 0),
      workers: 1,
      forks: false,
      waits: node.hold === "forever",
    };
  }
  return {
    ...common,
    program: "command",
    argv: workload.shell ? ["/bin/sh", "-c", ...workload.command] : workload.command,
    env: workload.env,
    cwd: workload.cwd,
    bytes: null,
    workers: 1,
    forks: true,
    waits: false,
  };
}

/** Memory that the scenario can take at most: what presses, bounded by each limit above it. */
function demandOf(scenario: Scenario, processes: PlannedProcess[]): number {
  const own = new Map<string | null, number>();
  for (const { cgroup, bytes, workers } of processes)
    own.set(cgroup, (own.get(cgroup) ?? 0) + (bytes === null ? Number.POSITIVE_INFINITY : bytes * workers));
  const children = childrenOf(cgroupNames(scenario));
  const below = (cgroup: string | null): number => {
    const all = children.get(cgroup) ?? [];
    const demand = (own.get(cgroup) ?? 0) + all.reduce((sum, child) => sum + below(child), 0);
    return cgroup === null ? demand : Math.min(demand, effectiveLimit(scenario, cgroup));
  };
  return below(null);
}

/** Paths by the path above them. */
function childrenOf(paths: readonly string[]): Map<string | null, string[]> {
  const children = new Map<string | null, string[]>();
  for (const path of paths) {
    const parent = parentOf(path);
    const siblings = children.get(parent);
    if (siblings) siblings.push(path);
    else children.set(parent, [path]);
  }
  return children;
}

/** Why this scenario needs a machine of its own, or null: sizes, a process with no limit above it, swap, sysrq. */
function needsVm(scenario: Scenario, caps: Capabilities, options: PlanOptions): string | null {
  const { machine, kubernetes } = scenario;
  if (kubernetes?.node.memory) return `it states the node's memory (${formatBytes(kubernetes.node.memory)})`;
  if (kubernetes?.node.swap) return `it states the node's swap (${formatBytes(kubernetes.node.swap)})`;
  if (machine.memory !== null) return `it states the machine's memory (${formatBytes(machine.memory)})`;
  if (machine.swap !== null) return `it states the machine's swap (${formatBytes(machine.swap.size)})`;
  if (machine.numa !== null) return `it states ${machine.numa.length} NUMA nodes`;
  if (Object.keys(machine.sysctl).length > 0) return `it sets sysctls (${Object.keys(machine.sysctl).join(", ")})`;
  if (machine.thp !== null) return "it sets the machine's transparent huge pages";
  if (machine.zswap !== null) return "it sets zswap";
  if (machine.mountOptions.length > 0) return `it states cgroup mount options (${machine.mountOptions.join(", ")})`;
  if (machine.kernel !== null && !kernelMatches(caps.kernel, machine.kernel))
    return `it states kernel ${machine.kernel}, and this one is ${caps.kernel}`;
  if (options.hybrid === true && !caps.hybrid) return "hybrid cgroups were asked for, and this machine's are not";
  const global = scenario.steps.find(
    (step) => step.do === "swapoff" || step.do === "swapon" || step.do === "sysrq" || step.do === "dropCaches",
  );
  if (global) return `its step "${global.do}" acts on the whole machine`;
  if (!options.allowHostOom) {
    const free = scenario.processes.find(
      ({ idle, cgroup }) => idle !== true && !Number.isFinite(effectiveLimit(scenario, cgroup)),
    );
    if (free?.name.includes("/") === true)
      return `container ${free.name} has no memory limit: it could take all that the node has`;
    if (free) return `process ${free.name} has no memory limit above it`;
  }
  return null;
}

const kernelMatches = (release: string, wanted: string): boolean =>
  release === wanted || release.startsWith(`${wanted}.`) || release.startsWith(`${wanted}-`);

/** The first need that this machine does not meet, in words, or null. */
function unmetNeed(
  scenario: Scenario,
  processes: PlannedProcess[],
  version: CgroupVersion,
  caps: Capabilities,
): string | null {
  if (scenario.machine.cgroup !== null && scenario.machine.cgroup !== version)
    return `it needs cgroup v${scenario.machine.cgroup}, and this is cgroup v${version}`;
  if (!hierarchyOf(caps, version))
    return caps.cgroupProblems[version] ?? `cgroup v${version}'s memory controller is not usable here`;
  if (caps.kmsgProblem !== null) return caps.kmsgProblem;
  if (scenario.machine.cpus !== null && caps.cpus < scenario.machine.cpus)
    return `it needs ${scenario.machine.cpus} CPUs, and there are ${caps.cpus}`;
  const available = scenario.machine.available;
  if (available !== null && caps.memAvailable < available) {
    return `it needs ${formatBytes(available)} of free memory, and ${formatBytes(mebibytes(caps.memAvailable))} are available`;
  }
  for (const process of processes) {
    if (
      process.oomScoreAdj !== null &&
      process.oomScoreAdj < caps.oomScoreAdj &&
      !caps.capabilities.includes("SYS_RESOURCE")
    ) {
      return `process ${process.name}: lowering oom_score_adj to ${process.oomScoreAdj} needs CAP_SYS_RESOURCE`;
    }
    if (process.user !== null && process.user.uid !== caps.uid && !caps.capabilities.includes("SETUID"))
      return `process ${process.name}: running as uid ${process.user.uid} needs CAP_SETUID`;
  }
  const hugetlb = scenario.processes.reduce((sum, { workload, cgroup }) => {
    if (workload.kind !== "stress") return sum;
    const sizes = workload.stress.memory.filter(({ kind }) => kind === "hugetlb");
    return sum + sizes.reduce((bytes, { size }) => bytes + sizeIn(size, wholeOf(scenario, cgroup, caps)), 0);
  }, 0);
  if (hugetlb > caps.hugetlbFree)
    return `it needs ${formatBytes(hugetlb)} of reserved huge pages, and ${formatBytes(caps.hugetlbFree)} are free (vm.nr_hugepages)`;
  return null;
}

const mebibytes = (bytes: number): number => Math.floor(bytes / 1048576) * 1048576;

/** Counters that a cgroup v1 machine cannot tell. */
function untellable(scenario: Scenario, version: CgroupVersion): string | null {
  const conditions = scenario.steps.flatMap((step) =>
    step.do === "wait" && step.until.of === "counters" ? step.until.counters : [],
  );
  for (const { key } of [...scenario.expect.counters, ...conditions]) {
    if (version === 1 && !isV1Name(key) && !countersOnV1.some((pattern) => pattern.test(key)))
      return `cgroup v1 does not tell ${key}`;
    if (version === 2 && isV1Name(key)) return `${key} is cgroup v1's own, and this is cgroup v2`;
  }
  return null;
}

/**
 * Whether the version's "no internal processes" rule forbids the tree: on v2 a cgroup whose children have the
 * memory controller holds no process of its own (Documentation/admin-guide/cgroup-v2.rst).
 */
function internalProcess(scenario: Scenario, enabling: Set<string>): string | null {
  const process = scenario.processes.find(({ cgroup }) => cgroup !== null && enabling.has(cgroup));
  return process
    ? `cgroup v2 forbids process ${process.name} in ${process.cgroup}, whose children have limits of their own (no internal processes)`
    : null;
}

/**
 * Lays a scenario out. `host` is what this machine can do, or the container that it runs in. On `auto` it runs here
 * where that is safe and possible, else in a VM. Never throws: what cannot run says so in `skip`.
 */
export function planScenario(scenario: Scenario, host: Capabilities, options: PlanOptions): Plan {
  const { machine } = options;
  if (machine === "vm") return planInVm(scenario, host, options);
  // The kernel under a container is the host's: what could drain the one drains the other.
  if (machine === "container" || machine === "kubernetes") {
    const { plan } = planOnHost(scenario, host, options);
    const allowed = (): Plan => planOnHost(scenario, host, { ...options, allowHostOom: true }).plan;
    const help = plan.skip !== null && allowed().skip === null;
    const flag = machine === "kubernetes" ? "--allow-node-oom" : "--allow-host-oom";
    return { ...plan, machine, skip: help ? `${plan.skip} (${flag} runs it there all the same)` : plan.skip };
  }
  const { plan: here, belongsInVm } = planOnHost(scenario, host, options);
  if (machine === "host" || here.skip === null) return here;
  const vm = planInVm(scenario, host, options);
  // Where neither can run it, the reason is the one of the machine that it belongs on.
  return vm.skip === null || belongsInVm ? vm : here;
}

const runName = ({ runId }: PlanOptions): string => `oomlab-${runId}`;

function planOnHost(given: Scenario, caps: Capabilities, options: PlanOptions): { plan: Plan; belongsInVm: boolean } {
  const version = options.cgroupVersion ?? given.machine.cgroup ?? caps.memoryController ?? 2;
  const machine: PodMachine = {
    version,
    memTotal: given.kubernetes?.node.memory ?? caps.memTotal,
    swap: given.kubernetes?.node.swap ?? caps.swapTotal,
    swapController: version === 2 || hierarchyOf(caps, 1)?.memsw === true,
    runName: runName(options),
    atRoot: false,
  };
  const laid = layPods(given, machine);
  const scenario = laid?.scenario ?? given;
  const plan = layOut(scenario, caps, version, options, laid, machine);
  const vm = needsVm(scenario, caps, options);
  const demand = demandOf(
    scenario,
    plan.processes.map((process) =>
      process.cgroup === null || laid === undefined ? process : { ...process, cgroup: laid.pathOf(process.cgroup) },
    ),
  );
  let skip = vm === null ? plan.skip : `it needs a VM of its own: ${vm}`;
  // What the kernel and everything else needs to stay alive while the scenario is at its peak.
  const reserve = hostReserve(caps);
  if (skip === null && demand + reserve > caps.memAvailable && !options.allowHostOom)
    skip = `it could take ${Number.isFinite(demand) ? formatBytes(mebibytes(demand)) : "any amount"} of memory, and ${formatBytes(mebibytes(caps.memAvailable))} are available on this machine, which keeps ${formatBytes(mebibytes(reserve))} for itself`;
  return {
    plan: { ...plan, machine: "host", skip, demand: Number.isFinite(demand) ? demand : null, vm: null },
    belongsInVm: vm !== null,
  };
}

const hostReserve = ({ memTotal }: Capabilities): number => Math.min(512 * 1048576, Math.floor(memTotal / 10));

function planInVm(given: Scenario, host: Capabilities, options: PlanOptions): Plan {
  const hybrid = options.hybrid ?? false;
  const version = options.cgroupVersion ?? given.machine.cgroup ?? (hybrid || usesV1Names(given) ? 1 : 2);
  const sized = sizedForPods(given);
  /** The scenario as it is on a guest with so much memory. */
  const on = (memory: number): { scenario: Scenario; laid: LaidPods | undefined; machine: PodMachine } => {
    const machine: PodMachine = {
      version,
      memTotal: given.kubernetes?.node.memory ?? memTotalOf(memory),
      swap: sized.machine.swap?.size ?? 0,
      swapController: true,
      runName: runName(options),
      atRoot: true,
    };
    const laid = layPods(sized, machine);
    return { scenario: laid?.scenario ?? sized, laid, machine };
  };
  const least = vmMemory(sized, 0);
  const onLeast = on(least);
  const first = onLeast.scenario;
  // What has no limit above it is meant for the guest's own limit, so it makes the guest no bigger.
  const limited = first.processes.filter(({ cgroup }) => Number.isFinite(effectiveLimit(first, cgroup)));
  const base = vmCapabilities(vmSpec(first, least, options.kernel, hybrid, null), version);
  const memory = vmMemory(
    sized,
    demandOf(
      first,
      limited.map((spec) => planProcess(spec, first, base)),
    ),
  );
  const { scenario, laid, machine } = memory === least ? onLeast : on(memory);
  const spec = vmSpec(scenario, memory, options.kernel, hybrid, scratchSize(scenario, memory));
  const plan = layOut(scenario, vmCapabilities(spec, version), version, options, laid, machine);
  const demand = vmDemand(memory);
  const reserve = hostReserve(host);
  let { skip } = plan;
  if (memory < leastVmMemory)
    skip = `the VM's ${formatBytes(memory)} are too little: its kernel and the engine in it need ${formatBytes(leastVmMemory)}`;
  else if (options.kernel !== undefined && scenario.machine.kernel !== null && !sameKernel(options.kernel, scenario))
    skip ??= `it states kernel ${scenario.machine.kernel}, and --kernel ${options.kernel} was asked for`;
  else if (demand + reserve > host.memAvailable)
    skip ??= `its VM takes ${formatBytes(mebibytes(demand))} of memory, and ${formatBytes(mebibytes(host.memAvailable))} are available on this machine, which keeps ${formatBytes(mebibytes(reserve))} for itself`;
  return { ...plan, machine: "vm", skip, demand, vm: spec };
}

/** The machine that a node stands for: its MemTotal is less than its memory, its swap is the machine's. */
function sizedForPods(scenario: Scenario): Scenario {
  const node = scenario.kubernetes?.node;
  if (node === undefined) return scenario;
  const { machine } = scenario;
  return {
    ...scenario,
    machine: {
      ...machine,
      memory: node.memory === null ? machine.memory : memoryFor(node.memory),
      swap: node.swap === null || node.swap === 0 ? machine.swap : { size: node.swap, kind: "disk" },
    },
  };
}

const sameKernel = (asked: string, { machine }: Scenario): boolean =>
  machine.kernel === null || kernelMatches(asked, machine.kernel);

const usesV1Names = (scenario: Scenario): boolean =>
  scenario.cgroups.some(({ files }) => files.some(({ file }) => isV1Name(file))) ||
  scenario.steps.some((step) => step.do === "write" && isV1Name(step.file)) ||
  scenario.expect.counters.some(({ key }) => isV1Name(key));

/** Room for the files that the scenario's processes write, twice over; null where none writes any. */
function scratchSize(scenario: Scenario, memory: number): number | null {
  const sizes = scenario.processes.flatMap(({ workload }) =>
    workload.kind === "stress"
      ? workload.stress.memory
          .filter(({ kind }) => kind === "file" || kind === "fileWrite")
          .map(({ size }) => sizeIn(size, memory) * workload.stress.workers)
      : workload.kind === "command"
        ? [memory]
        : [],
  );
  return sizes.length === 0 ? null : 256 * 1048576 + 2 * sizes.reduce((sum, size) => sum + mebibytes(size), 0);
}

/** The scenario on one machine: what `host` and `vm` have in common. */
function layOut(
  scenario: Scenario,
  caps: Capabilities,
  version: CgroupVersion,
  options: PlanOptions,
  laid: LaidPods | undefined,
  machine: PodMachine,
): Omit<Plan, "machine" | "demand" | "vm"> {
  const hierarchy = hierarchyOf(caps, version);
  const topName = runName(options);
  // In a VM of its own the kubelet's tree stands where it stands on a node.
  const topPath = machine.atRoot && laid !== undefined ? "" : `${hierarchy?.path ?? ""}/${topName}`;
  const names = cgroupNames(scenario);
  const processes = scenario.processes.map((spec) => planProcess(spec, scenario, caps));

  let untranslatable: string | null = null;
  const cgroups = names.map((name): PlannedCgroup => {
    const shown = laid?.nameOf(name) ?? name;
    const place = { name: shown, ...(shown === name ? {} : { directory: name }), path: `${topPath}/${name}` };
    const ofPods = laid?.writesOf(name);
    if (ofPods !== undefined) return { ...place, writes: [...ofPods] };
    const files = byName(scenario).get(name)?.files ?? [];
    const { writes, skip } = translate(files, version, caps, undefined);
    untranslatable ??= skip === null ? null : `cgroup ${name}: ${skip}`;
    return { ...place, writes };
  });
  const topWrites: PlannedWrite[] = [];
  const enabling = new Set<string>();
  if (version === 2) {
    const controllers = new Set(["memory"]);
    if (scenario.cgroups.some(({ files }) => files.some(({ file }) => file.startsWith("cpuset."))))
      controllers.add("cpuset");
    if (cgroups.some(({ writes }) => writes.some(({ file }) => file.startsWith("hugetlb."))))
      controllers.add("hugetlb");
    const enable = {
      file: "cgroup.subtree_control",
      value: [...controllers].map((name) => `+${name}`).join(" "),
      why: "its children need the controller",
    };
    topWrites.push(enable);
    const children = childrenOf(cgroups.map(directoryOf));
    const controlled = controlledBy(cgroups);
    const inhabited = new Set(scenario.processes.map(({ cgroup }) => cgroup));
    for (const cgroup of cgroups) {
      const below = children.get(directoryOf(cgroup)) ?? [];
      // A child without limits is counted too, unless a process lives beside it: then it can do without the controller.
      const beside = inhabited.has(directoryOf(cgroup));
      const needed = below.some((child) => controlled.has(child));
      if (below.length === 0 || (beside && !needed)) continue;
      enabling.add(directoryOf(cgroup));
      cgroup.writes.push(enable);
    }
  }
  const steps = scenario.steps.map((step): PlannedStep => {
    if (step.do === "reclaim" && version === 1)
      untranslatable ??= "step reclaim: memory.reclaim is cgroup v2's; v1 can only give back everything";
    const named = laid === undefined ? step : inPaths(step, (path) => laid.nameOf(path));
    if (step.do !== "write" || named.do !== "write") return named as Exclude<Step, { do: "write" }>;
    const limit = scenario.cgroups
      .find((spec) => spec.name === step.cgroup)
      ?.files.find(({ file }) => file === "memory.max")?.value;
    const { writes, skip } = translate([step], version, caps, limit);
    untranslatable ??= skip === null ? null : `step ${step.file}: ${skip}`;
    return { ...named, writes };
  });

  const mounts = laid?.volumes.some(({ path }) => path !== null) === true;
  const skip =
    unmetNeed(scenario, processes, version, caps) ??
    (mounts && !caps.capabilities.includes("SYS_ADMIN")
      ? "mounting a memory-backed volume needs CAP_SYS_ADMIN"
      : null) ??
    untranslatable ??
    untellable(scenario, version) ??
    (version === 2 ? internalProcess(scenario, enabling) : null);
  return {
    name: scenario.name,
    file: scenario.file,
    line: scenario.line,
    cgroupVersion: version,
    skip,
    top: { name: topName, path: topPath, writes: topWrites, ...(topPath === "" ? { directory: "" } : {}) },
    cgroups,
    processes: processes.map((process) =>
      process.cgroup === null || laid === undefined ? process : { ...process, cgroup: laid.nameOf(process.cgroup) },
    ),
    steps,
    expect: scenario.expect,
    timeoutMs: options.timeoutMs ?? scenario.timeoutMs ?? defaultTimeoutMs,
    ...(laid === undefined
      ? {}
      : { kubelet: plannedKubelet(scenario, laid), pods: plannedPods(scenario, laid, machine) }),
  };
}

/** Cgroups that have, themselves or below them, a memory or cpuset file to write. */
function controlledBy(cgroups: readonly PlannedCgroup[]): Set<string> {
  const controlled = new Set<string>();
  for (const cgroup of cgroups) {
    if (!cgroup.writes.some(({ file }) => !file.startsWith("cgroup."))) continue;
    for (let path: string | null = directoryOf(cgroup); path !== null; path = parentOf(path)) controlled.add(path);
  }
  return controlled;
}

/** Whether a value is as compared; "max" is infinite. */
export function compares(value: number, { op, value: wanted }: Comparison): boolean {
  switch (op) {
    case "==":
      return value === wanted;
    case "!=":
      return value !== wanted;
    case ">":
      return value > wanted;
    case ">=":
      return value >= wanted;
    case "<":
      return value < wanted;
    case "<=":
      return value <= wanted;
  }
}
