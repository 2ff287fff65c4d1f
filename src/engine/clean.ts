/** Removes what a run that was killed left behind. A run's cgroup is locked (flock) for as long as its oomlab lives. */
import { closeSync, constants, openSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { findRunDirectories, readProcs, removeDirectory, subtree } from "../cgroup/index.ts";
import { type Addon, loadAddon } from "../native.ts";
import { cleanTraces } from "./trace.ts";
import { removeVolumes } from "./volumes.ts";

export interface Cleaned {
  removed: string[];
  /** Of a run that is still alive. */
  inUse: string[];
  /** Could not be removed, with the reason. */
  left: { path: string; reason: string }[];
}

const waitMs = 5_000;

/** Cleans every cgroup hierarchy of this machine, and its trace instances. */
export async function cleanMachine(): Promise<Cleaned> {
  const cgroups = await clean(findRunDirectories("/"));
  const traces = await cleanTraces(loadAddon());
  return {
    removed: [...cgroups.removed, ...traces.removed],
    inUse: [...cgroups.inUse, ...traces.inUse],
    left: [...cgroups.left, ...traces.left],
  };
}

/** Cleans what dead runs left beside the run that is about to start. */
export async function cleanBeside(directories: string[]): Promise<Cleaned> {
  const found = directories.flatMap((directory) => {
    try {
      return readdirSync(directory)
        .filter((name) => /^oomlab-[0-9a-z]+$/.test(name))
        .map((name) => join(directory, name));
    } catch {
      return [];
    }
  });
  if (found.length === 0) return { removed: [], inUse: [], left: [] };
  await cleanTraces(loadAddon());
  return clean(found);
}

async function clean(paths: string[]): Promise<Cleaned> {
  const addon = loadAddon();
  const result: Cleaned = { removed: [], inUse: [], left: [] };
  for (const path of paths) {
    const fd = openOrGone(path);
    if (fd === null) continue;
    try {
      if (!addon.lock(fd)) {
        result.inUse.push(path);
        continue;
      }
      await removeTree(addon, path);
      removeVolumes(basename(path));
      result.removed.push(path);
    } catch (error) {
      result.left.push({ path, reason: (error as Error).message });
    } finally {
      closeSync(fd);
    }
  }
  return result;
}

function openOrGone(path: string): number | null {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch {
    return null;
  }
}

/** Kills what is in a cgroup and below it, then removes it from the leaves up. */
async function removeTree(addon: Addon, path: string): Promise<void> {
  const deadline = performance.now() + waitMs;
  for (let pause = 1; ; pause = Math.min(100, pause * 2)) {
    const tree = subtree(path);
    for (const directory of tree) for (const pid of readProcs(join(directory, "cgroup.procs"))) killPid(pid);
    addon.reapOrphans();
    if (tree.toReversed().every(removeDirectory)) return;
    if (performance.now() > deadline) throw new Error("it is still busy: a process in it does not end");
    await sleep(pause);
  }
}

function killPid(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
