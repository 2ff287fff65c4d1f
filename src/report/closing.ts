/** One line on how a run ended, where its reports are files that nobody looks at yet. */
import { printable } from "../printable.ts";
import type { Output, Reporter } from "./index.ts";
import { summaryWords } from "./words.ts";

export function closingLine(output: Pick<Output, "write">): Reporter {
  return {
    onRunEnd(verdicts, summary) {
      // Where nothing ran, the first reason is why.
      const why = verdicts.every(({ status }) => status === "skipped") ? verdicts[0]?.reason : undefined;
      output.write(`oomlab: ${summaryWords(summary)}${why ? `: ${printable(why)}` : ""}\n`);
    },
  };
}
