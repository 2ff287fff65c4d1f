/**
 * What a sweep varies: `NAME=FROM..TO` or `NAME=A,B,C`, where NAME is a number of the scenario. Pure: from the text of
 * a scenario to the texts of its points.
 */
import { type Document, isMap, LineCounter, parseAllDocuments, type ParsedNode } from "yaml";
import { UsageError } from "../errors.ts";
import { type Scenario, parseScenarios } from "../scenario/index.ts";

/** One number that is varied, and its values as a scenario has them (`31Mi/s`). */
export interface Axis {
  /** As the command line names it. */
  name: string;
  values: string[];
  /** The same in the unit of its kind: bytes, bytes a second, milliseconds, per cent, or as it is. */
  numbers: number[];
  scale: Scale;
}

export type Scale = "linear" | "log";

/** One point of the grid: a value of each axis. */
export interface Point {
  /** From 1; the last axis moves first. */
  index: number;
  /** The place of its value on each axis. */
  places: number[];
}

const sizeUnits: Readonly<Record<string, number>> = {
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};
const timeUnits: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3 };
/** The next smaller unit, in which what is no whole number of the larger one is written. */
const smaller: Readonly<Record<string, string>> = {
  Pi: "Ti",
  Ti: "Gi",
  Gi: "Mi",
  Mi: "Ki",
  Ki: "",
  P: "T",
  T: "G",
  G: "M",
  M: "k",
  k: "",
  h: "m",
  m: "s",
  s: "ms",
};

interface Quantity {
  number: number;
  unit: string;
  /** Behind the unit, as in `Mi/s`. */
  suffix: string;
  decimals: number;
}

const form = /^(-?\d+(?:\.(\d+))?)([kMGTP]i?|Ki|ms|[smh]|%)?(\/\d*(?:ms|s|m|h))?$/;

function readQuantity(text: string): Quantity | null {
  const match = form.exec(text.trim());
  if (!match) return null;
  const [, number = "", decimals = "", unit = "", suffix = ""] = match;
  return { number: Number(number), unit, suffix, decimals: decimals.length };
}

const isTime = (unit: string): boolean => unit in timeUnits;
const factorOf = (unit: string): number => timeUnits[unit] ?? sizeUnits[unit] ?? 1;

/** A value as a number of its kind: `31Mi/s` -> 32505856, `2s` -> 2000. */
const worth = ({ number, unit }: Quantity): number => number * factorOf(unit);

/** Reads what `--vary` was given. Throws UsageError. */
export function parseVary(text: string, steps: number, scale: Scale): Axis {
  const wrong = (why: string): UsageError =>
    new UsageError(`--vary ${JSON.stringify(text)}: ${why}`, {
      hint: "expected NAME=FROM..TO or NAME=A,B,C, such as process.rate=5Mi/s..500Mi/s",
    });
  const at = text.indexOf("=");
  if (at <= 0) throw wrong("it names no number and its range");
  const name = text.slice(0, at).trim();
  const range = text.slice(at + 1).trim();
  const [first = "", last, ...more] = range.split("..");
  if (last === undefined) {
    const values = range.split(",").map((value) => value.trim());
    const read = values.map((value) => readQuantity(value));
    const numbers = read.map((quantity, index) => {
      if (quantity === null) throw wrong(`${JSON.stringify(values[index])} is no number with a unit`);
      return worth(quantity);
    });
    if (new Set(values).size < values.length) throw wrong("a value stands twice");
    return { name, values, numbers, scale };
  }
  if (more.length > 0) throw wrong("a range has two ends");
  const [from, to] = [readQuantity(first), readQuantity(last)];
  if (from === null || to === null)
    throw wrong(`${JSON.stringify(from === null ? first : last)} is no number with a unit`);
  if (from.suffix !== to.suffix || isTime(from.unit) !== isTime(to.unit) || (from.unit === "%") !== (to.unit === "%"))
    throw wrong(`${JSON.stringify(first)} and ${JSON.stringify(last)} are not of one kind`);
  if (worth(from) === worth(to)) throw wrong("both ends are the same");
  if (scale === "log" && (worth(from) <= 0 || worth(to) <= 0)) throw wrong("a logarithmic scale begins above 0");
  if (steps < 2) throw wrong("a range has at least 2 steps, its ends");
  return { name, ...between(from, to, steps, scale), scale };
}

