/** The cgroups of one run: made in the plan's order, every write read back, all removed again. */
import { closeSync, constants, existsSync, openSync } from "node:fs";
import { join } from "node:path";
import {
  type CgroupDriver,
  leaveDirectory,
  makeDirectory,
  namedDriver,
  openCgroups,
  readProcs,
  removeDirectory,
  subtree,
} from "../cgroup/index.ts";
import { MachineError, OomlabError } from "../errors.ts";
import type { Addon } from "../native.ts";
import { type Capabilities, directoryOf, hierarchyOf, type Plan, type PlannedWrite } from "../plan.ts";
import type { Emit } from "../record.ts";
import type { HeldScope } from "./delegate.ts";

/** linux/magic.h CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC. */
const cgroupMagic = new Set([0x27e0eb, 0x63677270]);

/** Where processes without a limit live on v2: the run's own cgroup passes controllers on, so it holds none itself. */
const unlimited = "unlimited";

/** Cgroups go by their names in the scenario; "" is the run's own. */
export class RunCgroups {
  readonly #plan: Plan;
  readonly #caps: Capabilities;
  readonly #addon: Addon;
  readonly #emit: Emit;
  /** The run's own cgroup, below the hierarchy's directory. */
  readonly #top: string;
  /** Where those stand that are not named as they stand: Pods and containers. */
  readonly #directories: ReadonlyMap<string, string>;
  readonly #made: string[] = [];
  readonly #locks: number[] = [];
  #driver: CgroupDriver | null = null;
  #parent: string | null = null;
  #cpusetParent: string | null = null;
  #scope: HeldScope | null = null;

  constructor(plan: Plan, caps: Capabilities, addon: Addon, emit: Emit) {
    this.#plan = plan;
    this.#caps = caps;
    this.#addon = addon;
    this.#emit = emit;
    this.#top = plan.top.directory ?? plan.top.name;
    this.#directories = new Map(plan.cgroups.map((cgroup) => [cgroup.name, directoryOf(cgroup)]));
  }

  /** Those that were made, parents first. */
  get made(): readonly string[] {
    return this.#made;
  }

