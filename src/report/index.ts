/** Reporters: pure functions of records and verdicts; a name of the command line each. */
import type { Plan } from "../plan.ts";
import type { RunEvent } from "../record.ts";
import type { Status, Verdict } from "../verdict.ts";

export interface Output {
  write(text: string): void;
  /** The reader went away or the disk is full: nothing more will be read. */
  readonly broken?: boolean;
  /** A terminal that takes colours. */
  readonly colors?: boolean;
  /** Of the terminal, in characters; absent: it is none. */
  readonly size?: { columns: number; rows: number };
  /** A region at the terminal's end that is drawn again and again; `[]` takes it away. Absent: lines stay as written. */
  readonly live?: (lines: readonly string[]) => void;
}

export type { Check, Kill, Status, Verdict } from "../verdict.ts";

export type Summary = Record<Status, number>;

export interface RunInfo {
  /** oomlab's version. */
  version: string;
  scenarios: number;
  /** What a reader must know of the whole; what is missing included. */
  notes: string[];
  /** Results that should be there and are not, such as a shard's: the whole is then no success. */
  missing: string[];
}

/** What some reporters need of the place they report to. */
export interface Surroundings {
  /** The Markdown summary of a GitHub job; null: there is none. */
  summary: Output | null;
  /** A scenario's file as that place names it. */
  fileName(file: string): string;
}

/** One scenario that has ended: its last attempt, and the verdicts of those before it. */
export interface ScenarioResult {
  verdict: Verdict;
  plan: Plan;
  record: readonly RunEvent[];
  earlier: readonly Verdict[];
}

/** Optional hooks, data only, as Vitest's reporters have them. */
export interface Reporter {
  onRunStart?(info: RunInfo): void;
  onScenarioStart?(plan: Plan): void;
  onEvent?(plan: Plan, event: RunEvent): void;
  /** One attempt at it is over; another may follow. */
  onAttemptEnd?(plan: Plan): void;
  onScenarioEnd?(result: ScenarioResult): void;
  onRunEnd?(verdicts: readonly Verdict[], summary: Summary): void;
  /** Prints plans instead of running them; where no reporter has it, the terminal's does. */
  onPlans?(plans: readonly Plan[]): void;
}

export type MakeReporter = (output: Output, info: RunInfo, around: Surroundings) => Reporter;

/** By the command line's names; each is loaded when it is named. */
export const reporters: Record<string, () => Promise<MakeReporter>> = {
  terminal: async () => (await import("./terminal.ts")).terminalReporter,
  json: async () => (await import("./json.ts")).jsonReporter,
  ndjson: async () => (await import("./ndjson.ts")).ndjsonReporter,
  junit: async () => (await import("./junit.ts")).junitReporter,
  github: async () => (await import("./github.ts")).githubReporter,
  html: async () => (await import("./html.ts")).htmlReporter,
  dmesg: async () => (await import("./dmesg.ts")).dmesgReporter,
};

export function summarize(verdicts: readonly Verdict[]): Summary {
  const summary: Summary = { passed: 0, failed: 0, inconclusive: 0, skipped: 0, errored: 0 };
  for (const { status } of verdicts) summary[status]++;
  return summary;
}

const broken = new WeakSet<object>();

/** Calls one hook of all reporters; one that throws is told once and left alone from then on, and changes no verdict. */
export function announce<AnyReporter extends object>(
  all: readonly AnyReporter[],
  warn: (message: string) => void,
  call: (reporter: AnyReporter) => void,
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
