/** A sweep or a prediction told: a table for people, CSV and JSON for programs. Pure but for the output it writes to. */
import { printable } from "../printable.ts";
import type { Output } from "../report/index.ts";
import { type Outcome, outcomeWord } from "./outcome.ts";
import { type Axis, type Point, pointCount, valuesAt } from "./vary.ts";

/** What a report begins with. */
export interface SweepInfo {
  scenario: string;
  file: string;
  axes: readonly Axis[];
  /** null: the model alone. */
  machine: { name: string; cgroupVersion: number; kernel: string | null } | null;
}

/** One point: what a run of it came to, and what the model says; null: there is no such. */
export interface SweepResult {
  point: Point;
  measured: Outcome | null;
  /** The file of its record. */
  record: string | null;
  model: Outcome | null;
}

/** Told of the points in the grid's order. */
export interface SweepReporter {
  onPoint(result: SweepResult): void;
  onEnd(info: SweepInfo): void;
}

export type MakeSweepReporter = (output: Output, axes: readonly Axis[]) => SweepReporter;

export const sweepReporters: Readonly<Record<string, () => Promise<MakeSweepReporter>>> = {
  terminal: async () => terminalReporter,
  csv: async () => csvReporter,
  json: async () => jsonReporter,
  html: async () => (await import("./page.ts")).htmlReporter,
};

/** What counts as the outcome of a point: what was measured, where anything was. */
export const outcomeAt = ({ measured, model }: SweepResult): Outcome | null => measured ?? model;

// where the outcome flips --------------------------------------------------------------------------------------------

/** A stretch of one axis, the others held, over which the outcome is the same. */
export interface Stretch {
  /** The values of the other axes. */
  at: Record<string, string>;
  axis: string;
  runs: { word: string; from: string; to: string }[];
}

/** The outcomes of a grid, by point; `words[i]` is that of the point with index i + 1. */
export function stretchesOf(axes: readonly Axis[], words: readonly string[]): Stretch[] {
  const [first, ...others] = axes;
  if (!first) return [];
  const stride = pointCount(others);
  return Array.from({ length: stride }, (_, rest) => {
    const runs: Stretch["runs"] = [];
    for (const [place, value] of first.values.entries()) {
      const word = words[place * stride + rest] ?? "unknown";
      const last = runs.at(-1);
      if (last?.word === word) last.to = value;
      else runs.push({ word, from: value, to: value });
    }
    const places = placesOf(others, rest);
    return { axis: first.name, at: valuesAt(others, { index: rest + 1, places }), runs };
  });
}

/** The places of the point at a position of the grid, from 0. */
function placesOf(axes: readonly Axis[], position: number): number[] {
  let rest = position;
  return axes
    .toReversed()
    .map(({ values }) => {
      const place = rest % values.length;
      rest = Math.floor(rest / values.length);
      return place;
    })
    .toReversed();
}

// for people ----------------------------------------------------------------------------------------------------------

/** More points than these are told by where the outcome flips alone. */
const mostRows = 200;
const mostStretches = 24;

const atWords = (ms: number): string => (Number.isFinite(ms) ? `${(ms / 1000).toFixed(1)} s` : "?");

/** `global, web/app after 13.8 s`. */
function outcomeText(outcome: Outcome): string {
  const word = outcomeWord(outcome);
  if (outcome.problem !== null) return `unknown: ${printable(outcome.problem)}`;
  const [first] = outcome.ends;
  if (first) return `${word}: ${printable(first.process)} after ${atWords(first.atMs)}`;
  return outcome.evicted.length > 0 ? `${word}: ${outcome.evicted.map(printable).join(", ")}` : word;
}

/** A stretch in words: `lives up to 4Mi/s, eviction from 6Mi/s to 10Mi/s, global from 12Mi/s`. */
export function stretchText({ axis, at, runs }: Stretch): string {
  const where = Object.entries(at).map(([name, value]) => `${name} ${value}`);
  const words = runs.map(({ word, from, to }, index): string => {
    if (runs.length === 1) return `${word} throughout`;
    if (from === to) return `${word} at ${from}`;
    if (index === 0) return `${word} up to ${to}`;
    return index === runs.length - 1 ? `${word} from ${from} on` : `${word} from ${from} to ${to}`;
  });
  return printable(`${axis}${where.length > 0 ? ` (${where.join(", ")})` : ""}: ${words.join(", ")}`);
}

