/** The program of a guest, `node agent.cjs CHANNEL`: the engine and nothing else, since a guest starts it under emulation. */
import { agent } from "./cli/agent.ts";

export const main = ([channel = ""]: string[]): Promise<number> => agent(channel);
