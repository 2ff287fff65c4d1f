/**
 * The kubelet's eviction thresholds, read from its own four maps with its own words (kubernetes
 * pkg/kubelet/eviction/helpers.go ParseThresholdConfig, api/types.go GetThresholdQuantity).
 */
import { formatQuantity, parseQuantity, quantityOfBytes, quantityValue } from "./quantity.ts";

/** The two signals that memory has; the others are known, checked and left alone. */
export type MemorySignal = "memory.available" | "allocatableMemory.available";

/** A quantity (whole bytes, rounded up, and its canonical text), or a share of the signal's capacity. */
export type ThresholdValue = { bytes: number; text: string } | { fraction: number; text: string };

/** Met while available < value. Without a grace period it is a hard one. */
export interface Threshold {
  signal: MemorySignal;
  value: ThresholdValue;
  gracePeriodMs: number;
  minReclaim: ThresholdValue | null;
}

/** The maps of a KubeletConfiguration that concern eviction, values as written; undefined: not given. */
export interface EvictionSettings {
  evictionHard?: Readonly<Record<string, string>> | undefined;
  evictionSoft?: Readonly<Record<string, string>> | undefined;
  evictionSoftGracePeriod?: Readonly<Record<string, string>> | undefined;
  evictionMinimumReclaim?: Readonly<Record<string, string>> | undefined;
  enforceNodeAllocatable?: readonly string[] | undefined;
  /** Kubelet 1.33 and newer: what evictionHard does not name keeps its default. */
  mergeDefaultEvictionSettings?: boolean | undefined;
}

/** Why a kubelet would not start: its own text, and where it stands. */
export interface ThresholdProblem {
  field: "evictionHard" | "evictionSoft" | "evictionSoftGracePeriod" | "evictionMinimumReclaim";
  signal: string;
  message: string;
}

export interface ParsedThresholds {
  /** Hard ones, soft ones, then the copies for what Pods may take together: the kubelet's own order. */
  thresholds: Threshold[];
  /** Signals with a threshold that have nothing to do with memory. */
  ignored: string[];
  problems: ThresholdProblem[];
}

/** pkg/kubelet/eviction/defaults_linux.go; only what is about memory decides anything here. */
const defaultEvictionHard: Readonly<Record<string, string>> = {
  "memory.available": "100Mi",
  "nodefs.available": "10%",
  "nodefs.inodesFree": "5%",
  "imagefs.available": "15%",
};

const signals = new Set([
  "memory.available",
  "allocatableMemory.available",
  "nodefs.available",
  "nodefs.inodesFree",
  "imagefs.available",
  "imagefs.inodesFree",
  "pid.available",
]);
/** Since 1.29 (KubeletSeparateDiskGC). */
const containerFsSignals = new Set(["containerfs.available", "containerfs.inodesFree"]);

const isMemory = (signal: string): signal is MemorySignal =>
  signal === "memory.available" || signal === "allocatableMemory.available";

/** The quantity of a threshold in bytes. The fraction is a float32; the product is truncated. */
export function thresholdBytes(value: ThresholdValue, capacity: number): number {
  return "bytes" in value ? value.bytes : Math.trunc(capacity * value.fraction);
}

/** What the kubelet's messages print of it. */
export function thresholdText(value: ThresholdValue, capacity: number): string {
  return "bytes" in value ? value.text : formatQuantity(quantityOfBytes(thresholdBytes(value, capacity)));
}

/**
 * Reads the settings as a kubelet of version 1.`minor` does. Nothing is thrown: what would keep the kubelet from
 * starting is in `problems`, the first of which is what it would say.
 */
export function parseThresholds(settings: EvictionSettings, minor: number): ParsedThresholds {
  const problems: ThresholdProblem[] = [];
  const ignored = new Set<string>();
  const known = (signal: string): boolean => signals.has(signal) || (minor >= 29 && containerFsSignals.has(signal));

  const each = <T>(
    field: ThresholdProblem["field"],
    map: Readonly<Record<string, string>> | undefined,
    read: (signal: string, text: string) => T | null,
  ): Map<string, T> => {
    const found = new Map<string, T>();
    for (const [signal, text] of Object.entries(map ?? {})) {
      try {
        if (!known(signal)) throw new Error(`unsupported eviction signal ${signal}`);
        const value = read(signal, text);
        if (value !== null) found.set(signal, value);
      } catch (error) {
        problems.push({ field, signal, message: (error as Error).message });
      }
    }
    return found;
  };

  const hard = each("evictionHard", hardSettings(settings, minor), readStatement);
  const soft = each("evictionSoft", settings.evictionSoft, readStatement);
  const graces = each("evictionSoftGracePeriod", settings.evictionSoftGracePeriod, readGrace);
  const reclaims = each("evictionMinimumReclaim", settings.evictionMinimumReclaim, readReclaim);
  for (const signal of soft.keys())
    if (!graces.has(signal) && problems.every((problem) => problem.signal !== signal))
      problems.push({
        field: "evictionSoft",
        signal,
        message: `grace period must be specified for the soft eviction threshold ${signal}`,
      });
  const all = [...hard, ...soft].flatMap(([signal, value], index): Threshold[] => {
    if (!isMemory(signal)) {
      ignored.add(signal);
      return [];
    }
    const gracePeriodMs = index < hard.size ? 0 : (graces.get(signal) ?? 0);
    return [{ signal, value, gracePeriodMs, minReclaim: reclaims.get(signal) ?? null }];
  });
  // addAllocatableThresholds: a soft one without grace counts as hard here too.
  const copies = (settings.enforceNodeAllocatable ?? ["pods"]).includes("pods")
    ? all
        .filter(({ signal, gracePeriodMs }) => signal === "memory.available" && gracePeriodMs === 0)
        .map((threshold): Threshold => ({ ...threshold, signal: "allocatableMemory.available" }))
    : [];
  return { thresholds: problems.length > 0 ? [] : [...all, ...copies], ignored: [...ignored], problems };
}

