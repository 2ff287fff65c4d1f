/** The kernel's own records of the runs, as they came. */
import { printable } from "../printable.ts";
import type { Output, Reporter } from "./index.ts";

export function dmesgReporter(output: Output): Reporter {
  return {
    onScenarioEnd: ({ verdict }) => {
      for (const line of verdict.kernelLog) output.write(`${printable(line)}\n`);
    },
  };
}
