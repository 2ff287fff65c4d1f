/** `-v`: each thing that oomlab does, as it does it. */
import { printable } from "../printable.ts";
import type { RunEvent } from "../record.ts";
import type { Output, Reporter } from "./index.ts";

const told: ReadonlySet<RunEvent["type"]> = new Set<RunEvent["type"]>([
  "machine",
  "unmet",
  "panic",
  "phase",
  "cgroup",
  "write",
  "process-start",
  "process-exit",
  "step",
  "kill",
  "timeout",
  "error",
]);

export function narrator(output: Pick<Output, "write">): Reporter {
  return {
    onScenarioStart: ({ name, top }) => output.write(`oomlab: ${printable(name)}: in ${top.path}\n`),
    onEvent: (_plan, { line, t, type, ...rest }) => {
      if (told.has(type))
        output.write(
          `oomlab: ${String(line).padStart(4)} ${(t / 1000).toFixed(1).padStart(9)} ms  ${type} ${JSON.stringify(rest)}\n`,
        );
    },
  };
}