/** Setting any hard threshold drops the defaults of all others, unless a kubelet from 1.33 on is told to merge them. */
function hardSettings(
  { evictionHard, mergeDefaultEvictionSettings }: EvictionSettings,
  minor: number,
): Readonly<Record<string, string>> {
  if (evictionHard === undefined) return defaultEvictionHard;
  return mergeDefaultEvictionSettings === true && minor >= 33
    ? { ...defaultEvictionHard, ...evictionHard }
    : evictionHard;
}

function readStatement(signal: string, text: string): ThresholdValue | null {
  if (text.endsWith("%")) {
    if (text === "0%" || text === "100%") return null;
    const fraction = readPercentage(text);
    if (fraction < 0) throw new Error(`eviction percentage threshold ${signal} must be >= 0%: ${text}`);
    if (fraction > 1) throw new Error(`eviction percentage threshold ${signal} must be <= 100%: ${text}`);
    return { fraction, text };
  }
  const value = readBytes(text);
  if (value.sign <= 0) throw new Error(`eviction threshold ${signal} must be positive: ${value.text}`);
  return { bytes: value.bytes, text: value.text };
}

function readReclaim(signal: string, text: string): ThresholdValue {
  if (text.endsWith("%")) {
    const fraction = readPercentage(text);
    if (fraction <= 0) throw new Error(`eviction percentage minimum reclaim ${signal} must be positive: ${text}`);
    return { fraction, text };
  }
  const value = readBytes(text);
  if (value.sign < 0) throw new Error(`negative eviction minimum reclaim specified for ${signal}`);
  return { bytes: value.bytes, text: value.text };
}

function readBytes(text: string): { bytes: number; text: string; sign: number } {
  const quantity = parseQuantity(text);
  const bytes = Number(quantityValue(quantity));
  return { bytes, text: formatQuantity(quantity), sign: Math.sign(bytes) };
}

/** strconv.ParseFloat of what stands before the per cent signs, as a float32, divided by 100 as one. */
function readPercentage(text: string): number {
  const number = text.replace(/%+$/, "");
  if (!/^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$/.test(number))
    throw new Error(`strconv.ParseFloat: parsing ${JSON.stringify(number)}: invalid syntax`);
  const value = Math.fround(Number(number));
  if (!Number.isFinite(value))
    throw new Error(`strconv.ParseFloat: parsing ${JSON.stringify(number)}: value out of range`);
  return Math.fround(value / 100);
}

function readGrace(_signal: string, text: string): number {
  const ms = parseGoDuration(text);
  if (ms < 0) throw new Error(`invalid eviction grace period specified: ${text}, must be a positive value`);
  return ms;
}

const unitMs: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1e3,
  m: 60e3,
  h: 3600e3,
};

/** Reads a duration as Go's time.ParseDuration does (`1m30s`, `1.5h`, `0`), in ms. Throws Error with Go's own text. */
export function parseGoDuration(text: string): number {
  const invalid = (): Error => new Error(`time: invalid duration ${JSON.stringify(text)}`);
  const sign = text.startsWith("-") ? -1 : 1;
  let rest = text.replace(/^[+-]/, "");
  if (rest === "0") return 0;
  if (rest === "") throw invalid();
  let ms = 0;
  while (rest !== "") {
    const number = /^(?:\d+(?:\.\d*)?|\.\d+)/.exec(rest)?.[0];
    if (number === undefined) throw invalid();
    rest = rest.slice(number.length);
    const unit = /^[^\d.]*/.exec(rest)?.[0] ?? "";
    if (unit === "") throw new Error(`time: missing unit in duration ${JSON.stringify(text)}`);
    const factor = unitMs[unit];
    if (factor === undefined)
      throw new Error(`time: unknown unit ${JSON.stringify(unit)} in duration ${JSON.stringify(text)}`);
    ms += Number(number) * factor;
    rest = rest.slice(unit.length);
  }
  return sign * ms;
}
