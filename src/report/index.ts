/** Reporters: pure functions of records and verdicts; a name of the command line each. */
import type { Plan } from "../plan.ts";
import type { RunEvent } from "../record.ts";
import type { Status, Verdict } from "../verdict.ts";
import { dmesgReporter } from "./dmesg.ts";
import { jsonReporter } from "./json.ts";
import { ndjsonReporter } from "./ndjson.ts";
import { terminalReporter } from "./terminal.ts";

export interface Output {
  write(text: string): void;
  /** The reader went away or the disk is full: nothing more will be read. */
  readonly broken?: boolean;
  /** A terminal that takes colours. */
  readonly colors: boolean;
}

export type Summary = Record<Status, number>;

export interface RunInfo {
  /** oomlab's version. */
  version: string;
  scenarios: number;
}

/** Five optional hooks, data only, as Vitest's reporters have them. */
export interface Reporter {
  onRunStart?(info: RunInfo): void;
  onScenarioStart?(plan: Plan): void;
  onEvent?(plan: Plan, event: RunEvent): void;
  onScenarioEnd?(verdict: Verdict): void;
  onRunEnd?(verdicts: readonly Verdict[], summary: Summary): void;
  /** Prints plans instead of running them; a reporter without it falls back to the terminal's. */
  onPlans?(plans: readonly Plan[]): void;
}

export const reporters: Record<string, (output: Output, info: RunInfo) => Reporter> = {
  terminal: terminalReporter,
  json: jsonReporter,
  ndjson: ndjsonReporter,
  dmesg: dmesgReporter,
};

export function summarize(verdicts: readonly Verdict[]): Summary {
  const summary: Summary = { passed: 0, failed: 0, inconclusive: 0, skipped: 0, errored: 0 };
  for (const { status } of verdicts) summary[status]++;
  return summary;
}

const broken = new WeakSet<Reporter>();

/** Calls one hook of all reporters; one that throws is told once and left alone from then on, and changes no verdict. */
export function announce(
  all: readonly Reporter[],
  warn: (message: string) => void,
  call: (reporter: Reporter) => void,
): void {
  for (const reporter of all) {
    if (broken.has(reporter)) continue;
    try {
      call(reporter);
    } catch (error) {
      broken.add(reporter);
      warn(`a report is incomplete: ${(error as Error).message}`);
    }
  }
}
