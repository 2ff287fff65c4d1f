/** The library: load scenarios, run them, judge and report records. */
export { report, type ReportOptions, run, type RunOptions, type Streams, version } from "./api.ts";
export { MachineError, OomlabError, UsageError } from "./errors.ts";
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
export { loadScenarios, parseScenarios, type Scenario, scenarioJsonSchema } from "./scenario/index.ts";
export { type Check, judge, type Kill, type Kind, type Observed, type Status, type Verdict } from "./verdict.ts";
