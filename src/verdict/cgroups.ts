/** The cgroups of a run by the scenario's names, which are not always where they stand: Pods are not. Pure. */
import { directoryOf, type Plan } from "../plan.ts";

/** Names are the scenario's; a cgroup that it does not name has its path below the run's own; "" is the run's own. */
export interface CgroupNames {
  /** The name for a path of the kernel's log; null: it is none of this run's. */
  at(path: string | null): string | null;
  /** The path of a cgroup as the kernel's log names it. */
  pathOf(name: string): string;
  /** The cgroup above one. */
  above(name: string): string;
  /** The cgroup that counts what happens in another: itself, or the nearest above it that has the memory controller. */
  accountOf(name: string, counted: ReadonlyMap<string, unknown>): string;
}

/** Of the plan that was run. */
export function cgroupNames({ cgroups, top }: Plan): CgroupNames {
  const directories = new Map(cgroups.map((cgroup) => [cgroup.name, directoryOf(cgroup)]));
  const names = new Map(cgroups.map((cgroup) => [directoryOf(cgroup), cgroup.name]));
  const nameOf = (directory: string): string => names.get(directory) ?? directory;
  const above = (name: string): string => {
    const directory = directories.get(name) ?? name;
    return directory.includes("/") ? nameOf(directory.slice(0, directory.lastIndexOf("/"))) : "";
  };
  return {
    above,
    pathOf: (name) => `${top.path}/${directories.get(name) ?? name}`,
    accountOf(cgroup, counted) {
      let name = cgroup;
      while (name !== "" && !counted.has(name)) name = above(name);
      return name;
    },
    at(path) {
      if (path === null) return null;
      if (top.directory === "") {
        // The tree stands at the hierarchy's root: ours is what was made there.
        const inside = path.slice(1);
        const [first] = inside.split("/", 1);
        const made = [...names.keys(), "unlimited"].some((directory) => directory.split("/", 1)[0] === first);
        return made ? nameOf(inside) : null;
      }
      // The run's own cgroup is known by its unique name, whatever is above it: a container's path, a scope's.
      const segments = path.split("/");
      const own = segments.indexOf(top.name);
      return own < 0 ? null : nameOf(segments.slice(own + 1).join("/"));
    },
  };
}
