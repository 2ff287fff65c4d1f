/** What a cgroup driver is; v1.ts and v2.ts implement it. */

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
  /** v2: this process alone stands in the directory, which passes controllers on only when it has left. */
  occupied?: boolean;
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