const isWhole = (value: number): boolean => Math.abs(value - Math.round(value)) < 1e-9;

/** So many values from one end to the other, in whole numbers of a unit that tells them apart. */
function between(from: Quantity, to: Quantity, steps: number, scale: Scale): Pick<Axis, "values" | "numbers"> {
  const [low, high] = [worth(from), worth(to)];
  const exact = Array.from({ length: steps }, (_, index) => {
    const share = index / (steps - 1);
    return scale === "log" ? low * (high / low) ** share : low + (high - low) * share;
  });
  const decimals = Math.max(from.decimals, to.decimals);
  const coarse = factorOf(from.unit) >= factorOf(to.unit) ? from.unit : to.unit;
  const hasUnits = isTime(coarse) || (coarse !== "" && coarse !== "%");
  // Shares, and what is written with decimals, keep some.
  const digits = coarse === "%" ? Math.max(2, decimals) : hasUnits ? 0 : decimals > 0 ? Math.max(decimals, 4) : 0;
  const values: string[] = [];
  const numbers: number[] = [];
  for (let index = 0; index < steps; index++) {
    const value = exact[index] ?? 0;
    const gap = Math.min(Math.abs(value - (exact[index - 1] ?? high)), Math.abs(value - (exact[index + 1] ?? low)));
    let unit = coarse;
    while (hasUnits && smaller[unit] !== undefined && gap < 4 * factorOf(unit) && !isWhole(value / factorOf(unit)))
      unit = smaller[unit] ?? "";
    const scaled = value / factorOf(unit);
    const rounded = digits === 0 ? Math.round(scaled) : Number(scaled.toFixed(digits));
    const number = rounded * factorOf(unit);
    if (number === numbers.at(-1)) continue;
    values.push(`${rounded}${unit}${from.suffix}`);
    numbers.push(number);
  }
  return { values, numbers };
}

/** All points of the grid that the axes span; without axes the scenario itself. */
export function* pointsOf(axes: readonly Axis[]): Generator<Point> {
  const places = axes.map(() => 0);
  for (let index = 1; ; index++) {
    yield { index, places: [...places] };
    let axis = axes.length - 1;
    for (; axis >= 0; axis--) {
      places[axis] = (places[axis] ?? 0) + 1;
      if ((places[axis] ?? 0) < (axes[axis]?.values.length ?? 0)) break;
      places[axis] = 0;
    }
    if (axis < 0) return;
  }
}

export const pointCount = (axes: readonly Axis[]): number =>
  axes.reduce((count, { values }) => count * values.length, 1);

/** What each axis has at a point, by the axis' name. */
export const valuesAt = (axes: readonly Axis[], { places }: Point): Record<string, string> =>
  Object.fromEntries(axes.map(({ name, values }, axis) => [name, values[places[axis] ?? 0] ?? ""]));

// where a name leads in a scenario ----------------------------------------------------------------------------------

type Key = string | number;
type Source = Document<ParsedNode>;

interface Node {
  path: Key[];
  /** What each key of the path may be called; a list's element by its number or its name. */
  labels: string[][];
  value: unknown;
}

/** Maps whose keys have dots in them: the rest of a name is one key there. */
const dotted = new Set([
  "evictionHard",
  "evictionSoft",
  "evictionSoftGracePeriod",
  "evictionMinimumReclaim",
  "sysctl",
  "systemReserved",
  "kubeReserved",
]);

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What an element of a list is called: `name`, a Pod's `metadata.name`. */
function nameOf(element: unknown): string | null {
  if (!isRecord(element)) return null;
  if (typeof element["name"] === "string") return element["name"];
  const metadata = element["metadata"] ?? (isRecord(element["manifest"]) ? element["manifest"]["metadata"] : undefined);
  return isRecord(metadata) && typeof metadata["name"] === "string" ? metadata["name"] : null;
}

