/** Lines of a tracefs instance's `trace_pipe`, read by what the events' own format files say. Pure. */
import type { RunEventBody } from "../record.ts";

export type TraceEvent = Extract<RunEventBody, { type: "trace-signal" | "trace-victim" | "trace-lost" }>;

/** The text behind an event's name -> its fields by name; null where it is not of that form. */
type BodyReader = (body: string) => Map<string, string> | null;

/** The text of the `format` files of signal:signal_generate and oom:mark_victim. */
export interface TraceFormats {
  signal: string;
  victim: string;
}

/** Bytes in the units that a format prints behind a number. */
const kibibyte = 1024;

/**
 * Reads the `print fmt:` of an event's format file, whose fields differ from kernel to kernel: mark_victim has `pid=`
 * alone before 6.8, and the sizes of an OOM report from then on. Both ends are anchored, since a task may be named
 * ` pid=1 grp=0`.
 */
function bodyReader(format: string): BodyReader {
  const printed = /^print fmt: "((?:[^"\\]|\\.)*)"/m.exec(format)?.[1] ?? "";
  const names: string[] = [];
  let pattern = "";
  let at = 0;
  for (const conversion of printed.matchAll(/%(?:l|ll|h|hh|z)?([dusxp])/g)) {
    const words = printed.slice(at, conversion.index);
    names.push(/([\w-]+)[=:]$/.exec(words)?.[1] ?? `field${names.length}`);
    pattern += `${escaped(words)}(${conversion[1] === "s" ? ".*" : "-?[0-9a-fx]+"})`;
    at = conversion.index + conversion[0].length;
  }
  const whole = new RegExp(`^${pattern}${escaped(printed.slice(at))}$`, "s");
  return (body) => {
    const found = names.length === 0 ? null : whole.exec(body);
    return found && new Map(names.map((name, index) => [name, found[index + 1] ?? ""]));
  };
}

const escaped = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`);

/**
 * `            kill-1256    [000] dN.1.  2069.999227: signal_generate: ...`: the task that was running, the CPU, flags
 * (four letters, five from 5.16 on), seconds. A task's name is its own choice, line breaks included.
 */
const head = /^ *(.{1,16})-(\d+) +(?:\([ \d-]+\) +)?\[\d+\] +\S+ +(\d+)\.(\d{6}): (signal_generate|mark_victim): /s;
const lost = /^CPU:\d+ \[LOST (\d+) EVENTS\]$/;

/** Signals that are traced, by number. */
const names: Readonly<Record<string, "SIGKILL" | "SIGTERM">> = { 9: "SIGKILL", 15: "SIGTERM" };

/** Turns pieces of a `trace_pipe` into events. */
export function traceReader(formats: TraceFormats): (text: string) => TraceEvent[] {
  const readSignal = bodyReader(formats.signal);
  const readVictim = bodyReader(formats.victim);
  let rest = "";
  /** Lines that are no event yet: a line break in a task's name parts them. */
  let broken = "";

  const read = (line: string): TraceEvent | null => {
    const overrun = lost.exec(line);
    if (overrun) return { type: "trace-lost", events: Number(overrun[1]) };
    const found = head.exec(line);
    if (!found) return null;
    const [before, comm = "", pid, seconds, micros, event] = found;
    const task = { pid: Number(pid), comm: comm === "<...>" ? null : comm };
    const timeUs = Number(seconds) * 1e6 + Number(micros);
    const fields = (event === "signal_generate" ? readSignal : readVictim)(line.slice(before.length));
    if (fields === null) return null;
    const number = (name: string): number | null => {
      const value = fields.get(name);
      return value === undefined || !/^-?\d+$/.test(value) ? null : Number(value);
    };
    if (event === "signal_generate") {
      const signal = names[fields.get("sig") ?? ""];
      if (signal === undefined) return null;
      return {
        type: "trace-signal",
        timeUs,
        signal,
        code: number("code") ?? 0,
        pid: number("pid") ?? 0,
        comm: fields.get("comm") ?? null,
        toProcess: number("grp") === null ? null : number("grp") === 1,
        result: number("res"),
        sender: { ...task, unit: null },
      };
    }
    const size = (name: string): number | null => {
      const kib = number(name);
      return kib === null ? null : kib * kibibyte;
    };
    return {
      type: "trace-victim",
      timeUs,
      pid: number("pid") ?? 0,
      comm: fields.get("comm") ?? null,
      uid: number("uid"),
      totalVm: size("total-vm"),
      anonRss: size("anon-rss"),
      fileRss: size("file-rss"),
      shmemRss: size("shmem-rss"),
      pgtables: size("pgtables"),
      oomScoreAdj: number("oom_score_adj"),
      by: task,
    };
  };

  return (text) => {
    const events: TraceEvent[] = [];
    const lines = (rest + text).split("\n");
    // A read ends with a whole line, except where the kernel's buffer was full.
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const event = read(broken + line) ?? (broken === "" ? null : read(line));
      if (event) events.push(event);
      broken = event ? "" : `${broken}${line}\n`.slice(-256);
    }
    return events;
  };
}
