/**
 * cgroups behind one interface: v1.ts and v2.ts, the root of the file tree injected, so that the same tests run
 * over a tree of plain files and over the kernel's own.
 */
import { accessSync, constants, existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { CgroupDriver, HierarchyProbe } from "./driver.ts";
import { makeDirectory } from "./files.ts";
import { driverV1 } from "./v1.ts";
import { driverV2 } from "./v2.ts";

export type { CgroupDriver, Counters, HierarchyProbe, Placement } from "./driver.ts";
export { namedDriver } from "./named.ts";
export { flatKeyed, makeDirectory, pressure, readProcs, removeDirectory, singleValue } from "./files.ts";

/** The driver for a hierarchy's directory. */
export function openCgroups(hierarchy: HierarchyProbe, below: string): CgroupDriver {
  return hierarchy.version === 2
    ? driverV2(join(hierarchy.directory, below))
    : driverV1(
        join(hierarchy.directory, below),
        hierarchy.cpusetDirectory === null ? null : join(hierarchy.cpusetDirectory, below),
      );
}

interface Mount {
  root: string;
  point: string;
  type: string;
  options: string[];
}

/** /proc/self/mountinfo's cgroup mounts (proc_pid_mountinfo(5)); octal escapes undone. */
function cgroupMounts(mountinfo: string): Mount[] {
  const unescape = (text: string): string =>
    text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
  return mountinfo.split("\n").flatMap((line) => {
    const [left, right] = line.split(" - ");
    const [type, , superOptions] = right?.split(" ") ?? [];
    const fields = left?.split(" ") ?? [];
    if ((type !== "cgroup" && type !== "cgroup2") || fields[3] === undefined || fields[4] === undefined) return [];
    return [{ root: unescape(fields[3]), point: unescape(fields[4]), type, options: (superOptions ?? "").split(",") }];
  });
}

/** Where our own cgroup of a hierarchy lies in a mount: its directory and its path as the kernel names it. */
function ownCgroup(mount: Mount, path: string): { directory: string; path: string } {
  // A mount of a part of the hierarchy (a container's) shows that part's root as its mount point.
  const inside =
    mount.root === "/"
      ? path
      : path.startsWith(`${mount.root}/`)
        ? path.slice(mount.root.length)
        : path === mount.root
          ? "/"
          : path;
  const directory = resolve(mount.point, `.${inside}`);
  return existsSync(directory)
    ? { directory, path: path === "/" ? "" : path }
    : { directory: mount.point, path: mount.root === "/" ? "" : mount.root };
}

export interface CgroupProbe {
  hierarchies: HierarchyProbe[];
  /** The version that the memory controller is on. */
  memoryController: 1 | 2 | null;
  /** Both versions are mounted, whichever the memory controller is on. */
  hybrid: boolean;
  problems: Partial<Record<1 | 2, string>>;
}

/** Finds, by looking, which cgroup versions have the memory controller and where oomlab may make a cgroup. `root`: "/" but in tests. */
export function probeCgroups(root: string): CgroupProbe {
  const mounts = cgroupMounts(readOr(join(root, "proc/self/mountinfo"), ""));
  const paths = new Map<string, string>();
  for (const line of readOr(join(root, "proc/self/cgroup"), "").split("\n")) {
    const [id, controllers, ...path] = line.split(":");
    if (id === undefined || controllers === undefined) continue;
    for (const controller of id === "0" ? ["cgroup2"] : controllers.split(",")) paths.set(controller, path.join(":"));
  }
  const hierarchies: HierarchyProbe[] = [];
  const problems: CgroupProbe["problems"] = {};
  const within = (mount: Mount): Mount => ({ ...mount, point: join(root, mount.point) });

  const v1 = mounts.find((mount) => mount.type === "cgroup" && mount.options.includes("memory"));
  if (!v1) problems[1] = "cgroup v1's memory controller is not mounted on this machine";
  else {
    const own = ownCgroup(within(v1), paths.get("memory") ?? "/");
    const problem = unwritable(own.directory);
    if (problem) problems[1] = problem;
    else {
      const cpuset = mounts.find((mount) => mount.type === "cgroup" && mount.options.includes("cpuset"));
      const cpusetDirectory = cpuset ? ownCgroup(within(cpuset), paths.get("cpuset") ?? "/").directory : null;
      hierarchies.push({
        version: 1,
        mount: join(root, v1.point),
        ...own,
        cpusetDirectory: cpusetDirectory !== null && unwritable(cpusetDirectory) === null ? cpusetDirectory : null,
        controllers: [],
        memsw: existsSync(join(own.directory, "memory.memsw.limit_in_bytes")),
      });
    }
  }

  let memoryController: CgroupProbe["memoryController"] = v1 ? 1 : null;
  const v2 = mounts.find((mount) => mount.type === "cgroup2");
  if (!v2) problems[2] = "cgroup v2 is not mounted on this machine";
  else {
    const available = readOr(join(root, v2.point, "cgroup.controllers"), "")
      .trim()
      .split(" ");
    if (!available.includes("memory"))
      problems[2] = "cgroup v2's memory controller is not available on this machine (it is on cgroup v1, or disabled)";
    else {
      memoryController = 2;
      const home = homeOnV2(within(v2), paths.get("cgroup2") ?? "/");
      if (typeof home === "string") problems[2] = home;
      else hierarchies.push({ version: 2, mount: join(root, v2.point), ...home, cpusetDirectory: null, memsw: false });
    }
  }
  const hybrid = v2 !== undefined && mounts.some(({ type }) => type === "cgroup");
  return { hierarchies, memoryController, hybrid, problems };
}

/** Where this process goes when it must leave a directory that is to pass controllers on. No run's name. */
const ownLeaf = "oomlab.self";

/** Moves this process out of the way, into a child of the directory. It stays for as long as the container does. */
export function leaveDirectory(directory: string): void {
  const leaf = join(directory, ownLeaf);
  makeDirectory(leaf);
  writeFileSync(join(leaf, "cgroup.procs"), String(process.pid));
}

/**
 * The nearest cgroup at or above our own that may have children with the memory controller: the root, or one that
 * has it in cgroup.subtree_control, or that holds no process. Where a cgroup namespace ends with a cgroup that holds
 * this process alone (a container whose program is oomlab) that is it, since we can leave it. (We never move a process
 * that is neither our own nor our child.)
 */
function homeOnV2(
  mount: Mount,
  path: string,
): { directory: string; path: string; controllers: string[]; occupied?: true } | string {
  let own = ownCgroup(mount, path);
  for (;;) {
    const isRoot = !existsSync(join(own.directory, "cgroup.type"));
    const controllers = readOr(join(own.directory, "cgroup.controllers"), "").trim().split(" ");
    const enabled = readOr(join(own.directory, "cgroup.subtree_control"), "").trim().split(" ");
    const free = isRoot || enabled.includes("memory") || readOr(join(own.directory, "cgroup.procs"), "") === "";
    if (free && controllers.includes("memory")) {
      const problem = unwritable(own.directory);
      return problem ?? { ...own, controllers };
    }
    if (!own.directory.startsWith(`${mount.point}/`)) {
      const alone = readOr(join(own.directory, "cgroup.procs"), "").trim() === String(process.pid);
      if (alone && controllers.includes("memory") && unwritable(own.directory) === null)
        return { ...own, controllers, occupied: true };
      return `the cgroup ${own.directory} holds processes and does not pass the memory controller on: start oomlab where the whole cgroup tree is visible (a container: --cgroupns=host), or in a cgroup delegated to it (systemd-run --scope -p Delegate=yes)`;
    }
    own = { directory: dirname(own.directory), path: own.path.slice(0, own.path.lastIndexOf("/")) };
  }
}

/** Why no cgroup can be made in a directory, in words, or null. */
function unwritable(directory: string): string | null {
  try {
    accessSync(directory, constants.W_OK | constants.X_OK);
    return null;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EROFS")
      return `the cgroup filesystem at ${directory} is mounted read-only (a container: run it with --privileged)`;
    if (code === "EACCES" || code === "EPERM")
      return `no permission to make a cgroup in ${directory}: run oomlab as root`;
    return `no cgroup can be made in ${directory}: ${(error as Error).message}`;
  }
}

function readOr(path: string, fallback: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return fallback;
  }
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
  for (const mount of cgroupMounts(readOr(join(root, "proc/self/mountinfo"), ""))) {
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