/** Every value in a document, maps and lists too. */
function nodesOf(value: unknown, path: Key[] = [], labels: string[][] = []): Node[] {
  const here: Node[] = path.length === 0 ? [] : [{ path, labels, value }];
  if (Array.isArray(value))
    return [
      ...here,
      ...value.flatMap((element: unknown, index) => {
        const name = nameOf(element);
        return nodesOf(element, [...path, index], [...labels, [String(index), ...(name === null ? [] : [name])]]);
      }),
    ];
  if (!isRecord(value)) return here;
  return [
    ...here,
    ...Object.entries(value).flatMap(([key, below]) => nodesOf(below, [...path, key], [...labels, [key]])),
  ];
}

/** How many keys of a path `process` stands for: a process, or what presses in a container of a Pod. */
function processKeys({ path }: Node, at: number): number {
  if (at !== 0) return 0;
  if (path[0] === "processes" && path.length > 1) return 2;
  return path[0] === "pods" && path[2] === "pressure" && path.length > 3 ? 4 : 0;
}

/** Whether a name leads to a node: all of its keys, or some of them in their order, the last one among them. */
function leadsTo(name: string, node: Node, whole: boolean, at = 0): boolean {
  if (at === node.path.length) return false;
  const last = at === node.path.length - 1;
  const past = (label: string): string | null =>
    name === label ? "" : name.startsWith(`${label}.`) ? name.slice(label.length + 1) : null;
  for (const label of node.labels[at] ?? []) {
    const rest = past(label);
    if (rest === "" ? last : rest !== null && leadsTo(rest, node, whole, at + 1)) return true;
  }
  if (whole || last) return false;
  const keys = processKeys(node, at);
  const rest = keys > 0 ? past("process") : null;
  if (rest !== null && rest !== "" && leadsTo(rest, node, whole, at + keys)) return true;
  return leadsTo(name, node, whole, at + 1);
}

/** A path in words: list elements by name where they have one. */
const spell = ({ labels }: Node): string => labels.map((all) => all.at(-1) ?? "").join(".");

const isNumber = (value: unknown): boolean =>
  typeof value === "number" || typeof value === "bigint" || (typeof value === "string" && readQuantity(value) !== null);

/** The document and the path in it that a name means. Throws UsageError. */
function resolve(name: string, documents: readonly Source[]): { document: Source; path: Key[] } {
  const wrong = (why: string, hint?: string): UsageError =>
    new UsageError(`--vary ${name}: ${why}`, hint === undefined ? {} : { hint });
  const all = documents.flatMap((document) =>
    nodesOf(document.toJS({ maxAliasCount: 1000 })).map((node) => ({ document, node })),
  );
  for (const whole of [true, false]) {
    const found = all.filter(({ node }) => leadsTo(name, node, whole));
    const numbers = found.filter(({ node }) => isNumber(node.value));
    const [only, ...others] = numbers;
    if (only && others.length === 0) return { document: only.document, path: only.node.path };
    if (only)
      throw wrong(
        `the scenario has ${numbers.length} of that name`,
        `name one of ${numbers
          .slice(0, 8)
          .map(({ node }) => spell(node))
          .join(", ")}`,
      );
    const [other] = whole ? found : [];
    if (other) throw wrong(`${JSON.stringify(other.node.value)} is no number`);
  }
  const added = missing(name, all);
  if (added !== null) return added;
  const last = name.slice(name.lastIndexOf(".") + 1);
  const near = all
    .filter(({ node }) => isNumber(node.value) && spell(node).endsWith(last))
    .map(({ node }) => spell(node));
  const some = near.length > 0 ? near : all.filter(({ node }) => isNumber(node.value)).map(({ node }) => spell(node));
  throw wrong(
    "the scenario has no such number",
    some.length === 0 ? "it has none at all" : `it has ${some.slice(0, 8).join(", ")}${some.length > 8 ? ", ..." : ""}`,
  );
}

