/**
 * cgroups behind one interface: v1.ts and v2.ts, the root of the file tree injected, so that the same tests run
 * over a tree of plain files and over the kernel's own. probe.ts finds where oomlab may make them.
 */
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CgroupDriver, HierarchyProbe } from "./driver.ts";
import { makeDirectory } from "./files.ts";
import { cgroupMounts } from "./probe.ts";
import { driverV1 } from "./v1.ts";
import { driverV2 } from "./v2.ts";

export type { CgroupDriver, Counters, HierarchyProbe, Placement } from "./driver.ts";
export { namedDriver } from "./named.ts";
export { flatKeyed, makeDirectory, pressure, readProcs, removeDirectory, singleValue } from "./files.ts";
export { cgroupOf, isRootless, probeCgroups, underSystemd } from "./probe.ts";

/** The driver for a hierarchy's directory. */
export function openCgroups(hierarchy: HierarchyProbe, below: string): CgroupDriver {
  return hierarchy.version === 2
    ? driverV2(join(hierarchy.directory, below))
    : driverV1(
        join(hierarchy.directory, below),
        hierarchy.cpusetDirectory === null ? null : join(hierarchy.cpusetDirectory, below),
      );
}

/** Where this process goes when it must leave a directory that is to pass controllers on. No run's name. */
const ownLeaf = "oomlab.self";

/** Moves this process out of the way, into a child of the directory. It stays for as long as the container does. */
export function leaveDirectory(directory: string): void {
  const leaf = join(directory, ownLeaf);
  makeDirectory(leaf);
  writeFileSync(join(leaf, "cgroup.procs"), String(process.pid));
}

/** Directories named `oomlab-*` at or below a hierarchy's mount, deepest search 6 levels: what runs have made. */
export function findRunDirectories(root: string): string[] {
  const found: string[] = [];
  const search = (directory: string, depth: number): void => {
    let entries;
    try {
      entries = readdirSync(directory, { withFileTypes: true });
    } catch {
      return;
    }
    for (const entry of entries) {
      if (!entry.isDirectory()) continue;
      const path = join(directory, entry.name);
      if (/^oomlab-[0-9a-z]+$/.test(entry.name)) found.push(path);
      else if (depth > 0) search(path, depth - 1);
    }
  };
  for (const mount of cgroupMounts(root)) {
    if (mount.type === "cgroup2" || mount.options.includes("memory") || mount.options.includes("cpuset"))
      search(join(root, mount.point), 6);
  }
  return found;
}

/** A cgroup and all below it, parents first. */
export function subtree(path: string): string[] {
  try {
    return [
      path,
      ...readdirSync(path, { withFileTypes: true }).flatMap((entry) =>
        entry.isDirectory() ? subtree(join(path, entry.name)) : [],
      ),
    ];
  } catch {
    return [];
  }
}
