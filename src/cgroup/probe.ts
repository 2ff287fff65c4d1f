/** Where oomlab may make cgroups on this machine, found by looking. */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { HierarchyProbe } from "./driver.ts";

interface Mount {
  root: string;
  point: string;
  type: string;
  options: string[];
}

/** /proc/self/mountinfo's cgroup mounts (proc_pid_mountinfo(5)); octal escapes undone. */
export function cgroupMounts(root: string): Mount[] {
  const unescape = (text: string): string =>
    text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
  const mountinfo = readOr(join(root, "proc/self/mountinfo"), "");
  return mountinfo.split("\n").flatMap((line) => {
    const [left, right] = line.split(" - ");
    const [type, , superOptions] = right?.split(" ") ?? [];
    const fields = left?.split(" ") ?? [];
    if ((type !== "cgroup" && type !== "cgroup2") || fields[3] === undefined || fields[4] === undefined) return [];
    return [{ root: unescape(fields[3]), point: unescape(fields[4]), type, options: (superOptions ?? "").split(",") }];
  });
}

/** A process's cgroup in a controller's hierarchy (`cgroup2`: in v2's), from the text of its /proc/PID/cgroup; null: none. */
export function cgroupOf(text: string, controller: string): string | null {
  for (const line of text.split("\n")) {
    const [id, controllers, ...path] = line.split(":");
    if (controller === "cgroup2" ? id === "0" : controllers?.split(",").includes(controller)) return path.join(":");
  }
  return null;
}

/** Where a cgroup of a hierarchy lies in a mount: its directory and its path as the kernel names it. */
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
  const mounts = cgroupMounts(root);
  const own = readOr(join(root, "proc/self/cgroup"), "");
  const hierarchies: HierarchyProbe[] = [];
  const problems: CgroupProbe["problems"] = {};
  const within = (mount: Mount): Mount => ({ ...mount, point: join(root, mount.point) });

  const v1 = mounts.find((mount) => mount.type === "cgroup" && mount.options.includes("memory"));
  if (!v1) problems[1] = "cgroup v1's memory controller is not mounted on this machine";
  else {
    const home = ownCgroup(within(v1), cgroupOf(own, "memory") ?? "/");
    const problem = unwritable(home.directory);
    if (problem) problems[1] = problem;
    else {
      const cpuset = mounts.find((mount) => mount.type === "cgroup" && mount.options.includes("cpuset"));
      const cpusetDirectory = cpuset ? ownCgroup(within(cpuset), cgroupOf(own, "cpuset") ?? "/").directory : null;
      hierarchies.push({
        version: 1,
        mount: join(root, v1.point),
        ...home,
        cpusetDirectory: cpusetDirectory !== null && unwritable(cpusetDirectory) === null ? cpusetDirectory : null,
        controllers: [],
        memsw: existsSync(join(home.directory, "memory.memsw.limit_in_bytes")),
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
      const home = homeOnV2(within(v2), cgroupOf(own, "cgroup2") ?? "/");
      if (typeof home === "string") problems[2] = home;
      else hierarchies.push({ version: 2, mount: join(root, v2.point), ...home, cpusetDirectory: null, memsw: false });
    }
  }
  const hybrid = v2 !== undefined && mounts.some(({ type }) => type === "cgroup");
  return { hierarchies, memoryController, hybrid, problems };
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
  const readOnly = unwritable(own.directory, "EROFS");
  if (readOnly !== null) return readOnly;
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
      return `the container's own cgroup holds other processes beside oomlab, so it cannot pass the memory controller on: start the container with --cgroupns=host, or move its processes into a child cgroup first (docs/ci.md)`;
    }
    own = { directory: dirname(own.directory), path: own.path.slice(0, own.path.lastIndexOf("/")) };
  }
}

/** Root of a user namespace, as in a rootless container: root's rights end with it (user_namespaces(7)). */
export function isRootless(root: string = "/"): boolean {
  const map = readOr(join(root, "proc/self/uid_map"), "");
  return process.getuid?.() === 0 && map !== "" && !/^\s*0\s+0\s+4294967295\s*$/.test(map);
}

/** Why no cgroup can be made in a directory, in words, or null. `only`: this error alone counts. */
function unwritable(directory: string, only?: string): string | null {
  try {
    accessSync(directory, constants.W_OK | constants.X_OK);
    return null;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (only !== undefined && code !== only) return null;
    if (code === "EROFS")
      return `the cgroup filesystem at ${directory} is mounted read-only (a container: run it with --privileged)`;
    if (code === "EACCES" || code === "EPERM")
      return `no permission to make a cgroup in ${directory}: ${isRootless() ? "run the container as root" : "run oomlab as root"}`;
    return `no cgroup can be made in ${directory}: ${(error as Error).message}`;
  }
}

