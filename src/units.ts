/** Sizes, rates and durations as people write them, and back. Sizes follow Kubernetes' resource.Quantity; all arithmetic is exact. */
import { OomlabError } from "./errors.ts";

/** The text is no size, rate or duration. `hint` is a better spelling where one is near. */
export class UnitError extends OomlabError {
  /** What is wrong beside the spelling: `a size cannot be negative`. */
  readonly reason: string | undefined;

  constructor(expected: string, text: string, options: { reason?: string; hint?: string | undefined } = {}) {
    const { reason, hint } = options;
    const message = `expected ${expected}; got ${show(text)}${reason === undefined ? "" : `: ${reason}`}`;
    super("UNIT", message, hint === undefined ? { exitCode: 2 } : { hint, exitCode: 2 });
    this.reason = reason;
  }
}

const SIZE = "a size such as 200Mi";
const RATE = "a rate such as 50Mi/s";
const STEP = "steps such as 12Mi/10s";
const SHARE = "a share such as 50%";
const DURATION = "a duration such as 500ms, 5s, 2m or 1h";

/** An exact rational number: `numerator / denominator`, the denominator positive. */
export interface Exact {
  readonly numerator: bigint;
  readonly denominator: bigint;
}

/** The largest size taken, 2^53 bytes (8Pi): up to it every integer is an exact JS number. */
export const MAX_SIZE: number = 2 ** 53;
/** The longest duration taken, in ms: what a JS timer can hold (24 days 20 hours). */
export const MAX_DURATION_MS: number = 2 ** 31 - 1;

const BINARY = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] as const;
const DECIMAL = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"] as const;
const QUANTITY = /^([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{1,3})|([KMGTPE]i|[numkMGTPE]?))$/;

/** Reads a Kubernetes quantity (`200Mi`, `1G`, `1e3`, `500m`, `1.5Gi`), sign included, without rounding. Throws UnitError. */
export function parseQuantity(text: string): Exact {
  const match = text.length <= 256 ? QUANTITY.exec(text) : null;
  if (match === null) throw new UnitError(SIZE, text, { hint: nearSize(text) });
  const [, sign, digits = "", exponent, suffix = ""] = match;
  const [whole = "", fraction = ""] = digits.split(".");
  const value = BigInt(`${sign === "-" ? "-" : ""}${whole}${fraction}` || "0");
  const power = (exponent === undefined ? decimalPower(suffix) : Number(exponent)) - fraction.length;
  const binary = 1024n ** BigInt(BINARY.findIndex((unit) => unit === suffix) + 1);
  return power < 0
    ? { numerator: value * binary, denominator: 10n ** BigInt(-power) }
    : { numerator: value * binary * 10n ** BigInt(power), denominator: 1n };
}

function decimalPower(suffix: string): number {
  const index = DECIMAL.findIndex((unit) => unit === suffix);
  return index < 0 ? 0 : (index - 3) * 3;
}

/** Reads a size in bytes: a whole number from 0 to 2^53. Throws UnitError. */
export function parseSize(text: string): number {
  const { numerator, denominator } = parseQuantity(text);
  if (numerator < 0n) throw new UnitError(SIZE, text, { reason: "a size cannot be negative" });
  if (numerator % denominator !== 0n) {
    // `500m` for 500 MB is Kubernetes' classic: half a byte.
    const hint = text.endsWith("m") ? `${text.slice(0, -1)}M or ${text.slice(0, -1)}Mi` : undefined;
    throw new UnitError(SIZE, text, {
      reason: `no whole number of bytes${hint === undefined ? "" : ", m is a thousandth"}`,
      hint,
    });
  }
  const bytes = numerator / denominator;
  if (bytes > BigInt(MAX_SIZE)) throw new UnitError(SIZE, text, { reason: "more than 2^53 bytes (8Pi)" });
  return Number(bytes);
}

/** Reads a limit: a size in bytes, or `max` for none. Throws UnitError. */
export function parseLimit(text: string): number | "max" {
  return text === "max" ? "max" : parseSize(text);
}

/** Reads a rate such as `50Mi/s`, in bytes a second, at least 1. Throws UnitError. */
export function parseRate(text: string): number {
  const match = /^(\S+?)\s*\/\s*s$/.exec(text);
  if (match === null) throw new UnitError(RATE, text, { hint: isSize(text) ? `${text}/s` : undefined });
  const rate = parseSize(match[1] ?? "");
  if (rate === 0) throw new UnitError(RATE, text, { reason: "a rate is more than 0" });
  return rate;
}

/** Reads steps such as `12Mi/10s`: so many bytes each so many ms. Throws UnitError. */
export function parseStep(text: string): { size: number; everyMs: number } {
  const match = /^(\S+?)\s*\/\s*(\S+)$/.exec(text);
  if (match === null) throw new UnitError(STEP, text);
  const size = parseSize(match[1] ?? "");
  // `12Mi/s` reads as one second.
  const everyMs = parseDuration(/^[a-z]/.test(match[2] ?? "") ? `1${match[2]}` : (match[2] ?? ""));
  if (size === 0 || everyMs === 0) throw new UnitError(STEP, text, { reason: "a step is more than 0" });
  return { size, everyMs };
}

