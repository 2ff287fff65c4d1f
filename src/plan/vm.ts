/** The throwaway VM of a scenario: its shape, and what an engine in it can do. Pure, so that `--dry-run` boots nothing. */
import type { Scenario } from "../scenario/index.ts";
import type { Capabilities, CgroupVersion } from "../plan.ts";
import { formatBytes } from "../units.ts";

/** The guest that a plan is run in. Sizes in bytes. */
export interface VmSpec {
  memory: number;
  cpus: number;
  /** The size of each NUMA node; null: one node. */
  numa: number[] | null;
  swap: { size: number; kind: "disk" | "zram" } | null;
  /** A version, `latest`, or a path; null: the newest of the machine's own distribution. */
  kernel: string | null;
  sysctl: Record<string, string>;
  thp: string | null;
  zswap: boolean | null;
  /** Both cgroup versions are mounted; the plan's is the one that the memory controller is on. */
  hybrid: boolean;
  /** Of the cgroup2 mount. */
  mountOptions: string[];
  /** Size of a disk for files of the scenario's processes; null: none writes files. */
  scratch: number | null;
}

const mebibyte = 1048576;
const defaultMemory = 512 * mebibyte;
/** The kernel, Node and the page cache of the image. */
const guestOverhead = 256 * mebibyte;
/** QEMU itself: 210 to 260 MiB with TCG, and about 3 % of the guest's memory for its tables. */
const qemuOverhead = 256 * mebibyte;

/** As systemd mounts it, and with it every Kubernetes node. */
const defaultMountOptions = ["nsdelegate", "memory_recursiveprot"];

/** The least memory of a guest that the kernel and the agent live in: of 96 MiB some 14 are left for the scenario. */
const leastVmMemory: number = 96 * mebibyte;

/** What QEMU's machine (q35) can be given; swap has a header and mkswap wants nine pages more. */
const mostCpus = 288;
const mostNodes = 128;
const leastSwap = 40 * 1024;

/** Why a guest of this shape cannot be made, in words, or null. */
export function vmProblem({ memory, cpus, numa, swap }: VmSpec): string | null {
  if (memory < leastVmMemory)
    return `the VM's ${formatBytes(memory)} are too little: its kernel and the engine in it need ${formatBytes(leastVmMemory)}`;
  if (cpus > mostCpus) return `a VM has at most ${mostCpus} CPUs, and it states ${cpus}`;
  if (numa !== null && numa.length > mostNodes)
    return `a VM has at most ${mostNodes} NUMA nodes, and it states ${numa.length}`;
  if (swap !== null && swap.size < leastSwap)
    return `the VM's swap of ${formatBytes(swap.size)} is too little: expected ${formatBytes(leastSwap)} or more`;
  return null;
}

/** Memory of the guest that runs a scenario which may take `demand` bytes below its own limits. */
export function vmMemory({ machine }: Scenario, demand: number): number {
  const stated = machine.memory ?? machine.numa?.reduce((sum, node) => sum + node, 0);
  if (stated !== undefined) return stated;
  const wanted = Math.max(demand, machine.available ?? 0) + guestOverhead;
  return Math.max(defaultMemory, Math.ceil(wanted / mebibyte) * mebibyte);
}

export function vmSpec(
  { machine }: Scenario,
  memory: number,
  kernel: string | undefined,
  hybrid: boolean,
  scratch: number | null,
): VmSpec {
  return {
    memory,
    cpus: machine.cpus ?? Math.max(2, machine.numa?.length ?? 1),
    numa: machine.numa,
    swap: machine.swap?.size === 0 ? null : machine.swap,
    kernel: kernel ?? machine.kernel,
    sysctl: machine.sysctl,
    thp: machine.thp,
    zswap: machine.zswap,
    hybrid,
    mountOptions: machine.mountOptions.length > 0 ? machine.mountOptions : defaultMountOptions,
    scratch,
  };
}

/** Memory of the host that a guest takes when it has touched all of its own. */
export const vmDemand = (memory: number): number => memory + qemuOverhead + Math.ceil(memory / 32);

/** What the engine finds in the guest, as far as a plan needs to know it. */
export function vmCapabilities(spec: VmSpec, version: CgroupVersion): Capabilities {
  const mount = version === 1 ? "/sys/fs/cgroup/memory" : spec.hybrid ? "/sys/fs/cgroup/unified" : "/sys/fs/cgroup";
  return {
    kernel: spec.kernel ?? "",
    cpus: spec.cpus,
    uid: 0,
    memTotal: spec.memory,
    memAvailable: spec.memory - guestOverhead / 2,
    swapTotal: spec.swap?.size ?? 0,
    hierarchies: [
      {
        version,
        mount,
        directory: mount,
        path: "",
        cpusetDirectory: version === 1 ? "/sys/fs/cgroup/cpuset" : null,
        controllers:
          version === 1
            ? []
            : spec.hybrid
              ? ["cpuset", "io", "memory", "hugetlb"]
              : ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"],
        memsw: version === 1,
      },
    ],
    memoryController: version,
    hybrid: spec.hybrid,
    cgroupProblems: {},
    kernelLog: "kmsg",
    kmsgProblem: null,
    capabilities: ["KILL", "SETGID", "SETUID", "IPC_LOCK", "SYS_ADMIN", "SYS_NICE", "SYS_RESOURCE", "SYSLOG"],
    oomScoreAdj: -1000,
    overcommitMemory: Number(spec.sysctl["vm.overcommit_memory"] ?? 0),
    hugetlbFree: Number(spec.sysctl["vm.nr_hugepages"] ?? 0) * 2 * mebibyte,
    oomKillers: [],
    systemd: null,
    initPidNamespace: true,
  };
}
