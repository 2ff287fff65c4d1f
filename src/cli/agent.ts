/** `oomlab agent CHANNEL`: the engine inside a machine that oomlab made; plan in, events out. `-`: standard input and output. */
import { serve, serveStreams } from "../machine/guest.ts";

export async function agent(channel: string): Promise<number> {
  await (channel === "-" ? serveStreams() : serve(channel));
  // The channel stays watched for an interrupt: nothing else is left to wait for.
  process.exit(0);
}
