/** `oomlab agent CHANNEL`: the engine inside a machine that oomlab made; plan in, events out. */
import { serve } from "../machine/guest.ts";

export async function agent(channel: string): Promise<number> {
  await serve(channel);
  // The channel stays watched for an interrupt: nothing else is left to wait for.
  process.exit(0);
}
