/** `oomlab sweep` and `oomlab predict`: the points of a grid, run or reckoned, and where the outcome flips. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { OomlabError, UsageError } from "../errors.ts";
import { printable } from "../printable.ts";
import { eventsOf, parseRecords, type RunEvent, type SweepPoint } from "../record.ts";
import type { CgroupVersion } from "../plan.ts";
import type { Reporter } from "../report/index.ts";
import { loadScenarios, NOTHING_EXPECTED, type Scenario, ScenarioErrors } from "../scenario/index.ts";
import type { NodeModel } from "../sweep/model.ts";
import { type Outcome, outcomeOf, outcomeWord } from "../sweep/outcome.ts";
import { onlyTurn, predict as predictPoints } from "../sweep/predict.ts";
import {
  outcomeAt,
  type Stretch,
  stretchesOf,
  type SweepInfo,
  type SweepReporter,
  sweepReporters,
} from "../sweep/report.ts";
import {
  type Axis,
  parseVary,
  type Point,
  pointCount,
  pointsOf,
  type Scale,
  type SweptScenario,
  valuesAt,
  varied,
} from "../sweep/vary.ts";
import { judge } from "../verdict.ts";
import { runDefaults, type RunOptions, runScenarios } from "./run.ts";
import { type OpenOutputs, openOutputs } from "./outputs.ts";
import { type Streams, version } from "./streams.ts";

/** What `oomlab sweep` and `oomlab predict` both take; all but `path` and a sweep's `vary` has the commands' defaults. */
export interface GridOptions {
  /** A scenario file, or `-` for standard input. */
  path: string;
  /** The scenario of that name, where the file holds several. */
  grep?: RegExp;
  /** `NAME=FROM..TO` or `NAME=A,B,C`. */
  vary?: string[];
  /** Values of each range in its order; the last one holds for the rest. Default: 10. */
  steps?: number[];
  /** How a range is divided. Default: `linear`. */
  scale?: Scale;
  /** `name` or `name=file`. Default: `["terminal"]`; empty: nothing is reported. */
  reporters?: string[];
  /** For each point. Default: what the scenario states, or 60 s. */
  timeoutMs?: number;
  cgroup?: CgroupVersion;
}

export interface SweepOptions extends GridOptions {
  /** Default: `auto`. */
  machine?: Exclude<RunOptions["machine"], "kubernetes" | undefined>;
  /** The VM's: a version, `latest` or a path. */
  kernel?: string;
  /** Maximum number of points run in parallel. Default: 1. */
  jobs?: number;
  /** Folder of the records; default: named after the scenario. */
  output?: string;
  /** Also run on this machine what could exhaust its memory. */
  allowHostOom?: boolean;
  /** List the points on standard output, run nothing. */
  list?: boolean;
  /** Say more on standard error. */
  verbose?: boolean;
}

export interface PredictOptions extends GridOptions {
  /** What no scenario states of its node. Default: as in oomlab's own VM. */
  node?: Partial<NodeModel>;
}

/** One point of a grid. */
export interface GridPoint {
  values: Record<string, string>;
  /** What came of it in a word, as the reports name it: `memcg`, `eviction`, `lives` ... */
  outcome: string;
  measured: Outcome | null;
  model: Outcome | null;
  /** The file of its record. */
  record: string | null;
}

/** What came of a grid's points, and where along each number the outcome flips. */
export interface GridResult {
  /** The command's: 0, 3 where a point has no outcome, 130 interrupted. */
  exitCode: number;
  points: GridPoint[];
  stretches: Stretch[];
}

/** More points than these are no sweep that anybody waits for. */
const mostPoints = 10_000;
const mostPredicted = 10_000_000;

interface Grid {
  swept: SweptScenario;
  axes: Axis[];
}