/** The systemd that owns the cgroup tree here and delegates a part of it (https://systemd.io/CGROUP_DELEGATION). */
export interface SystemdProbe {
  manager: "system" | "user";
  /** The manager's cgroup as /proc/PID/cgroup names it ("" for the root). */
  path: string;
}

/**
 * What `probeCgroups` found, where systemd owns the tree: hierarchies are then the slices in which it makes our scopes,
 * `system.slice` for root, `app.slice` of a user's own instance. Without an instance a user keeps what was found.
 * `systemd` is null where none owns the tree, or none would delegate.
 */
export function underSystemd(
  root: string,
  uid: number,
  found: CgroupProbe,
): CgroupProbe & { systemd: SystemdProbe | null } {
  if (!existsSync(join(root, "run/systemd/system"))) return { ...found, systemd: null };
  const mounts = cgroupMounts(root);
  const first = readOr(join(root, "proc/1/cgroup"), "");
  /** Where PID 1 manages a hierarchy's tree from: the root, but in a container. */
  const base = (controller: string): string => (cgroupOf(first, controller) ?? "/").replace(/\/(init\.scope)?$/, "");
  const v2 = mounts.find((mount) => mount.type === "cgroup2");
  const onV2 = (path: string, slice: string): HierarchyProbe | string => {
    if (!v2) return "cgroup v2 is not mounted on this machine";
    const mount = { ...v2, point: join(root, v2.point) };
    const manager = ownCgroup(mount, path || "/");
    const controllers = readOr(join(manager.directory, "cgroup.controllers"), "").trim().split(" ");
    const problem = unwritable(manager.directory);
    if (problem !== null) return problem;
    return {
      version: 2,
      mount: mount.point,
      directory: join(manager.directory, slice),
      path: `${manager.path}/${slice}`,
      cpusetDirectory: null,
      controllers,
      memsw: false,
    };
  };

  if (uid === 0) {
    const hierarchies = found.hierarchies.filter(({ version }) => version === 1);
    const problems = { ...found.problems };
    for (const hierarchy of hierarchies) {
      const path = `${base("memory")}/system.slice`;
      const v1 = mounts.find((mount) => mount.type === "cgroup" && mount.options.includes("memory"));
      if (v1) Object.assign(hierarchy, { path, directory: join(root, v1.point, path) });
    }
    if (found.memoryController === 2) {
      const home = onV2(base("cgroup2"), "system.slice");
      if (typeof home === "string") problems[2] = home;
      else {
        delete problems[2];
        hierarchies.push(home);
      }
    }
    return { ...found, hierarchies, problems, systemd: { manager: "system", path: base("cgroup2") } };
  }

  if (found.memoryController !== 2) return { ...found, systemd: null };
  const path = `${base("cgroup2")}/user.slice/user-${uid}.slice/user@${uid}.service`;
  // Sockets of an instance that was stopped stay for as long as the user is logged in; its cgroup does not.
  const runs = v2 !== undefined && existsSync(join(root, v2.point, path));
  const home = runs && existsSync(join(root, `run/user/${uid}/systemd/private`)) ? onV2(path, "app.slice") : null;
  const hasBus = existsSync(join(root, `run/user/${uid}/bus`));
  if (home !== null && typeof home !== "string" && hasBus && home.controllers.includes("memory"))
    return {
      ...found,
      hierarchies: [home],
      problems: found.problems[1] === undefined ? {} : { 1: found.problems[1] },
      systemd: { manager: "user", path },
    };
  // A cgroup that is delegated already serves as well.
  if (found.hierarchies.some(({ version }) => version === 2)) return { ...found, systemd: null };
  const problem =
    home === null
      ? `this user (uid ${uid}) has no systemd instance that could delegate a cgroup: log in over ssh or at a console, type \`sudo systemctl start user@${uid}\` or \`sudo loginctl enable-linger ${uid}\`, or run oomlab as root`
      : typeof home === "string"
        ? home
        : !hasBus
          ? `this user's systemd instance has no bus at /run/user/${uid}/bus to ask for a delegated cgroup: install dbus-user-session, or type \`systemd-run --user --scope -p Delegate=yes oomlab ...\``
          : `this user's systemd instance is not delegated the memory controller (it has ${home.controllers.join(", ") || "none"}): run oomlab as root, or set Delegate=yes for user@.service`;
  return { ...found, problems: { ...found.problems, 2: problem }, systemd: null };
}

function readOr(path: string, fallback: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return fallback;
  }
}
