/** The library: load scenarios, run them, judge and report records. docs/api.md shows how. */
export { version } from "./api.ts";
export type {
  GridOptions,
  GridPoint,
  GridResult,
  PredictOptions,
  ReportOptions,
  ReportResult,
  RunOptions,
  RunResult,
  SweepOptions,
} from "./api.ts";
export { MachineError, OomlabError, UsageError } from "./errors.ts";
export { type LibraryStreams as Streams, loadScenarios, predict, report, run, sweep } from "./library.ts";
export { hostMachine, type Machine } from "./machine/index.ts";
export { type Capabilities, type Plan, type PlanOptions, planScenario } from "./plan.ts";
export { parseRecords, type RunEvent, type RunEventBody } from "./record.ts";
export {
  type MakeReporter,
  type Output,
  type Reporter,
  reporters,
  type RunInfo,
  type ScenarioResult,
  type Summary,
  type Surroundings,
} from "./report/index.ts";
export { parseScenarios, type Scenario, ScenarioErrors, scenarioJsonSchema } from "./scenario/index.ts";
export { type Check, judge, type Kill, type Kind, type Observed, type Status, type Verdict } from "./verdict.ts";
export type { Outcome } from "./sweep/outcome.ts";
export type { Stretch } from "./sweep/report.ts";
