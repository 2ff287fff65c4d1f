/**
 * cgroups behind one interface: v1.ts and v2.ts, the root of the file tree injected, so that the same tests run
 * over a tree of plain files and over the kernel's own.
 */
import { accessSync, closeSync, constants, existsSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, rmdirSync, writeSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { MachineError } from "../errors.ts";
import { driverV1 } from "./v1.ts";
import { driverV2 } from "./v2.ts";

/** Counters in cgroup v2's names (`file.key`); absent = this kernel has none. Bytes; "max" = unlimited. */
export type Counters = Record<string, number | "max">;

/** Where oomlab may make cgroups. */
export interface HierarchyProbe {
  version: 1 | 2;
  mount: string;
  directory: string;
  path: string;
  cpusetDirectory: string | null;
  controllers: string[];
  memsw: boolean;
}

/** How a child is put into a cgroup at its start: one of the two, see native.ts SpawnOptions. */
export interface Placement {
  cgroupFd?: number;
  cgroupProcs?: string[];
}

/** One version's way with the cgroups below one directory. `name`: the path below that directory. */
export interface CgroupDriver {
  readonly version: 1 | 2;
  create(name: string): void;
  /** Removes an empty cgroup; false while the kernel still holds it (EBUSY). A cgroup that is gone is removed. */
  remove(name: string): boolean;
  /** Writes a control file and reads it back. Throws the system call's error. */
  write(name: string, file: string, value: string): string | null;
  /** pids in it (not below it). */
  procs(name: string): number[];
  /** Thread ids in it (not below it): the kernel's log may name a thread that is not its process's first. */
  threads(name: string): number[];
  /** All counters that this kernel tells. */
  counters(name: string): Counters;
  /** The few that change while memory is pressed: cheap, for sampling. */
  levels(name: string): Counters;
  placement(name: string): Placement;
  /** Moves a running process into it. */
  attach(name: string, pid: number): void;
  /** Kills everything in it and below, where the kernel can (cgroup.kill); false where it cannot. */
  kill(name: string): boolean;
  /** Control file whose change (POLLPRI), or whose eventfd, tells of an OOM. */
  readonly oomEventFile: string;
  /** Closes the descriptors it holds. */
  close(): void;
}

/** The driver for a hierarchy's directory. */
export function openCgroups(hierarchy: HierarchyProbe, below: string): CgroupDriver {
  return hierarchy.version === 2 ? driverV2(join(hierarchy.directory, below)) : driverV1(join(hierarchy.directory, below), hierarchy.cpusetDirectory === null ? null : join(hierarchy.cpusetDirectory, below));
}

const buffer = Buffer.allocUnsafe(65536);

/** Whole text of a control file, through one reused buffer. */
export function readControl(path: string): string {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    return readDescriptor(fd);
  } finally {
    closeSync(fd);
  }
}

/** Whole text of an open control file, from its start. */
export function readDescriptor(fd: number): string {
  const size = readSync(fd, buffer, 0, buffer.length, 0);
  if (size < buffer.length) return buffer.toString("latin1", 0, size);
  // Only memory.stat of a machine with very many nodes or cgroup.procs of a fork bomb is longer.
  const parts = [buffer.toString("latin1", 0, size)];
  for (let at = size, got = size; got > 0; at += got) {
    got = readSync(fd, buffer, 0, buffer.length, at);
    parts.push(buffer.toString("latin1", 0, got));
  }
  return parts.join("");
}

/** Writes a control file in one write(2), as the kernel wants it. */
export function writeControl(path: string, value: string): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_TRUNC);
  try {
    writeSync(fd, value);
  } finally {
    closeSync(fd);
  }
}