async function readGrid(
  { path, grep, vary = [], steps = [], scale = "linear" }: GridOptions,
  streams: Streams,
): Promise<Grid> {
  const axes = vary.map((text, index) => parseVary(text, steps[index] ?? steps.at(-1) ?? 10, scale));
  const names = axes.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) throw new UsageError(`--vary ${twice} stands twice`);
  const stdin = path === "-" && streams.stdin ? await streams.stdin() : undefined;
  const found = await loadScenarios([path], {
    ...(grep ? { grep } : {}),
    ...(stdin === undefined ? {} : { stdin }),
  });
  const [base, ...others] = found;
  if (!base) throw new UsageError(`no scenario in ${path} has a name that matches`);
  if (others.length > 0)
    throw new UsageError(`${path} holds ${found.length} scenarios, and a sweep is of one`, {
      hint: `choose it with -g: ${found
        .slice(0, 6)
        .map(({ name }) => JSON.stringify(name))
        .join(", ")}${found.length > 6 ? ", ..." : ""}`,
    });
  const text = stdin ?? readFileSync(base.file, "utf8");
  return { swept: varied(text, onlyTurn(base), axes), axes };
}

/** The scenario at a point; what of a value is wrong is told with the point. */
function scenarioAt({ swept, axes }: Grid, point: Point): { text: string; scenario: Scenario } {
  const values = valuesAt(axes, point);
  try {
    const { text, scenario } = swept.at(Object.values(values));
    return { text, scenario: { ...onlyTurn(scenario), expect: NOTHING_EXPECTED } };
  } catch (error) {
    if (!(error instanceof ScenarioErrors)) throw error;
    throw new UsageError(`at ${pointWords(values)}: ${error.message}`);
  }
}

const pointWords = (values: Record<string, string>): string =>
  Object.entries(values)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ");

const plain = (text: string): string =>
  text
    .replaceAll(/[^A-Za-z0-9.]+/g, "-")
    .replaceAll(/^-|-$/g, "")
    .slice(0, 80);

interface PlannedPoint {
  point: Point;
  scenario: Scenario;
  label: SweepPoint;
  /** Its record's file name. */
  name: string;
}