/** Reads a share such as `50%`, as its number (50), more than 0 and at most 10000. Throws UnitError. */
export function parsePercent(text: string): number {
  const match = /^(\d{1,6}(?:\.\d{1,6})?)\s*%$/.exec(text);
  const percent = Number(match?.[1] ?? Number.NaN);
  if (!(percent > 0 && percent <= 10_000)) throw new UnitError(SHARE, text);
  return percent;
}

const DURATION_MS: Readonly<Record<string, bigint>> = { ms: 1n, s: 1000n, m: 60_000n, h: 3_600_000n };

/** Reads a duration such as `500ms`, `5s`, `2m`, `1h`, `1m30s` or `0`, in whole ms. Throws UnitError. */
export function parseDuration(text: string): number {
  if (text === "0") return 0;
  if (text.length > 64 || !/^(?:\d+(?:\.\d+)?(?:ms|s|m|h))+$/.test(text)) {
    throw new UnitError(DURATION, text, { hint: nearDuration(text) });
  }
  let total = { numerator: 0n, denominator: 1n };
  for (const [, digits = "", unit = ""] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)) {
    const [whole = "", fraction = ""] = digits.split(".");
    const denominator = 10n ** BigInt(fraction.length);
    const numerator = BigInt(whole + fraction) * (DURATION_MS[unit] ?? 0n);
    total = {
      numerator: total.numerator * denominator + numerator * total.denominator,
      denominator: total.denominator * denominator,
    };
  }
  if (total.numerator % total.denominator !== 0n)
    throw new UnitError(DURATION, text, { reason: "no whole number of milliseconds" });
  const ms = total.numerator / total.denominator;
  if (ms > BigInt(MAX_DURATION_MS)) throw new UnitError(DURATION, text, { reason: "longer than 596h" });
  return Number(ms);
}

/** Writes a size with the largest binary suffix that keeps it exact: 209715200 -> "200Mi", 1000 -> "1000". */
export function formatBytes(bytes: number): string {
  let rest = bytes;
  let unit = "";
  for (const next of BINARY) {
    if (rest === 0 || rest % 1024 !== 0) break;
    rest /= 1024;
    unit = next;
  }
  return `${rest}${unit}`;
}

/** Writes a limit: a size, or `max`. */
export function formatLimit(limit: number | "max"): string {
  return limit === "max" ? "max" : formatBytes(limit);
}

/** Writes a duration in ms so that it reads back the same: 90000 -> "1m30s", 0 -> "0". */
export function formatDuration(ms: number): string {
  if (ms === 0) return "0";
  const parts: [number, string][] = [
    [Math.floor(ms / 3_600_000), "h"],
    [Math.floor(ms / 60_000) % 60, "m"],
    [Math.floor(ms / 1000) % 60, "s"],
    [ms % 1000, "ms"],
  ];
  return parts.flatMap(([value, unit]) => (value === 0 ? [] : [`${value}${unit}`])).join("");
}

function isSize(text: string): boolean {
  try {
    parseSize(text);
    return true;
  } catch {
    return false;
  }
}

/** The likely meaning of a size that is not Kubernetes' own spelling: 200MB, 200 MiB, 200mi, 200K. */
function nearSize(text: string): string | undefined {
  const match = /^([+-]?[\d.]{1,20})\s*([kmgtpe]?)(i?)b?$/i.exec(text);
  if (match === null) return undefined;
  const [, digits = "", letter = "", binary = ""] = match;
  const upper = letter.toUpperCase();
  const spellings =
    binary === "" && upper !== ""
      ? [`${digits}${upper}i`, `${digits}${upper === "K" ? "k" : upper}`]
      : [`${digits}${upper}${binary === "" ? "" : "i"}`];
  const good = spellings.filter((spelling) => spelling !== text && isSize(spelling));
  return good.length === 0 ? undefined : good.join(" or ");
}

function nearDuration(text: string): string | undefined {
  const match = /^(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]*)$/i.exec(text);
  if (match === null) return undefined;
  const [, digits = "", word = ""] = match;
  if (word === "") return `${digits}s or ${digits}ms`;
  const unit = /^(ms|milli)/i.test(word)
    ? "ms"
    : /^s/i.test(word)
      ? "s"
      : /^m/i.test(word)
        ? "m"
        : /^h/i.test(word)
          ? "h"
          : /^d/i.test(word)
            ? "d"
            : "";
  if (unit === "d") return Number.isInteger(Number(digits)) ? `${Number(digits) * 24}h` : undefined;
  return unit === "" ? undefined : `${digits}${unit}`;
}

/** A piece of the input fit for a message: short, and nothing that a terminal obeys. */
function show(text: string): string {
  const short = text.length > 40 ? `${text.slice(0, 40)}...` : text;
  if (/^[!-~]+$/.test(short)) return short;
  return JSON.stringify(short).replace(/[^ -~\p{L}\p{N}\p{M}\p{P}\p{S}]/gu, (char) => {
    return `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`;
  });
}
