import type { Capabilities, Hierarchy } from "../../src/plan.ts";

const hierarchy = (version: 1 | 2): Hierarchy => ({
  version,
  mount: version === 1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup",
  directory: version === 1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup",
  path: "",
  cpusetDirectory: version === 1 ? "/sys/fs/cgroup/cpuset" : null,
  controllers: version === 1 ? [] : ["cpuset", "cpu", "memory", "hugetlb", "pids"],
  memsw: version === 1,
});

/** A machine of 8 GiB that can do everything, but for what a test takes away. */
export function machineWith(changes: Partial<Capabilities> = {}, versions: (1 | 2)[] = [2, 1]): Capabilities {
  return {
    kernel: "6.12.0-test",
    cpus: 2,
    uid: 0,
    memTotal: 8 * 2 ** 30,
    memAvailable: 7 * 2 ** 30,
    swapTotal: 0,
    hierarchies: versions.map(hierarchy),
    memoryController: versions[0] ?? null,
    hybrid: false,
    cgroupProblems: {},
    kernelLog: "kmsg",
    kmsgProblem: null,
    capabilities: ["KILL", "SETGID", "SETUID", "SYS_ADMIN", "SYS_RESOURCE", "SYSLOG"],
    oomScoreAdj: 0,
    hugetlbFree: 0,
    oomKillers: [],
    systemd: null,
    initPidNamespace: true,
    ...changes,
  };
}
