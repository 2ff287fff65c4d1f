/**
 * What the cgroup versions make of a scenario's cgroups: which names each has, how v2's files are written on v1, and
 * how v2 passes controllers on. Pure.
 */
import type { Capabilities, CgroupVersion, Hierarchy, PlannedCgroup, PlannedWrite } from "../plan.ts";
import { CGROUP_FILES, splitCounter } from "../scenario/cgroupfiles.ts";
import type { Scenario } from "../scenario/index.ts";
import { childrenOf, directoryOf, parentOf } from "./tree.ts";

/** The hierarchy in which this version is usable; undefined: none. */
export function hierarchyOf(caps: Capabilities, version: CgroupVersion): Hierarchy | undefined {
  return caps.hierarchies.find((hierarchy) => hierarchy.version === version);
}

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

/** Whether the scenario names a file or counter of cgroup v1's own. */
export const usesV1Names = (scenario: Scenario): boolean =>
  scenario.cgroups.some(({ files }) => files.some(({ file }) => isV1Name(file))) ||
  scenario.steps.some((step) => step.do === "write" && isV1Name(step.file)) ||
  scenario.expect.counters.some(({ key }) => isV1Name(key));

/** Why this version cannot tell a counter that the scenario names, or null. */
export function untellable(scenario: Scenario, version: CgroupVersion): string | null {
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

/** Writes of cgroup files, and why this version cannot make them as stated, or null. */
interface Translated {
  writes: PlannedWrite[];
  skip: string | null;
}

/**
 * The files of one cgroup as this version writes them, in the order of writing. `limit`: its memory.max, where it is
 * not one of them.
 */
export function translate(
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

/**
 * cgroup v2: adds to the cgroups' writes the one that passes controllers on to their children, where these need it.
 * Returns the run's own, and why a process or a controller that is not `available` forbids it.
 */
export function passControllers(
  scenario: Scenario,
  cgroups: readonly PlannedCgroup[],
  version: CgroupVersion,
  available: readonly string[],
): Translated {
  if (version === 1) return { writes: [], skip: null };
  const controllers = new Set(["memory"]);
  if (scenario.cgroups.some(({ files }) => files.some(({ file }) => file.startsWith("cpuset."))))
    controllers.add("cpuset");
  for (const name of ["hugetlb", "pids"])
    if (cgroups.some(({ writes }) => writes.some(({ file }) => file.startsWith(`${name}.`)))) controllers.add(name);
  const enable = {
    file: "cgroup.subtree_control",
    value: [...controllers].map((name) => `+${name}`).join(" "),
    why: "its children need the controller",
  };
  const children = childrenOf(cgroups.map(directoryOf));
  const controlled = controlledBy(cgroups);
  const enabling = new Set<string>();
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
  const lacking = [...controllers].filter((name) => !available.includes(name));
  const skip =
    lacking.length === 0
      ? null
      : `it needs the controller ${lacking.join(" and ")}, which oomlab is not given here (it has ${available.join(", ") || "none"})`;
  return { writes: [enable], skip: skip ?? internalProcess(scenario, enabling) };
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