export function makeDirectory(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

/** rmdir of a cgroup: true when it is gone, false while it is busy. */
export function removeDirectory(path: string): boolean {
  try {
    rmdirSync(path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENODEV") return true;
    if (code === "EBUSY" || code === "ENOTEMPTY") return false;
    throw error;
  }
}

/** pids listed in a cgroup.procs file; none where the cgroup is gone. */
export function readProcs(path: string): number[] {
  try {
    return readControl(path)
      .split("\n")
      .filter((line) => line !== "")
      .map(Number);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENODEV") return [];
    throw error;
  }
}

/** `key value` lines (memory.events, memory.stat, memory.oom_control ...) as `prefix.key`. */
export function flatKeyed(text: string, prefix: string, into: Counters): void {
  for (const line of text.split("\n")) {
    const space = line.indexOf(" ");
    if (space <= 0) continue;
    const value = Number(line.slice(space + 1));
    if (Number.isFinite(value)) into[`${prefix}.${line.slice(0, space)}`] = value;
  }
}

/** A single value: a number, or "max"; v1 writes unlimited as a number beyond 2^53. */
export function singleValue(text: string): number | "max" | undefined {
  const word = text.trim();
  if (word === "max" || (/^\d{16,}$/.test(word) && BigInt(word) > BigInt(Number.MAX_SAFE_INTEGER))) return "max";
  return /^-?\d+$/.test(word) ? Number(word) : undefined;
}

/** `some avg10=0.00 ... total=0` lines of pressure files as `prefix.some.avg10`. */
export function pressure(text: string, prefix: string, into: Counters): void {
  for (const line of text.split("\n")) {
    const [kind, ...pairs] = line.split(" ");
    for (const pair of pairs) {
      const [key, value] = pair.split("=");
      if (kind && key && value !== undefined) into[`${prefix}.${kind}.${key}`] = Number(value);
    }
  }
}

/**
 * The open control files of the cgroups below one directory: each is opened once and read again from its start,
 * since a run reads the same few files many times.
 */
export function openFiles(root: string): { read(name: string, file: string): string | undefined; directory(name: string): number; forget(name: string): void; close(): void } {
  const open = new Map<string, number | undefined>();
  const descriptor = (key: string, path: string, flags: number): number | undefined => {
    if (open.has(key)) return open.get(key);
    let fd: number | undefined;
    try {
      fd = openSync(path, flags);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOENT" && code !== "EACCES" && code !== "EOPNOTSUPP") throw error;
    }
    open.set(key, fd);
    return fd;
  };
  return {
    read(name, file) {
      const fd = descriptor(`${name}/${file}`, join(root, name, file), constants.O_RDONLY);
      if (fd === undefined) return undefined;
      try {
        return readDescriptor(fd);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === "EOPNOTSUPP" || code === "EINVAL") return undefined;
        throw code === "ENODEV" ? gone(join(root, name)) : error;
      }
    },
    directory(name) {
      const fd = descriptor(`${name}/`, join(root, name), constants.O_RDONLY | constants.O_DIRECTORY);
      if (fd === undefined) throw gone(join(root, name));
      return fd;
    },
    forget(name) {
      for (const [key, fd] of open) {
        if (key !== `${name}/` && (!key.startsWith(`${name}/`) || key.slice(name.length + 1).includes("/"))) continue;
        if (fd !== undefined) closeSync(fd);
        open.delete(key);
      }
    },
    close() {
      for (const fd of open.values()) if (fd !== undefined) closeSync(fd);
      open.clear();
    },
  };
}

const gone = (path: string): MachineError => new MachineError("CGROUP_GONE", `the cgroup ${path} was removed while the run was using it`);

interface Mount {
  root: string;
  point: string;
  type: string;
  options: string[];
}

/** /proc/self/mountinfo's cgroup mounts (proc_pid_mountinfo(5)); octal escapes undone. */
function cgroupMounts(mountinfo: string): Mount[] {
  const unescape = (text: string): string => text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
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
  const inside = mount.root === "/" ? path : path.startsWith(`${mount.root}/`) ? path.slice(mount.root.length) : path === mount.root ? "/" : path;
  const directory = resolve(mount.point, `.${inside}`);
  return existsSync(directory) ? { directory, path: path === "/" ? "" : path } : { directory: mount.point, path: mount.root === "/" ? "" : mount.root };
}

export interface CgroupProbe {
  hierarchies: HierarchyProbe[];
  /** The version that the memory controller is on. */
  memoryController: 1 | 2 | null;
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
    const available = readOr(join(root, v2.point, "cgroup.controllers"), "").trim().split(" ");
    if (!available.includes("memory")) problems[2] = "cgroup v2's memory controller is not available on this machine (it is on cgroup v1, or disabled)";
    else {
      memoryController = 2;
      const home = homeOnV2(within(v2), paths.get("cgroup2") ?? "/");
      if (typeof home === "string") problems[2] = home;
      else hierarchies.push({ version: 2, mount: join(root, v2.point), ...home, cpusetDirectory: null, memsw: false });
    }
  }
  return { hierarchies, memoryController, problems };
}

/**
 * The nearest cgroup at or above our own that may have children with the memory controller: the root, or one that
 * has it in cgroup.subtree_control, or that holds no process. (We never move a process that is not our child.)
 */
function homeOnV2(mount: Mount, path: string): { directory: string; path: string; controllers: string[] } | string {
  let own = ownCgroup(mount, path);
  for (;;) {
    const isRoot = !existsSync(join(own.directory, "cgroup.type"));
    const controllers = readOr(join(own.directory, "cgroup.controllers"), "").trim().split(" ");
    const enabled = readOr(join(own.directory, "cgroup.subtree_control"), "").trim().split(" ");
    const free = isRoot || enabled.includes("memory") || readProcs(join(own.directory, "cgroup.procs")).length === 0;
    if (free && controllers.includes("memory")) {
      const problem = unwritable(own.directory);
      return problem ?? { ...own, controllers };
    }
    if (!own.directory.startsWith(`${mount.point}/`)) {
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
    if (code === "EROFS") return `the cgroup filesystem at ${directory} is mounted read-only (a container: run it with --privileged)`;
    if (code === "EACCES" || code === "EPERM") return `no permission to make a cgroup in ${directory}: run oomlab as root`;
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
    if (mount.type === "cgroup2" || mount.options.includes("memory") || mount.options.includes("cpuset")) search(join(root, mount.point), 6);
  }
  return found;
}