function terminalReporter(output: Output, axes: readonly Axis[]): SweepReporter {
  const count = pointCount(axes);
  const rows: SweepResult[] = [];
  const words: string[] = [];
  let agreed = 0;
  let compared = 0;
  return {
    onPoint(result) {
      const { measured, model } = result;
      const outcome = outcomeAt(result);
      const word = outcome === null ? "unknown" : outcomeWord(outcome);
      words.push(word);
      if (measured !== null && model !== null && word !== "unknown" && model.problem === null) {
        compared++;
        if (outcomeWord(model) === word) agreed++;
      }
      if (count <= mostRows) rows.push(result);
    },
    onEnd({ scenario, file, machine }) {
      const where =
        machine === null
          ? "the model"
          : `${machine.name}, cgroup v${machine.cgroupVersion}${machine.kernel === null ? "" : `, kernel ${machine.kernel}`}`;
      output.write(`${printable(scenario)}  ${printable(file)} (${printable(where)})\n`);
      if (rows.length > 0) output.write(`${table(axes, rows)}\n`);
      const stretches = stretchesOf(axes, words);
      for (const stretch of stretches.slice(0, mostStretches)) output.write(`${stretchText(stretch)}\n`);
      if (stretches.length > mostStretches)
        output.write(`... and ${stretches.length - mostStretches} more; --reporter csv or html=FILE has them\n`);
      const problem = rows.map((result) => outcomeAt(result)?.problem ?? null).find((why) => why !== null);
      if (axes.length === 0 && problem) output.write(`${printable(problem)}\n`);
      output.write(`${count} point${count === 1 ? "" : "s"}`);
      output.write(compared > 0 ? `; the model says the same of ${agreed} of ${compared}\n` : "\n");
    },
  };
}

/** Columns as wide as they need to be. */
function table(axes: readonly Axis[], rows: readonly SweepResult[]): string {
  const both = rows.some(({ measured, model }) => measured !== null && model !== null);
  const head = [...axes.map(({ name }) => name), "outcome", ...(both ? ["model"] : [])];
  const cells = rows.map((result) => {
    const outcome = outcomeAt(result);
    return [
      ...Object.values(valuesAt(axes, result.point)),
      outcome === null ? "not run" : outcomeText(outcome),
      ...(both ? [result.model === null ? "" : outcomeText(result.model)] : []),
    ];
  });
  const widths = head.map((title, column) => Math.max(title.length, ...cells.map((row) => (row[column] ?? "").length)));
  return [head, ...cells]
    .map((row) => `  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")}`.trimEnd())
    .join("\n");
}

// for programs --------------------------------------------------------------------------------------------------------

/** RFC 4180; what a spreadsheet would take for a formula is text. */
const csvCell = (text: string): string => {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

/** So much is gathered before it is written. */
const csvChunk = 65_536;

function csvReporter(output: Output, axes: readonly Axis[]): SweepReporter {
  const columns = ["outcome", "first_by", "first_process", "first_ms", "limit", "evicted", "source", "model"];
  let text = `${[...axes.map(({ name }) => csvCell(name)), ...columns].join(",")}\r\n`;
  const values = axes.map((axis) => axis.values.map(csvCell));
  return {
    onPoint(result) {
      const { places } = result.point;
      for (let axis = 0; axis < places.length; axis++) text += `${values[axis]?.[places[axis] ?? 0] ?? ""},`;
      const outcome = outcomeAt(result);
      const first = outcome?.ends[0];
      text +=
        outcome === null
          ? "unknown,,,,,,,"
          : `${csvCell(outcomeWord(outcome))},${first?.by ?? ""},${csvCell(first?.process ?? "")},${first && Number.isFinite(first.atMs) ? first.atMs : ""},${csvCell(first?.limit ?? "")},${csvCell(outcome.evicted.join(" "))},${result.measured === null ? "model" : "run"},`;
      text += `${result.model === null ? "" : csvCell(outcomeWord(result.model))}\r\n`;
      if (text.length < csvChunk) return;
      output.write(text);
      text = "";
    },
    onEnd: () => output.write(text),
  };
}

function outcomeJson(outcome: Outcome): object {
  const { ends, evicted, threshold, polls, problem } = outcome;
  return {
    outcome: outcomeWord(outcome),
    first: ends[0] ?? null,
    ends,
    evicted,
    threshold,
    polls,
    ...(problem === null ? {} : { problem }),
  };
}

function jsonReporter(output: Output, axes: readonly Axis[]): SweepReporter {
  const words: string[] = [];
  let text = '{ "points": [';
  return {
    onPoint(result) {
      const { point, measured, record, model } = result;
      const outcome = outcomeAt(result);
      words.push(outcome === null ? "unknown" : outcomeWord(outcome));
      const told = {
        values: valuesAt(axes, point),
        ...(outcome === null ? { outcome: "unknown" } : outcomeJson(outcome)),
        record,
        model: measured === null || model === null ? null : outcomeJson(model),
      };
      text += `${words.length === 1 ? "\n" : ",\n"}${JSON.stringify(told)}`;
      if (text.length < csvChunk) return;
      output.write(text);
      text = "";
    },
    onEnd({ scenario, file, machine }) {
      const rest = {
        scenario,
        file,
        machine,
        vary: axes.map(({ name, values }) => ({ name, values })),
        stretches: stretchesOf(axes, words),
      };
      output.write(`${text}\n], ${JSON.stringify(rest).slice(1)}\n`);
    },
  };
}
