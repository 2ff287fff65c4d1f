/** Counters with what they are compared to, as under `expect.counters` and in the step `wait`. */
import { parseSize, UnitError } from "../units.ts";
import { counterNames, splitCounter } from "./cgroupfiles.ts";
import type { Defs, Entry, JsonSchema, Place } from "./place.ts";
import { QUANTITY, SUFFIX } from "./quantities.ts";
import { didYouMean, record } from "./shape.ts";
import type { Shape } from "./shape.ts";
import type { Comparison } from "./types.ts";

const OPERATORS = ["==", "!=", ">=", "<=", ">", "<"] as const;
const COMPARISON = 'a number, or a comparison such as ">0" or "<=30Mi"';

/** Reads `1`, `">0"`, `"<=30Mi"` and `"50Mi ±3%"` (which is two comparisons). */
function comparisons(raw: string, decimals: boolean): Comparison[] | UnitError {
  const value = (number: string): number =>
    decimals && /^\d{1,15}\.\d{1,6}$/.test(number) ? Number(number) : parseSize(number);
  try {
    const range = /^(.+?)\s*(?:\u00b1|\+-|\+\/-)\s*(\d+(?:\.\d+)?)\s*%$/.exec(raw);
    if (range !== null) {
      const middle = value(range[1] ?? "");
      const margin = (middle * Number(range[2])) / 100;
      return [
        { op: ">=", value: Math.ceil(middle - margin), text: raw },
        { op: "<=", value: Math.floor(middle + margin), text: raw },
      ];
    }
    const op = OPERATORS.find((candidate) => raw.startsWith(candidate));
    return [{ op: op ?? "==", value: value(raw.slice(op?.length ?? 0).trim()), text: raw }];
  } catch (error) {
    if (error instanceof UnitError) return error;
    throw error;
  }
}

function comparisonOf(place: Place, decimals: boolean): Comparison[] {
  if (place.isList) return place.items().flatMap((item) => comparisonOf(item, decimals));
  const scalar = place.scalar();
  if (scalar === undefined || scalar.kind === "nothing" || scalar.kind === "boolean") {
    place.expected(COMPARISON);
    return [];
  }
  const read = comparisons(scalar.text, decimals);
  if (!(read instanceof UnitError)) return read;
  const operator = /^(=>|=<|=|<>|~)/.exec(scalar.text)?.[0];
  const better =
    operator === undefined ? undefined : { "=>": ">=", "=<": "<=", "=": "==", "<>": "!=", "~": "==" }[operator];
  const hint = better === undefined ? read.hint : `"${better}${scalar.text.slice(operator?.length ?? 0).trim()}"`;
  place.wrong(
    `expected ${COMPARISON}; got ${place.found}${read.reason === undefined ? "" : `: ${read.reason}`}`,
    hint === undefined ? undefined : `did you mean ${hint}?`,
  );
  return [];
}

const comparisonJson = (defs: Defs): JsonSchema => {
  const pattern = `^((==|!=|>=|<=|>|<)? *\\+?(${QUANTITY})${SUFFIX}|(${QUANTITY})${SUFFIX} *(±|\\+-|\\+/-) *[0-9]+(\\.[0-9]+)? *%)$`;
  const one: JsonSchema = {
    anyOf: [
      { type: "number", minimum: 0 },
      { type: "string", pattern },
    ],
  };
  if (!defs.has("comparison"))
    defs.set("comparison", {
      description: 'A number, a comparison (">0", "<=30Mi"), a range ("50Mi ±3%"), or a list of them.',
      anyOf: [...(one["anyOf"] as JsonSchema[]), { type: "array", items: one, minItems: 1 }],
    });
  return { $ref: "#/$defs/comparison" };
};

export function counter({ key, at, value }: Entry): { key: string; compare: Comparison }[] {
  if (splitCounter(key) === null) {
    const hint = didYouMean(key, counterNames());
    const keys = counterNames()
      .filter((name) => name.startsWith(`${key}.`))
      .slice(0, 6);
    at.wrong(
      keys.length > 0 ? `${key} holds several numbers: name one of them` : "unknown counter",
      keys.length > 0 ? `such as ${keys.join(", ")}` : (hint ?? "such as memory.events.oom_kill"),
    );
    return [];
  }
  return comparisonOf(value, key.startsWith("memory.pressure")).map((compare) => ({ key, compare }));
}

export const countersJson = (defs: Defs): JsonSchema => ({
  type: "object",
  properties: Object.fromEntries(counterNames().map((name) => [name, comparisonJson(defs)])),
  patternProperties: { "^(memory|cgroup)\\.stat\\.[a-z][a-z0-9_]*$": comparisonJson(defs) },
  additionalProperties: false,
});

export const counters: Shape<{ cgroup: string; key: string; compare: Comparison }[][]> = record(
  "counters of cgroups such as { nginx: { memory.events.oom_kill: 1 } }",
  ({ key, at, value }) => {
    at.reader.references.push({ kind: "cgroup", name: key, place: at });
    if (!value.isMap) return value.expected("counters such as { memory.events.oom_kill: 1 }");
    return value
      .entries()
      .flatMap(counter)
      .map(({ key: name, compare }) => ({ cgroup: key, key: name, compare }));
  },
  (defs) => ({ type: "object", additionalProperties: countersJson(defs) }),
);
