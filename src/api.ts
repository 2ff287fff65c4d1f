/** Wires the stages: scenarios -> plans -> machine -> record -> verdict -> reports. */
export { exec, type ExecOptions } from "./api/exec.ts";
export { report, type ReportOptions } from "./api/report.ts";
export { run, type RunOptions } from "./api/run.ts";
export { type Streams, version } from "./api/streams.ts";
export { type GridOptions, predict, type PredictOptions, sweep, type SweepOptions } from "./api/sweep.ts";