/** Runs what of a grid no record tells yet, and reports all of it. */
export async function sweep(options: SweepOptions, streams: Streams): Promise<GridResult> {
  const { machine: wanted = "auto" } = options;
  if (!options.vary?.length)
    throw new UsageError("name what to vary: --vary NAME=FROM..TO", {
      hint: "any number of the scenario, such as --vary process.rate=5Mi/s..500Mi/s",
    });
  const grid = await readGrid(options, streams);
  const { swept, axes } = grid;
  const count = pointCount(axes);
  if (count > mostPoints)
    throw new UsageError(`${count} points are more than the ${mostPoints} that are run`, {
      hint: "fewer --steps; `oomlab predict` takes millions",
    });
  const where = JSON.stringify([wanted, options.cgroup ?? null, options.kernel ?? null, options.timeoutMs ?? null]);
  const points = [...pointsOf(axes)].map((point): PlannedPoint => {
    const { text, scenario } = scenarioAt(grid, point);
    const digest = createHash("sha256").update(`${where}\n${text}`).digest("hex").slice(0, 16);
    const values = valuesAt(axes, point);
    const name = `${plain(pointWords(values))}-${digest.slice(0, 8)}.ndjson`;
    return { point, scenario, label: { values, digest }, name };
  });
  if (options.list) {
    for (const { label } of points) streams.stdout.write(`${pointWords(label.values)}\n`);
    return { exitCode: 0, points: [], stretches: [] };
  }
  const folder = options.output ?? `sweep-${plain(swept.base.name).toLowerCase()}`;
  const { outputs, close } = openGridOutputs(options, streams, folder);
  try {
    const outcomes = new Map<string, { outcome: Outcome; record: RunEvent[] | null }>();
    const machines: NonNullable<SweepInfo["machine"]>[] = [];
    const keep = (digest: string, record: readonly RunEvent[]): Outcome => {
      const verdict = judge(record);
      const { machine: name, cgroupVersion, kernel } = verdict;
      if (verdict.observed !== null) machines.push({ name, cgroupVersion, kernel });
      const outcome = outcomeOf(verdict, record);
      outcomes.set(digest, { outcome, record: null });
      return outcome;
    };
    for (const { label, name } of points) {
      const record = readWhole(join(folder, name), label.digest);
      if (record) keep(label.digest, record);
    }
    const missing = points.filter(({ label }) => !outcomes.has(label.digest));
    const say = (text: string): void => streams.stderr.write(`oomlab: ${text}\n`);
    if (missing.length < points.length)
      say(`${points.length - missing.length} of ${points.length} points have their record in ${folder}`);
    let ended = points.length - missing.length;
    const collector: Reporter = {
      onScenarioEnd({ record }) {
        const [first] = record;
        const label = first?.type === "run" ? first.point : undefined;
        if (!label) return;
        const outcome = keep(label.digest, record);
        ended++;
        const problem = outcome.problem === null ? "" : ` (${printable(outcome.problem)})`;
        say(`${ended} of ${points.length}: ${printable(pointWords(label.values))}: ${outcomeWord(outcome)}${problem}`);
      },
    };
    if (missing.length > 0)
      await runScenarios(
        missing.map(({ scenario }) => scenario),
        {
          ...runDefaults,
          machine: options.kernel !== undefined && wanted === "auto" ? "vm" : wanted,
          cgroup: options.cgroup === undefined ? [] : [options.cgroup],
          kernels: options.kernel === undefined ? [] : [options.kernel],
          jobs: options.jobs ?? runDefaults.jobs,
          output: folder,
          allowHostOom: options.allowHostOom ?? false,
          verbose: options.verbose ?? false,
          ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
        },
        streams,
        {
          info: { version: version(), scenarios: missing.length, notes: [], missing: [] },
          reporters: [collector],
          record: (index) => {
            const { name = "", label = { values: {}, digest: "" } } = missing[index] ?? {};
            return { name, point: label };
          },
        },
      );
    const collected = collectPoints(axes);
    const reporters = [...(await makeReporters(outputs, axes)), collected.reporter];
    const [machine = null] = machines;
    const model = modelOutcomes(grid, options, machine?.cgroupVersion === 1 ? 1 : options.cgroup);
    for (const { point, label, name } of points) {
      const measured = outcomes.get(label.digest)?.outcome ?? null;
      const result = {
        point,
        measured,
        record: measured === null ? null : join(folder, name),
        model: model.get(point.index) ?? null,
      };
      for (const reporter of reporters) reporter.onPoint(result);
    }
    const info: SweepInfo = { scenario: swept.base.name, file: swept.base.file, axes, machine };
    for (const reporter of reporters) reporter.onEnd(info);
    if (streams.signal.aborted) {
      say(`interrupted: the same command goes on where it was cut, by the records in ${folder}`);
      return collected.result(130);
    }
    const known = points.every(({ label }) => outcomes.get(label.digest)?.outcome.problem === null);
    return collected.result(known ? 0 : 3);
  } finally {
    close();
  }
}

/** No reporter: no report. */
function openGridOutputs(
  { path, reporters = ["terminal"] }: GridOptions,
  streams: Streams,
  records?: string,
): Pick<OpenOutputs, "outputs" | "close"> {
  if (reporters.length === 0) return { outputs: [], close: () => undefined };
  return openOutputs(reporters, Object.keys(sweepReporters), streams, {
    inputs: [path],
    ...(records === undefined ? {} : { records }),
  });
}

/** Gathers what a caller gets of a grid. */
function collectPoints(axes: readonly Axis[]): { reporter: SweepReporter; result: (exitCode: number) => GridResult } {
  const points: GridPoint[] = [];
  return {
    reporter: {
      onPoint(result) {
        const { point, measured, model, record } = result;
        const outcome = outcomeAt(result);
        const word = outcome === null ? "unknown" : outcomeWord(outcome);
        points.push({ values: valuesAt(axes, point), outcome: word, measured, model, record });
      },
      onEnd: () => undefined,
    },
    result: (exitCode) => ({
      exitCode,
      points,
      stretches: stretchesOf(
        axes,
        points.map(({ outcome }) => outcome),
      ),
    }),
  };
}

