/**
 * Scenario x what the machine can do -> plan: cgroups with their ordered writes, processes, steps, expectations,
 * or the reason to skip. Pure: a plan is data, printable, the same for the same input.
 */
import type { PlannedKubelet } from "./kubernetes/kubelet-plan.ts";
import { layOut } from "./plan/layout.ts";
import { demandOf, scratchSize, shortOf } from "./plan/memory.ts";
import { kernelMatches, needsVm } from "./plan/needs.ts";
import { type LaidPods, layPods, memoryFor, memTotalOf, type PlannedPods, type PodMachine } from "./plan/pods.ts";
import { planProcess } from "./plan/processes.ts";
import { effectiveLimit } from "./plan/tree.ts";
import { hierarchyOf, usesV1Names } from "./plan/versions.ts";
import { vmCapabilities, vmDemand, vmMemory, vmProblem, type VmSpec, vmSpec } from "./plan/vm.ts";
import type { Comparison, Expectations, ProcessSpec, Scenario, Step } from "./scenario/index.ts";

export { memTotalOf, type PlannedPods, type PlannedVolume, relayPlan, turnsOf } from "./plan/pods.ts";
export { directoryOf } from "./plan/tree.ts";
export { hierarchyOf } from "./plan/versions.ts";
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

/** A manager that makes scopes in the slices that are the hierarchies' directories. */
export interface Systemd {
  manager: "system" | "user";
  /** The scope of all runs of this process, which moves into it itself; null: each run has its own. */
  scope: string | null;
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
  /** Where the kernel's log can be read: /dev/kmsg, systemd's journal, or nowhere (null). */
  kernelLog: "kmsg" | "journal" | null;
  /** Why /dev/kmsg cannot be read, or null. */
  kmsgProblem: string | null;
  /** Effective capabilities without CAP_, e.g. SYS_RESOURCE. */
  capabilities: string[];
  oomScoreAdj: number;
  /** vm.overcommit_memory; null where it cannot be read, absent in records of old. */
  overcommitMemory?: number | null;
  /** RLIMIT_MEMLOCK in bytes; null: no limit. Absent in records of old. */
  memlock?: number | null;
  /** Free huge pages of the default size, in bytes. */
  hugetlbFree: number;
  /** Userspace OOM killers at work here (systemd-oomd, earlyoom ...). */
  oomKillers: string[];
  /** The systemd that owns the cgroup tree and delegates a scope to a run; null: none does. */
  systemd: Systemd | null;
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
  /** It has the standard streams and the environment of whoever asked for it (`oomlab exec`). */
  inherits?: true;
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
   * stands at the root), its path as the kernel's log names it, and the unit of systemd's that it lies in, if any.
   */
  top: { name: string; directory?: string; scope?: string; path: string; writes: PlannedWrite[] };
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
  const plan = layOut(scenario, caps, machine, laid, options.timeoutMs);
  const vm = needsVm(scenario, caps, options);
  const demand = demandOf(
    scenario,
    plan.processes.map((process) =>
      process.cgroup === null || laid === undefined ? process : { ...process, cgroup: laid.pathOf(process.cgroup) },
    ),
  );
  let skip = vm === null ? plan.skip : `it needs a VM of its own: ${vm}`;
  const short = options.allowHostOom ? null : shortOf(demand, caps);
  if (short !== null) skip ??= `it could take ${short}`;
  return {
    plan: { ...plan, machine: "host", skip, demand: Number.isFinite(demand) ? demand : null, vm: null },
    belongsInVm: vm !== null,
  };
}

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
  const plan = layOut(scenario, vmCapabilities(spec, version), machine, laid, options.timeoutMs);
  const demand = vmDemand(memory);
  const short = shortOf(demand, host);
  const { kernel } = scenario.machine;
  let { skip } = plan;
  const problem = vmProblem(spec);
  if (problem !== null) skip = problem;
  else if (version === 1 && !hybrid && scenario.machine.mountOptions.length > 0)
    skip ??= `its mountOptions are of cgroup2's mount, and it runs on cgroup v1`;
  else if (options.kernel !== undefined && kernel !== null && !kernelMatches(options.kernel, kernel))
    skip ??= `it states kernel ${kernel}, and --kernel ${options.kernel} was asked for`;
  else if (short !== null) skip ??= `its VM takes ${short}`;
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
