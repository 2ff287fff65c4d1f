/** This machine: the engine runs in this process. */
import { cleanBeside } from "../engine/clean.ts";
import { probe } from "../engine/probe.ts";
import { runPlan } from "../engine/run.ts";
import { loadAddon } from "../native.ts";
import type { Machine } from "./index.ts";

export function hostMachine(): Machine {
  let cleaned = false;
  return {
    name: "host",
    probe: async () => probe(),
    async run(plan, caps, emit, signal) {
      // Orphans of a command come to us, and end with the run.
      loadAddon().setChildSubreaper(true);
      if (!cleaned) {
        cleaned = true;
        await cleanBeside(
          caps.hierarchies.flatMap(({ directory, cpusetDirectory }) => [
            directory,
            ...(cpusetDirectory === null ? [] : [cpusetDirectory]),
          ]),
        );
      }
      await runPlan(plan, caps, emit, signal);
    },
  };
}
