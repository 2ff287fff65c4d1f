/**
 * Shapes: one description of a place in a scenario file from which come the reading (typed, with every problem placed
 * at its line and column) and the JSON Schema. Reading walks the YAML tree itself: the text as written, key order and
 * positions are at hand, and nothing is built before it has been checked.
 * (Prototype with zod: 20 to 30 ms of a cold start for the same; this takes under 1 ms.)
 */
import { parse } from "yaml";
import { UnitError } from "../units.ts";
import type { Defs, Entry, JsonSchema, NameKind, Place } from "./place.ts";
import { nearest } from "./problem.ts";

export interface Shape<T> {
  /** What belongs there, in words: `a size such as 200Mi`. */
  readonly expected: string;
  /** undefined: it was wrong, and the problem has been noted. */
  readonly read: (place: Place) => T | undefined;
  readonly json: (defs: Defs) => JsonSchema;
}

export type Read<S> = S extends Shape<infer T> ? T : never;

// ---------------------------------------------------------------- scalars

/** Text: a number or a boolean must be quoted. */
export function text(
  expected = "text",
  options: { check?: (text: string) => string | undefined; pattern?: string; examples?: string[] } = {},
): Shape<string> {
  return {
    expected,
    read(place) {
      const scalar = place.scalar();
      if (scalar === undefined || scalar.kind === "nothing") return place.expected(expected);
      if (scalar.kind !== "text") return place.expected(expected, `write it in quotes: "${scalar.text}"`);
      return checked(place, scalar.text, expected, options.check);
    },
    json: () => ({ type: "string", ...(options.pattern === undefined ? {} : { pattern: options.pattern }) }),
  };
}

/** Any scalar as its text: `6.10` stays `6.10`. */
export function rawText(expected: string, check?: (text: string) => string | undefined): Shape<string> {
  return {
    expected,
    read(place) {
      const scalar = place.scalar();
      if (scalar === undefined || scalar.kind === "nothing") return place.expected(expected);
      return checked(place, scalar.text, expected, check);
    },
    json: () => ({ type: ["string", "number", "boolean"] }),
  };
}

function checked(
  place: Place,
  value: string,
  expected: string,
  check?: (text: string) => string | undefined,
): string | undefined {
  const reason = check?.(value);
  return reason === undefined ? value : place.wrong(`expected ${expected}; got ${place.found}: ${reason}`);
}

export function boolean(): Shape<boolean> {
  const expected = "true or false";
  return {
    expected,
    read(place) {
      const scalar = place.scalar();
      if (scalar?.kind === "boolean") return scalar.text.toLowerCase() === "true";
      return place.expected(
        expected,
        scalar === undefined
          ? undefined
          : {
              yes: "did you mean true?",
              on: "did you mean true?",
              no: "did you mean false?",
              off: "did you mean false?",
            }[scalar.text.toLowerCase()],
      );
    },
    json: () => ({ type: "boolean" }),
  };
}

export function integer(min: number, max: number = Number.MAX_SAFE_INTEGER, noun = "a whole number"): Shape<number> {
  const bounds = max === Number.MAX_SAFE_INTEGER ? `${noun} from ${min}` : `${noun} from ${min} to ${max}`;
  return {
    expected: bounds,
    read(place) {
      const scalar = place.scalar();
      const value = scalar?.kind === "number" && /^[+-]?\d+$/.test(scalar.text) ? Number(scalar.text) : Number.NaN;
      return value >= min && value <= max ? value : place.expected(bounds);
    },
    json: () => ({ type: "integer", minimum: min, ...(max === Number.MAX_SAFE_INTEGER ? {} : { maximum: max }) }),
  };
}

/** One of a few words; `as` gives what they mean. */
export function choice<T extends string>(...words: readonly T[]): Shape<T> {
  const expected = words.length === 1 ? `${words[0]}` : `one of ${words.join(", ")}`;
  return {
    expected,
    read(place) {
      const scalar = place.scalar();
      const word = words.find((candidate) => candidate === scalar?.text);
      return word ?? place.expected(expected, didYouMean(scalar?.text, words));
    },
    json: () => ({ enum: [...words] }),
  };
}

export function didYouMean(wrong: string | undefined, right: Iterable<string>): string | undefined {
  const near = wrong === undefined ? undefined : nearest(wrong, right);
  return near === undefined ? undefined : `did you mean ${near}?`;
}

/** A quantity with a parser of units.ts; `hintFor` maps its hint. */
export function unit<T>(expected: string, parse: (text: string) => T, json: JsonSchema): Shape<T> {
  return {
    expected,
    read(place) {
      const scalar = place.scalar();
      if (scalar === undefined || scalar.kind === "nothing" || scalar.kind === "boolean")
        return place.expected(expected);
      try {
        return parse(scalar.text);
      } catch (error) {
        if (!(error instanceof UnitError)) throw error;
        const reason = error.reason === undefined ? "" : `: ${error.reason}`;
        return place.wrong(
          `expected ${expected}; got ${place.found}${reason}`,
          error.hint === undefined ? undefined : `did you mean ${error.hint}?`,
        );
      }
    },
    json: () => json,
  };
}

