/** `oomlab clean`: removes what a killed run left behind. */
import type { Streams } from "../api.ts";
import { cleanContainers, cleanMachine, cleanPods, emptyCache, removeAbandoned } from "../machine/index.ts";
import { formatBytes } from "../units.ts";

export async function clean(flags: { cache?: boolean }, streams: Streams): Promise<number> {
  const emptied = flags.cache ? emptyCache() : [];
  for (const { path, size } of emptied) streams.stdout.write(`removed ${path} (${formatBytes(size)})\n`);

  const unfinished = removeAbandoned();
  // Containers first: what ran in one ends with it.
  const places = [await cleanPods(), await cleanContainers(), await cleanMachine()];
  const removed = places.flatMap((place) => place.removed);
  const inUse = places.flatMap((place) => place.inUse);
  const left = places.flatMap((place) => place.left);
  for (const path of [...unfinished, ...removed]) streams.stdout.write(`removed ${path}\n`);
  for (const path of inUse) streams.stdout.write(`left ${path}: its oomlab is still running\n`);
  for (const { path, reason } of left) streams.stderr.write(`oomlab: ${path} could not be removed: ${reason}\n`);
  if (emptied.length + unfinished.length + removed.length + inUse.length + left.length === 0)
    streams.stdout.write("nothing to remove\n");
  return left.length > 0 ? 3 : 0;
}