/** Where a number that the scenario does not state would stand: in a map that it has, or below a key that scenarios know. */
function missing(
  name: string,
  all: readonly { document: Source; node: Node }[],
): { document: Source; path: Key[] } | null {
  const at = name.lastIndexOf(".");
  if (at < 0) return null;
  const [parent, key] = [name.slice(0, at), name.slice(at + 1)];
  const maps = all.filter(({ node }) => isRecord(node.value) && !dotted.has(String(node.path.at(-1))));
  const isWorkload = ({ path }: Node): boolean => path.at(-1) === "stress" || path.at(-1) === "node";
  // A process' numbers stand in its workload, which need not be named.
  const workloads = maps.filter(
    ({ node }) =>
      isWorkload(node) &&
      (parent === "process"
        ? processKeys(node, 0) === node.path.length - 1
        : leadsTo(`${parent}.${String(node.path.at(-1))}`, node, false)),
  );
  for (const whole of [true, false]) {
    const named = maps.filter(({ node }) => leadsTo(parent, node, whole));
    const [only, ...others] =
      workloads.length > 0 && named.length !== 1 ? workloads : whole ? named : [...workloads, ...named];
    if (only && others.length === 0) return { document: only.document, path: [...only.node.path, key] };
  }
  const [document] = new Set(all.map((entry) => entry.document));
  const [top = "", ...rest] = name.split(".");
  if (!document || !["node", "machine"].includes(top)) return null;
  const path: Key[] = [top];
  while (rest.length > 0) {
    const whole = dotted.has(String(path.at(-1)));
    path.push(whole ? rest.splice(0).join(".") : (rest.shift() ?? ""));
  }
  return { document, path };
}

/** The scenario of a file that is swept, and how its points are made of it. */
export interface SweptScenario {
  base: Scenario;
  /** The scenario's own text at a point, and what it reads as. Throws ScenarioErrors where a value is no good. */
  at(values: readonly string[]): { text: string; scenario: Scenario };
}

/** Finds in a scenario's text what the axes name. Throws UsageError. */
export function varied(text: string, base: Scenario, axes: readonly Axis[]): SweptScenario {
  const lines = new LineCounter();
  const parsed = parseAllDocuments(text.replace(/^\ufeff/, ""), {
    lineCounter: lines,
    logLevel: "silent",
    merge: true,
  });
  const all: Source[] = "empty" in parsed ? [] : parsed;
  const own = all.filter(({ contents }) => contents?.range && lines.linePos(contents.range[0]).line === base.line);
  // The documents of a manifest are one scenario.
  const documents = base.kubernetes !== undefined && !own.some(({ contents }) => isScenario(contents)) ? all : own;
  const places = axes.map(({ name }) => {
    const { document, path } = resolve(name, documents);
    return { document: documents.indexOf(document), path };
  });
  const taken = new Map<string, string>();
  for (const [index, { document, path }] of places.entries()) {
    const key = JSON.stringify([document, path]);
    const { name = "" } = axes[index] ?? {};
    const before = taken.get(key);
    if (before !== undefined) throw new UsageError(`--vary ${name}: --vary ${before} varies the same number`);
    taken.set(key, name);
  }
  return {
    base,
    at(values) {
      const copies = documents.map((document) => document.clone());
      for (const [axis, { document, path }] of places.entries())
        copies[document]?.setIn(path, valueOf(values[axis] ?? ""));
      const written = copies.map((document) => document.toString({ lineWidth: 0 })).join("---\n");
      const [scenario] = parseScenarios(written, base.file);
      if (!scenario) throw new UsageError(`no scenario in ${base.file}`);
      return { text: written, scenario: { ...scenario, name: base.name, line: base.line } };
    },
  };
}

const isScenario = (contents: unknown): boolean => isMap(contents) && !contents.has("apiVersion");

/** As YAML has it: a number where it is one and reads back the same (a version such as 1.20 does not). */
const valueOf = (text: string): string | number => (String(Number(text)) === text ? Number(text) : text);
