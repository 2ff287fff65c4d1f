/** The memory-backed volumes of Pods: tmpfs below /tmp/RUN, mounted for as long as the run lasts. */
import { mkdirSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { MachineError } from "../errors.ts";
import type { PlannedVolume } from "../plan.ts";
import { runProgram } from "./program.ts";

/** Mounts the volumes that processes write to. Throws MachineError where the kernel refuses. */
export function mountVolumes(volumes: readonly PlannedVolume[]): void {
  for (const { name, path, size } of volumes) {
    if (path === null) continue;
    mkdirSync(path, { recursive: true });
    // As the kubelet mounts it, and without a size as the kernel does: half of RAM.
    const options = size === null ? [] : ["-o", `size=${size}`];
    tool(`volume ${name} cannot be mounted`, "mount", "-t", "tmpfs", ...options, "tmpfs", path);
  }
}

/** Unmounts and removes what a run mounted, whoever's run it was. */
export function removeVolumes(runName: string): void {
  const folder = join("/tmp", runName);
  const mounts = readFileSync("/proc/self/mounts", "latin1")
    .split("\n")
    .flatMap((line) => {
      const path = line.split(" ")[1] ?? "";
      return path.startsWith(`${folder}/`) ? [path] : [];
    });
  for (const path of mounts) tool(`${path} cannot be unmounted`, "umount", path);
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return;
  }
  for (const name of names) rmdirSync(join(folder, name));
  rmdirSync(folder);
}

function tool(what: string, program: string, ...args: string[]): void {
  try {
    runProgram(program, ...args);
  } catch (error) {
    throw new MachineError("VOLUME", `${what}: ${(error as Error).message}`, { cause: error });
  }
}
