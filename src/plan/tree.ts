/** A scenario's cgroups as a tree: the paths in it, and the memory limits that hold there. Pure. */
import type { PlannedCgroup } from "../plan.ts";
import type { CgroupSpec, Scenario, Step } from "../scenario/index.ts";

/** Where a cgroup stands below the run's own. */
export const directoryOf = ({ name, directory }: Pick<PlannedCgroup, "name" | "directory">): string =>
  directory ?? name;

/** The path above a path; null: there is none. */
export const parentOf = (name: string): string | null =>
  name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : null;

/** Paths by the path above them. */
export function childrenOf(paths: readonly string[]): Map<string | null, string[]> {
  const children = new Map<string | null, string[]>();
  for (const path of paths) {
    const parent = parentOf(path);
    const siblings = children.get(parent);
    if (siblings) siblings.push(path);
    else children.set(parent, [path]);
  }
  return children;
}

/** Every cgroup of the scenario, parents (also those not listed) before children. */
export function cgroupNames(scenario: Scenario): string[] {
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
export function cgroupSpecs(scenario: Scenario): Map<string, CgroupSpec> {
  let index = indexes.get(scenario);
  if (!index) indexes.set(scenario, (index = new Map(scenario.cgroups.map((spec) => [spec.name, spec]))));
  return index;
}

/** Files that limit the memory of a cgroup and all below it. */
export const limitFiles: ReadonlySet<string> = new Set([
  "memory.max",
  "memory.limit_in_bytes",
  "memory.memsw.limit_in_bytes",
]);

const asLimit = (value: string): number => (/^\d+$/.test(value) ? Number(value) : Number.POSITIVE_INFINITY);

/** The smallest memory limit that holds for a cgroup, its ancestors' included; steps that write a limit count with their largest value. */
export function effectiveLimit(scenario: Scenario, cgroup: string | null): number {
  let limit = Number.POSITIVE_INFINITY;
  const specs = cgroupSpecs(scenario);
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
