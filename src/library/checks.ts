/** Checks what a program gives to the library, as commander checks what a person gives to the command. */
import { inspect, types } from "node:util";
import { UsageError } from "../errors.ts";
import { nearest } from "../scenario/index.ts";

/** Says in words what is wrong with an option's value, such as `jobs is -1: expected ...`; null: nothing. */
export type Check = (value: unknown, name: string) => string | null;

/** A check for each option, so that none is forgotten. */
export type Checks<Options> = { [Name in keyof Options]-?: Check };

/**
 * The options that were stated, without those that are undefined. Throws UsageError that names the call and the option:
 * `run: jobs is -1: expected a whole number from 1 to 999999`.
 */
export function checked<Options extends object>(
  call: string,
  options: Options | undefined,
  checks: Checks<Options>,
  required: readonly (keyof Options & string)[] = [],
): Options {
  const given: unknown = options === undefined ? {} : options;
  if (!isObject(given)) throw new UsageError(`${call}: the options are ${shown(given)}: expected an object`);
  const stated = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const missing = required.find((name) => !(name in stated));
  if (missing !== undefined) throw new UsageError(`${call}: ${missing} is missing`);
  const problem = properties(checks)(stated, "");
  if (problem !== null) throw new UsageError(`${call}: ${problem}`);
  return stated as Options;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const shown = (value: unknown): string => {
  const text = inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY });
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
};

const suggestion = (wrong: string, right: Iterable<string>): string => {
  const near = nearest(wrong, right);
  return near === undefined ? "" : `; did you mean ${near}?`;
};

const expect =
  (expected: string, fits: (value: unknown) => boolean): Check =>
  (value, name) =>
    fits(value) ? null : `${name} is ${shown(value)}: expected ${expected}`;

export const text: Check = expect("a text that is not empty", (value) => typeof value === "string" && value !== "");
export const flag: Check = expect("true or false", (value) => typeof value === "boolean");
export const pattern: Check = expect("a RegExp", (value) => types.isRegExp(value));
export const hasWrite: Check = expect(
  "an object with a method write",
  (value) => isObject(value) && typeof value["write"] === "function",
);
export const callable: Check = expect("a function", (value) => typeof value === "function");
export const abortSignal: Check = expect("an AbortSignal", (value) => value instanceof AbortSignal);

export const whole = (least: number, most: number): Check =>
  expect(
    `a whole number from ${least} to ${most}`,
    (value) => Number.isInteger(value) && Number(value) >= least && Number(value) <= most,
  );

/** Sizes, rates and times of the model. */
export const amount: Check = expect(
  "a number from 0",
  (value) => typeof value === "number" && Number.isFinite(value) && value >= 0,
);

export function oneOf(...choices: readonly (string | number)[]): Check {
  return (value, name) => {
    if (choices.some((choice) => choice === value)) return null;
    const near = typeof value === "string" ? suggestion(value, choices.map(String)) : "";
    return `${name} is ${shown(value)}: expected ${choices.map(shown).join(", ")}${near}`;
  };
}

export function listOf(check: Check): Check {
  return (value, name) => {
    if (!Array.isArray(value)) return `${name} is ${shown(value)}: expected an array`;
    for (const [at, item] of value.entries()) {
      const problem = check(item, `${name}[${at}]`);
      if (problem !== null) return problem;
    }
    return null;
  };
}

/** An object with these properties and no others, those that are undefined left out. */
export function properties<Options extends object>(checks: Checks<Options>): Check {
  const all: Readonly<Record<string, Check>> = checks;
  return (value, name) => {
    if (!isObject(value)) return `${name} is ${shown(value)}: expected an object`;
    for (const [key, item] of Object.entries(value)) {
      const path = name === "" ? key : `${name}.${key}`;
      const check = Object.hasOwn(all, key) ? all[key] : undefined;
      if (check === undefined) return `${path} is no option${suggestion(key, Object.keys(all))}`;
      const problem = item === undefined ? null : check(item, path);
      if (problem !== null) return problem;
    }
    return null;
  };
}