  /** Throws MachineError before `create`. */
  get driver(): CgroupDriver {
    if (!this.#driver) throw new MachineError("NO_CGROUP", "the run has no cgroup yet");
    return this.#driver;
  }

  /** Makes all of the plan and writes its limits. Throws MachineError with what could not be made or written. */
  async create(): Promise<void> {
    const hierarchy = hierarchyOf(this.#caps, this.#plan.cgroupVersion);
    if (!hierarchy)
      throw new MachineError(
        "NO_CGROUP",
        this.#caps.cgroupProblems[this.#plan.cgroupVersion] ?? "no usable cgroup hierarchy",
      );
    let { directory } = hierarchy;
    const { scope } = this.#plan.top;
    if (scope !== undefined) {
      const { heldScope, enterScope } = await import("./delegate.ts");
      if (this.#caps.systemd?.manager === "user") await enterScope(scope, hierarchy.path);
      else this.#scope = await heldScope(this.#addon, scope, hierarchy);
      directory = join(directory, scope);
    }
    if (!cgroupMagic.has(this.#addon.fsMagic(directory)))
      throw new MachineError("NO_CGROUP", `${directory} is on no cgroup filesystem`);
    if (hierarchy.occupied || this.#caps.systemd?.manager === "user") leaveDirectory(directory);
    const usesCpuset = this.#plan.cgroups.some(({ writes }) => writes.some(({ file }) => file.startsWith("cpuset.")));
    const cpusetDirectory = usesCpuset ? hierarchy.cpusetDirectory : null;
    this.#parent = directory;
    this.#cpusetParent = cpusetDirectory;
    for (const parent of this.#parents()) {
      makeDirectory(join(parent, this.#top));
      // Held for as long as this process lives: `clean` removes only cgroups whose lock is free.
      const fd = openSync(join(parent, this.#top), constants.O_RDONLY | constants.O_DIRECTORY);
      this.#locks.push(fd);
      this.#addon.lock(fd);
    }
    const driver = namedDriver(openCgroups({ ...hierarchy, directory, cpusetDirectory }, this.#top), (name) =>
      this.#directoryOf(name),
    );
    this.#driver = driver;
    const { top, cgroups, processes } = this.#plan;
    // On v2 a parent passes a controller on only when it is told to.
    const passed = top.writes.find(({ file }) => file === "cgroup.subtree_control");
    if (passed && driver.version === 2 && this.#top !== "") driver.write("..", passed.file, passed.value);
    this.#make("", top.path);
    for (const cgroup of cgroups) this.#make(cgroup.name, cgroup.path);
    if (processes.some(({ cgroup }) => cgroup === null) && driver.version === 2)
      this.#make(unlimited, `${top.path}/${unlimited}`);
    // Controllers are passed on from above before limits are written below.
    for (const { name, writes } of [{ name: "", writes: top.writes }, ...cgroups])
      for (const write of writes) this.#write(name, write);
  }

  /** The path of a cgroup's directory, or of a file in it. */
  pathOf(name: string, file = ""): string {
    return join(this.#parent ?? "", this.#top, this.#directoryOf(name), file);
  }

  /** Whether this kernel's cgroups have a file. */
  has(name: string, file: string): boolean {
    return existsSync(this.pathOf(name, file));
  }

  isAbove(name: string, other: string): boolean {
    return this.#directoryOf(other).startsWith(`${this.#directoryOf(name)}/`);
  }

  /** Where a process is started that the plan puts into this cgroup, or into none. */
  homeOf(cgroup: string | null): string {
    return cgroup ?? (this.driver.version === 2 ? unlimited : "");
  }

  /** One try: ends what a command left in them, removes children before parents. True when nothing is left. */
  remove(end: (pid: number) => void): boolean {
    // At the hierarchy's root others live too: only what was made goes.
    const tops =
      this.#top === ""
        ? [...new Set(this.#made.map((name) => this.#directoryOf(name).split("/")[0] ?? ""))].filter(Boolean)
        : [this.#top];
    const trees = this.#parents().flatMap((parent) => tops.map((name) => subtree(join(parent, name))));
    const pids = new Set(trees.flat().flatMap((path) => readProcs(join(path, "cgroup.procs"))));
    for (const pid of pids) end(pid);
    this.#addon.reapOrphans();
    return pids.size === 0 && trees.every((tree) => tree.toReversed().every(removeDirectory));
  }

  /** Lets go of what it holds open, at the end. */
  async close(): Promise<void> {
    for (const fd of this.#locks.splice(0)) closeSync(fd);
    this.#driver?.close();
    await this.#scope?.close();
  }

  #parents(): string[] {
    return [this.#parent, this.#cpusetParent].filter((parent) => parent !== null);
  }

  /** Where a cgroup stands below the run's own. */
  #directoryOf(name: string): string {
    return this.#directories.get(name) ?? name;
  }

  #make(name: string, path: string): void {
    this.driver.create(name);
    this.#made.push(name);
    this.#emit({ type: "cgroup", cgroup: name, path });
  }

  /** One write of the plan, read back; the kernel rounds sizes to pages. */
  #write(name: string, { file, value, why }: PlannedWrite): void {
    const began = performance.now();
    try {
      const read = this.driver.write(name, file, value);
      const ms = Math.round(performance.now() - began);
      const rounded = read !== null && /^\d+$/.test(value) && /^\d+$/.test(read) && read !== value;
      this.#emit({
        type: "write",
        cgroup: name,
        file,
        value,
        read,
        errno: null,
        note: rounded ? `rounded to whole pages: ${read}` : null,
        ms,
      });
      if (rounded && Math.abs(Number(read) - Number(value)) >= 65_536 * 4)
        throw new MachineError(
          "WRITE_NOT_TAKEN",
          `${file} of cgroup ${name || this.#plan.top.name} reads ${read} after ${value} was written (${why})`,
        );
    } catch (error) {
      if (error instanceof OomlabError) throw error;
      throw writeError(error as NodeJS.ErrnoException, name || this.#plan.top.name, file, value, why);
    }
  }
}

function writeError(
  error: NodeJS.ErrnoException,
  cgroup: string,
  file: string,
  value: string,
  why: string,
): MachineError {
  const hints: Record<string, string> = {
    ENOENT: `this kernel has no ${file}`,
    EINVAL: "the kernel refuses this value",
    EBUSY: "the cgroup is in use: its usage is above the limit, or it holds processes",
    EACCES: "run oomlab as root",
    EROFS: "the cgroup filesystem is mounted read-only (a container: run it with --privileged)",
  };
  const hint = hints[error.code ?? ""];
  return new MachineError(
    "CGROUP_WRITE",
    `cannot write ${value} to ${file} of cgroup ${cgroup} (${why}): ${error.code ?? error.message}`,
    { cause: error, ...(hint === undefined ? {} : { hint }) },
  );
}
