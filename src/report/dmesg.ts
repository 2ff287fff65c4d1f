/** The kernel's own records of the runs, as they came. */
import { printable } from "../kmsg/index.ts";
import type { Output, Reporter } from "./index.ts";

export function dmesgReporter(output: Output): Reporter {
  return {
    onScenarioEnd: ({ kernelLog }) => {
      for (const line of kernelLog) output.write(`${printable(line)}\n`);
    },
  };
}
