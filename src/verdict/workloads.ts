/** Workers that did not do what they stated, and why. Pure. */
import type { Cause } from "../cause/index.ts";
import type { PlannedProcess } from "../plan.ts";
import type { EventOf, WorkerReport } from "../record.ts";
import { formatBytes } from "../units.ts";
import type { Check, Kill } from "../verdict.ts";
import type { Causes } from "./causes.ts";
import { type OtherEnds, otherEndWords, unexplainedWords } from "./ends.ts";
import { describeExit, type Facts, lastWordsOf, ourSignal, outputOf, reportsOf } from "./facts.ts";

/**
 * A worker that did not do what it stated proves nothing: its ENOMEM is no OOM kill, and no kill of it no survival. Nor does a
 * process that another OOM killer ended, whatever it was to do: the kernel's may have come, had the other not.
 */
export function workloadChecks(facts: Facts, kills: readonly Kill[], others: OtherEnds, causes: Causes): Check[] {
  const checks: Check[] = [];
  for (const process of facts.plan.processes) {
    const other = others.get(process.name);
    if (other) {
      checks.push({
        name: `workload.${process.name}`,
        expected: "no other OOM killer interferes",
        actual: otherEndWords(facts, other),
        status: "inconclusive",
        evidence: [...(other.exit ? [other.exit.line] : []), ...other.sender.evidence],
      });
      continue;
    }
    if (process.bytes === null) continue;
    const reports = reportsOf(facts, process.name);
    const exit = facts.exits.get(process.name);
    const error = reports.find(({ report }) => report.type === "error");
    if (reports.filter(({ report }) => report.type === "touched").length >= process.workers) continue;
    if (kills.some((kill) => kill.process === process.name)) continue;
    const detail = earlyEnd(facts, kills, process, { exit, error, cause: causes.get(process.name) });
    if (detail === null) continue;
    const stated = facts.plan.expect.exit.some(
      (wanted) =>
        wanted.process === process.name &&
        exit !== undefined &&
        (wanted.exit === exit.signal || wanted.exit === exit.code),
    );
    checks.push({
      name: `workload.${process.name}`,
      expected: `${formatBytes(process.bytes)} touched`,
      actual: detail.text,
      status: stated ? "passed" : "inconclusive",
      evidence: detail.lines,
    });
  }
  return checks;
}

/** Why a process ended before it had touched all; null: it did not end, or we ended it. */
function earlyEnd(
  facts: Facts,
  kills: readonly Kill[],
  process: PlannedProcess,
  {
    exit,
    error,
    cause,
  }: {
    exit: EventOf<"process-exit"> | undefined;
    error: { line: number; report: WorkerReport } | undefined;
    cause: Cause | undefined;
  },
): { text: string; lines: number[] } | null {
  const reached = Math.max(
    0,
    ...reportsOf(facts, process.name).map(({ report }) =>
      "touched" in report && typeof report.touched === "number" ? report.touched : 0,
    ),
  );
  const after = `after ${formatBytes(reached)}`;
  if (error?.report.type === "error") {
    const { op, errno, message } = error.report;
    return {
      text: `${op} failed ${after}: ${errno ?? message ?? "unknown error"}${errno === "ENOMEM" ? " (no OOM kill)" : ""}`,
      lines: exit ? [error.line, exit.line] : [error.line],
    };
  }
  if (!exit) return null;
  // Ended by the timeout or a step: it was kept from its bytes, it did not give up.
  if (ourSignal(facts, exit)) return null;
  const output = outputOf(facts, process.name);
  const heap = output.find(({ text }) => /JavaScript heap out of memory/.test(text));
  if (heap)
    return {
      text: `V8's own heap limit ended it ${after} (${describeExit(exit)}): no OOM kill`,
      lines: [heap.line, exit.line],
    };
  if (exit.signal === "SIGKILL" || exit.signal === "SIGTERM")
    return {
      text:
        cause === undefined || cause.cause === "unknown"
          ? `ended ${after} by ${unexplainedWords(facts, kills, exit.signal)}`
          : `${cause.sentence}, ${after} were touched`,
      lines: [exit.line, facts.run.line],
    };
  const words = lastWordsOf(facts, process.name);
  return {
    text: `ended ${after} with ${describeExit(exit)}${words === "" ? "" : `: ${words}`}`,
    lines: [exit.line, ...output.map(({ line }) => line)],
  };
}