async function makeReporters(
  outputs: ReturnType<typeof openOutputs>["outputs"],
  axes: readonly Axis[],
): Promise<SweepReporter[]> {
  return Promise.all(
    outputs.map(async ({ name, output }) => {
      const make = await sweepReporters[name]?.();
      if (!make) throw new TypeError(`no reporter ${name}`);
      return make(output, axes);
    }),
  );
}

/** What the model says of each point, by its index. */
function modelOutcomes(
  { swept, axes }: Grid,
  { timeoutMs }: GridOptions,
  cgroupVersion: 1 | 2 | undefined,
): Map<number, Outcome> {
  const options = {
    polls: true,
    ...(cgroupVersion === undefined ? {} : { cgroupVersion }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  };
  return new Map([...predictPoints(swept, axes, options)].map(({ point, outcome }) => [point.index, outcome]));
}

/** A point's record, where it is one of a run that came to its end and whose outcome is known. */
function readWhole(file: string, digest: string): RunEvent[] | null {
  if (!existsSync(file)) return null;
  try {
    const [record] = parseRecords(readFileSync(file, "utf8"), file);
    const [first] = record ?? [];
    if (!record || first?.type !== "run" || first.point?.digest !== digest) return null;
    if (record.at(-1)?.type !== "end" || eventsOf(record, "interrupted").length > 0) return null;
    return outcomeOf(judge(record), record).problem === null ? record : null;
  } catch (error) {
    if (error instanceof OomlabError) return null;
    throw error;
  }
}

/** Predicts the grid's outcomes by the model alone. */
export async function predict(options: PredictOptions, streams: Streams): Promise<GridResult> {
  let collected: ReturnType<typeof collectPoints> | undefined;
  const exitCode = await reportPrediction(options, streams, (axes) => {
    collected = collectPoints(axes);
    return collected.reporter;
  });
  return collected?.result(exitCode) ?? { exitCode, points: [], stretches: [] };
}

/** The same without keeping millions of points. Resolves to the exit status. */
export async function reportPrediction(
  options: PredictOptions,
  streams: Streams,
  also?: (axes: readonly Axis[]) => SweepReporter,
): Promise<number> {
  const grid = await readGrid(options, streams);
  const { swept, axes } = grid;
  const count = pointCount(axes);
  if (count > mostPredicted)
    throw new UsageError(`${count} points are more than the ${mostPredicted} that are reckoned`);
  const { outputs, close } = openGridOutputs(options, streams);
  try {
    const reporters = [...(await makeReporters(outputs, axes)), ...(also ? [also(axes)] : [])];
    const wantsPolls = outputs.some(({ name }) => name === "json" || name === "html");
    let known = true;
    try {
      for (const { point, outcome } of predictPoints(swept, axes, {
        node: options.node ?? {},
        polls: wantsPolls,
        ...(options.cgroup === undefined ? {} : { cgroupVersion: options.cgroup }),
        ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
      })) {
        known &&= outcome.problem === null;
        for (const reporter of reporters) reporter.onPoint({ point, measured: null, record: null, model: outcome });
        if (streams.signal.aborted || streams.stdout.broken === true) break;
      }
    } catch (error) {
      if (!(error instanceof ScenarioErrors)) throw error;
      throw new UsageError(`${basename(swept.base.file)} at one of its points: ${error.message}`);
    }
    const info: SweepInfo = { scenario: swept.base.name, file: swept.base.file, axes, machine: null };
    for (const reporter of reporters) reporter.onEnd(info);
    return streams.signal.aborted ? 130 : known ? 0 : 3;
  } finally {
    close();
  }
}
