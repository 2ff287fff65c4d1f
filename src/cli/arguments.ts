/** How the values of flags are read. Each throws InvalidArgumentError that says what was expected. */
import { InvalidArgumentError } from "commander";
import type { RunOptions } from "../api.ts";
import { parseDuration, parseRate, parseSize } from "../units.ts";

/** A text that names something. */
export function named(value: string): string {
  if (value === "") throw new InvalidArgumentError("Expected a name; got nothing.");
  return value;
}

/** A flag that may stand several times. */
export const collect = (value: string, before: string[]): string[] => [...before, named(value)];

/** `v1` or `v2`. */
export function cgroupVersion(value: string): 1 | 2 {
  if (value === "v1") return 1;
  if (value === "v2") return 2;
  throw new InvalidArgumentError("Expected v1 or v2.");
}

/** `v1,v2,hybrid`. */
export function cgroupVersions(value: string): NonNullable<RunOptions["cgroup"]> {
  const versions = value.split(",").map((word) => {
    if (word === "v1") return 1;
    if (word === "v2") return 2;
    if (word === "hybrid") return word;
    throw new InvalidArgumentError("Expected v1, v2, hybrid, or several of them: v1,v2.");
  });
  return [...new Set(versions)];
}

/** A whole number from `least`, of six digits at most. */
export const natural =
  (flag: string, least = 0) =>
  (value: string): number => {
    if (!/^\d{1,6}$/.test(value) || Number(value) < least)
      throw new InvalidArgumentError(`Expected ${flag} to be a whole number from ${least} to 999999.`);
    return Number(value);
  };

/** A whole number from 1. */
export const count = (flag: string): ((value: string) => number) => natural(flag, 1);

/** `20` or `20,5`. */
export function steps(value: string): number[] {
  return value.split(",").map((word) => {
    if (!/^\d{1,7}$/.test(word) || Number(word) < 2)
      throw new InvalidArgumentError("Expected whole numbers from 2, such as 20 or 20,5.");
    return Number(word);
  });
}

/** `2/4`, counted from 1. */
export function shard(value: string): { index: number; of: number } {
  const [, index, of] = /^(\d{1,4})\/(\d{1,4})$/.exec(value) ?? [];
  if (index === undefined || of === undefined || Number(index) < 1 || Number(index) > Number(of))
    throw new InvalidArgumentError("Expected i/n with i from 1 to n, e.g. 2/4.");
  return { index: Number(index), of: Number(of) };
}

/** A value as a reader takes it that throws errors of its own. */
const as =
  <T>(read: (text: string) => T) =>
  (value: string): T => {
    try {
      return read(value);
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message);
    }
  };

export const regexp: (value: string) => RegExp = as((text) => {
  if (text === "") throw new TypeError("Expected a pattern; got nothing.");
  return new RegExp(text);
});
/** `30s`, in milliseconds, more than 0. */
export const someTime: (value: string) => number = as((text) => {
  const ms = parseDuration(text);
  if (ms === 0) throw new TypeError("Expected a duration more than 0.");
  return ms;
});
/** `30s`, in milliseconds. */
export const duration: (value: string) => number = as(parseDuration);
/** `64Mi`, in bytes. */
export const size: (value: string) => number = as(parseSize);
/** `5Mi/s`, in bytes a second. */
export const rate: (value: string) => number = as(parseRate);
