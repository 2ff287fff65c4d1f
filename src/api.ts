/** Wires the stages: scenarios -> plans -> machine -> record -> verdict -> reports. */
export { exec, type ExecOptions } from "./api/exec.ts";
export { report, type ReportOptions, type ReportResult } from "./api/report.ts";
export { run, runDefaults, type RunOptions, type RunResult } from "./api/run.ts";
export { type Streams, version } from "./api/streams.ts";
export {
  type GridOptions,
  type GridPoint,
  type GridResult,
  predict,
  type PredictOptions,
  reportPrediction,
  sweep,
  type SweepOptions,
} from "./api/sweep.ts";
