/** Sizes, rates, times and lists of numbers as they stand in a scenario. */
import {
  MAX_SIZE,
  parseDuration,
  parseLimit,
  parsePercent,
  parseRate,
  parseSize,
  parseStep,
  UnitError,
} from "../units.ts";
import { parseNumberList } from "./names.ts";
import type { JsonSchema } from "./place.ts";
import { nearest } from "./problem.ts";
import { byForm, integer, list, map, named, rawText, unit } from "./shape.ts";
import type { Shape } from "./shape.ts";
import type { Size } from "./types.ts";

export const QUANTITY = "[0-9]+(\\.[0-9]*)?|\\.[0-9]+";
export const SUFFIX = "([eE][+-]?[0-9]+|[KMGTPE]i|[kMGTPE])?";
const DURATION = "([0-9]+(\\.[0-9]+)?(ms|s|m|h))+";
export const sizeJson: JsonSchema = {
  anyOf: [
    { type: "integer", minimum: 0, maximum: MAX_SIZE },
    { type: "string", pattern: `^\\+?(${QUANTITY})${SUFFIX}$` },
  ],
};
const limitJson: JsonSchema = { anyOf: [...(sizeJson["anyOf"] as JsonSchema[]), { const: "max" }] };

export const size: Shape<number> = named(
  "size",
  "Bytes as Kubernetes writes them: 200Mi (2^20), 1G (10^9), 1e6, 4096.",
  unit("a size such as 200Mi", parseSize, sizeJson),
);
export const someSize: Shape<number> = map(size, (bytes, place) =>
  bytes === 0 ? place.expected("a size more than 0") : bytes,
);
export const rate: Shape<number> = named(
  "rate",
  "Bytes a second: 50Mi/s.",
  unit("a rate such as 50Mi/s", parseRate, { type: "string", pattern: `^\\+?(${QUANTITY})${SUFFIX} */ *s$` }),
);
export const steps: Shape<{ size: number; everyMs: number }> = unit("steps such as 12Mi/10s", parseStep, {
  type: "string",
  pattern: `^\\+?(${QUANTITY})${SUFFIX} */ *(${DURATION}|ms|s|m|h)$`,
});
export const duration: Shape<number> = named(
  "duration",
  "A time: 500ms, 5s, 2m, 1h, 1m30s, or 0.",
  unit("a duration such as 500ms, 5s, 2m or 1h", parseDuration, {
    anyOf: [{ const: 0 }, { type: "string", pattern: `^(0|${DURATION})$` }],
  }),
);
export const someTime: Shape<number> = map(duration, (ms, place) =>
  ms === 0 ? place.expected("a duration more than 0") : ms,
);
export const share: Shape<Size> = named(
  "share",
  "A size, or percent of the limit above the process (of RAM where there is none): 256Mi, 50%.",
  unit("a size such as 200Mi, or a share such as 50%", parseShare, {
    anyOf: [...(sizeJson["anyOf"] as JsonSchema[]), { type: "string", pattern: "^[0-9]+(\\.[0-9]+)? *%$" }],
  }),
);
export const hold: Shape<number | "forever"> = named(
  "hold",
  "A time, or forever: until the other processes have ended.",
  unit("a duration such as 1s, or forever", parseHold, {
    anyOf: [{ const: 0 }, { type: "string", pattern: `^(forever|0|${DURATION})$` }],
  }),
);

function parseHold(value: string): number | "forever" {
  if (value === "forever") return value;
  try {
    return parseDuration(value);
  } catch (error) {
    throw nearest(value, ["forever"]) === undefined ? error : new UnitError("a duration", value, { hint: "forever" });
  }
}

function parseShare(value: string): Size {
  return value.endsWith("%") ? { percent: parsePercent(value) } : { bytes: parseSize(value) };
}

const numberList = (noun: string): Shape<number[]> => {
  const expected = `${noun} numbers such as 0-1,3`;
  const item = integer(0, 9999, `a ${noun} number`);
  return named(
    `${noun.toLowerCase()}List`,
    `A list of ${noun} numbers: 0-1,3 or [0, 1, 3].`,
    byForm(expected, {
      scalar: map(rawText(expected), (value, place) => parseNumberList(value) ?? place.expected(expected)),
      list: map(list(item, expected, { min: 1 }), (numbers) => [...new Set(numbers)].toSorted((a, b) => a - b)),
    }),
  );
};
export const cpus: Shape<number[]> = numberList("CPU");
export const nodes: Shape<number[]> = numberList("node");

export const limit: Shape<number | "max"> = named(
  "limit",
  "A size, or max for no limit.",
  unit("a size such as 200Mi, or max", parseLimit, limitJson),
);
