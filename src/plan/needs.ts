/** What a scenario needs of its machine, and why it is skipped or belongs in a VM where that is not met. Pure. */
import type { Capabilities, CgroupVersion, PlannedProcess, PlanOptions } from "../plan.ts";
import type { ProcessSpec, Scenario } from "../scenario/index.ts";
import { formatBytes } from "../units.ts";
import { mebibytes, sizeIn, wholeOf } from "./memory.ts";
import { effectiveLimit } from "./tree.ts";
import { hierarchyOf } from "./versions.ts";

/** Why this scenario needs a machine of its own, or null: sizes, a process with no limit above it, swap, sysrq. */
export function needsVm(
  scenario: Scenario,
  caps: Capabilities,
  options: Pick<PlanOptions, "hybrid" | "allowHostOom">,
): string | null {
  const { machine, kubernetes } = scenario;
  if (kubernetes?.node.memory) return `it states the node's memory (${formatBytes(kubernetes.node.memory)})`;
  if (kubernetes?.node.swap) return `it states the node's swap (${formatBytes(kubernetes.node.swap)})`;
  if (machine.memory !== null) return `it states the machine's memory (${formatBytes(machine.memory)})`;
  if (machine.swap?.size === 0 && caps.swapTotal > 0) return "it states that the machine has no swap";
  if (machine.swap?.size) return `it states the machine's swap (${formatBytes(machine.swap.size)})`;
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

/** The first need that this machine does not meet, in words, or null. */
export function unmetNeed(
  scenario: Scenario,
  processes: PlannedProcess[],
  version: CgroupVersion,
  caps: Capabilities,
): string | null {
  if (scenario.machine.cgroup !== null && scenario.machine.cgroup !== version)
    return `it needs cgroup v${scenario.machine.cgroup}, and this is cgroup v${version}`;
  if (!hierarchyOf(caps, version))
    return caps.cgroupProblems[version] ?? `cgroup v${version}'s memory controller is not usable here`;
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
  const bytesOf = ({ workload, cgroup }: ProcessSpec, wanted: "hugetlb" | "mlock"): number =>
    workload.kind !== "stress"
      ? 0
      : workload.stress.memory
          .filter(({ kind }) => kind === wanted)
          .reduce((bytes, { size }) => bytes + sizeIn(size, wholeOf(scenario, cgroup, caps)), 0);
  const memlock = caps.capabilities.includes("IPC_LOCK") ? null : (caps.memlock ?? null);
  const locker = scenario.processes.find((process) => memlock !== null && bytesOf(process, "mlock") > memlock);
  if (locker && memlock !== null)
    return `process ${locker.name}: locking ${formatBytes(bytesOf(locker, "mlock"))} of memory needs CAP_IPC_LOCK, or RLIMIT_MEMLOCK (ulimit -l) above ${formatBytes(memlock)}`;
  const hugetlb = scenario.processes.reduce((sum, process) => sum + bytesOf(process, "hugetlb"), 0);
  if (hugetlb > caps.hugetlbFree)
    return `it needs ${formatBytes(hugetlb)} of reserved huge pages, and ${formatBytes(caps.hugetlbFree)} are free (vm.nr_hugepages)`;
  return null;
}

/** Whether a kernel release, e.g. `6.1.0-18-amd64`, is the wanted one or one of its series, e.g. `6.1`. */
export const kernelMatches = (release: string, wanted: string): boolean =>
  release === wanted || release.startsWith(`${wanted}.`) || release.startsWith(`${wanted}-`);
