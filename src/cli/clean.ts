/** `oomlab clean`: removes what a killed run left behind. */
import type { Streams } from "../api.ts";
import { cleanMachine } from "../machine/index.ts";

export async function clean(streams: Streams): Promise<number> {
  const { removed, inUse, left } = await cleanMachine();
  for (const path of removed) streams.stdout.write(`removed ${path}\n`);
  for (const path of inUse) streams.stdout.write(`left ${path}: its oomlab is still running\n`);
  for (const { path, reason } of left) streams.stderr.write(`oomlab: ${path} could not be removed: ${reason}\n`);
  if (removed.length + inUse.length + left.length === 0) streams.stdout.write("nothing to remove\n");
  return left.length > 0 ? 3 : 0;
}
