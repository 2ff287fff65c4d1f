/** `oomlab clean`: removes what a killed run left behind. */
import type { Streams } from "../api.ts";
import { cleanContainers, cleanMachine, emptyCache, removeAbandoned } from "../machine/index.ts";
import { formatBytes } from "../units.ts";

export async function clean(flags: { cache?: boolean }, streams: Streams): Promise<number> {
  const emptied = flags.cache ? emptyCache() : [];
  for (const { path, size } of emptied) streams.stdout.write(`removed ${path} (${formatBytes(size)})\n`);

  const unfinished = removeAbandoned();
  // Containers first: what ran in one ends with it.
  const containers = await cleanContainers();
  const cgroups = await cleanMachine();
  const removed = [...containers.removed, ...cgroups.removed];
  const inUse = [...containers.inUse, ...cgroups.inUse];
  const left = [...containers.left, ...cgroups.left];
  for (const path of [...unfinished, ...removed]) streams.stdout.write(`removed ${path}\n`);
  for (const path of inUse) streams.stdout.write(`left ${path}: its oomlab is still running\n`);
  for (const { path, reason } of left) streams.stderr.write(`oomlab: ${path} could not be removed: ${reason}\n`);
  if (emptied.length + unfinished.length + removed.length + inUse.length + left.length === 0)
    streams.stdout.write("nothing to remove\n");
  return left.length > 0 ? 3 : 0;
}