/** The name of a cgroup or process that the scenario must have. */
export function reference(kind: NameKind): Shape<string> {
  const expected = `the name of a ${kind}`;
  const name = text(expected);
  return {
    expected,
    read(place) {
      const value = name.read(place);
      if (value !== undefined) place.reader.references.push({ kind, name: value, place });
      return value;
    },
    json: () => ({ type: "string" }),
  };
}

// ---------------------------------------------------------------- compounds

export function list<T>(item: Shape<T>, expected: string, options: { min?: number } = {}): Shape<T[]> {
  const min = options.min ?? 0;
  return {
    expected,
    read(place) {
      if (!place.isList)
        return place.expected(
          expected,
          place.scalar() !== undefined && !place.isNothing ? `write a list: [${place.found}]` : undefined,
        );
      const items = place.items();
      if (items.length < min) return place.wrong(`expected ${expected}; got an empty list`);
      return items.flatMap((child) => {
        const value = item.read(child);
        return value === undefined ? [] : [value];
      });
    },
    json: (defs) => ({ type: "array", items: item.json(defs), ...(min > 0 ? { minItems: min } : {}) }),
  };
}

/** A mapping with free keys. `key` tells what is wrong with a key (undefined: nothing). */
export function record<T>(
  expected: string,
  read: (entry: Entry) => T | undefined,
  json: (defs: Defs) => JsonSchema,
): Shape<T[]> {
  return {
    expected,
    read(place) {
      if (!place.isMap) return place.expected(expected);
      return place.entries().flatMap((entry) => {
        const value = read(entry);
        return value === undefined ? [] : [value];
      });
    },
    json,
  };
}

export interface Field<T> {
  readonly shape: Shape<T>;
  /** What it does: the docs and the JSON Schema say it. */
  readonly about: string;
  readonly default?: string;
  readonly example?: string;
}

export function field<T>(shape: Shape<T>, about: string, more: { default?: string; example?: string } = {}): Field<T> {
  return { shape, about, ...more };
}

type Fields = Record<string, Field<unknown>>;
export type FieldsOf<F extends Fields> = { [K in keyof F]?: F[K] extends Field<infer T> ? T : never };

/** A mapping with the given keys, none required; its value has them in the order written. */
export function object<F extends Fields>(
  expected: string,
  fields: F,
  /** What to say of certain unknown keys, instead of the nearest right one. */
  unknown: Readonly<Record<string, string>> = {},
): Shape<FieldsOf<F>> & { fields: F } {
  const known = new Map<string, Field<unknown>>(Object.entries(fields));
  return {
    expected,
    fields,
    read(place) {
      if (!place.isMap) return place.expected(expected);
      const result: Record<string, unknown> = {};
      for (const { key, at, value } of place.entries()) {
        const found = known.get(key);
        if (found === undefined)
          unknownKey(at, key, [...known.keys()], Object.hasOwn(unknown, key) ? unknown[key] : undefined);
        else {
          const read = found.shape.read(value);
          if (read !== undefined) result[key] = read;
        }
      }
      return result as FieldsOf<F>;
    },
    json: (defs) => ({
      type: "object",
      properties: Object.fromEntries([...known].map(([key, child]) => [key, fieldSchema(child, defs)])),
      additionalProperties: false,
    }),
  };
}

export function fieldSchema(child: Field<unknown>, defs: Defs): JsonSchema {
  const examples = child.example === undefined ? {} : { examples: [parse(child.example) as unknown] };
  return {
    ...child.shape.json(defs),
    description: child.default === undefined ? child.about : `${child.about} (default: ${child.default})`,
    ...examples,
  };
}

/** Notes a key that has no meaning here. */
export function unknownKey(at: Place, key: string, known: readonly string[], instead?: string): undefined {
  if (instead !== undefined) return at.wrong(instead);
  const hint = didYouMean(key, known);
  return at.wrong(`unknown key${hint === undefined ? `; known here: ${known.join(", ")}` : ""}`, hint);
}

/** A part of the JSON Schema with a name of its own. */
export function named<S extends Shape<unknown>>(name: string, about: string, shape: S): S {
  return {
    ...shape,
    json(defs: Defs) {
      if (!defs.has(name)) {
        defs.set(name, {});
        defs.set(name, { description: about, ...shape.json(defs) });
      }
      return { $ref: `#/$defs/${name}` };
    },
  };
}

/** One shape where a mapping stands, another for a list, another for a scalar. */
export function byForm<M = never, L = never, S = never>(
  expected: string,
  forms: { map?: Shape<M>; list?: Shape<L>; scalar?: Shape<S> },
): Shape<M | L | S> {
  return {
    expected,
    read(place) {
      const shape: Shape<M | L | S> | undefined = place.isMap
        ? forms.map
        : place.isList
          ? forms.list
          : place.isNothing
            ? undefined
            : forms.scalar;
      return shape === undefined ? place.expected(expected) : shape.read(place);
    },
    json: (defs) => ({
      anyOf: [forms.scalar, forms.list, forms.map].flatMap((shape) => (shape === undefined ? [] : [shape.json(defs)])),
    }),
  };
}

/** A shape whose value is changed once read; undefined means that a problem was noted. */
export function map<A, B>(shape: Shape<A>, change: (value: A, place: Place) => B | undefined): Shape<B> {
  return {
    expected: shape.expected,
    read(place) {
      const value = shape.read(place);
      return value === undefined ? undefined : change(value, place);
    },
    json: shape.json,
  };
}
