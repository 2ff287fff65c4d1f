/** What single lines of a record say, in words. */
import { printable } from "../printable.ts";
import type { Counters, EventOf, RunEvent } from "../record.ts";
import type { Check, Kill } from "./index.ts";
import { sizeWords, telling, timeWords } from "./words.ts";

/** A kernel record as dmesg prints it. */
export const kernelLine = ({ timeUs, text }: { timeUs: number | null; text: string }): string =>
  `${timeUs === null ? "" : `[${(timeUs / 1e6).toFixed(6).padStart(12)}] `}${text}`;

/** Counters that tell an OOM kill or a limit that was hit. */
const told = [
  "memory.events.oom_kill",
  "memory.events.local.oom",
  "memory.current",
  "memory.max",
  "memory.swap.current",
];

const isSize = (key: string): boolean => /\.(current|peak|max|high|low|min)$/.test(key) && !/events/.test(key);

const counterWords = (key: string, value: number | "max"): string =>
  `${key} ${value === "max" || !isSize(key) ? value : sizeWords(value)}`;

function countersWords(counters: Counters, key: string | undefined): string {
  const keys = key !== undefined && counters[key] !== undefined ? [key] : told;
  return keys
    .flatMap((name) => {
      const value = counters[name];
      return value === undefined ? [] : [counterWords(name, value)];
    })
    .join(", ");
}

const ended = ({ code, signal }: { code: number | null; signal: string | null }): string =>
  signal === null ? `ended with status ${code}` : `was ended by ${signal}`;

function kubeletWords(event: EventOf<"kubelet">): string {
  switch (event.did) {
    case "start":
      return `the kubelet (1.${event.minor}) started; it evicts at ${event.thresholds.map(({ signal, text }) => `${signal}<${text}`).join(", ")}`;
    case "pass":
      return `the kubelet looked (${event.by}): ${event.signals.map(({ signal, available }) => `${signal} ${sizeWords(available)}`).join(", ")}${event.log === null ? "" : `; ${event.log}`}`;
    case "condition":
      return `the node's MemoryPressure is ${event.status}: ${event.message}`;
    case "threshold-met":
      return "the kubelet's eviction threshold is met";
    case "evict":
      return `the kubelet evicts ${event.eviction.pod}: ${event.eviction.message}`;
    case "killed":
      return `the kubelet ended ${event.pod}${event.timedOut ? ", not all of it in time" : ""}`;
    case "cleaned-up":
      return `the kubelet waited for ${event.pods.join(", ")} to be gone`;
    case "armed":
      return event.problem === null
        ? `the kernel tells the kubelet when usage reaches ${sizeWords(event.usage)}`
        : `the kernel's notification could not be armed: ${event.problem}`;
  }
}

/** One event in words; `key` is the counter that matters. */
export function eventWords(event: RunEvent, key?: string): string {
  switch (event.type) {
    case "kmsg":
      return printable(kernelLine(event));
    case "console":
      return printable(event.text);
    case "counters":
      return printable(
        `counters of ${event.cgroup || "the run's cgroup"} (${event.moment}): ${countersWords(event.counters, key)}`,
      );
    case "process-start":
      return printable(`${event.process} started, pid ${event.pid}`);
    case "process-exit":
      return printable(`${event.process} (pid ${event.pid}) ${ended(event)}`);
    case "worker": {
      const { report } = event;
      const what =
        report.type === "child-end"
          ? `its worker ${report.child} ${ended(report)}`
          : report.type === "error"
            ? `${report.op} failed: ${report.errno ?? report.message ?? "unknown error"}`
            : "touched" in report && typeof report.touched === "number"
              ? `${report.type}, ${sizeWords(report.touched)} touched`
              : report.type;
      return printable(`${event.process} (pid ${report.pid}): ${what}`);
    }
    case "kill":
      return printable(`oomlab sent ${event.signal} to ${event.process ?? event.cgroup ?? "?"} (${event.why})`);
    case "step":
      return printable(
        `step ${event.index + 1} (${event.do}): ${event.status}${event.detail === null ? "" : `, ${event.detail}`}`,
      );
    case "oom-event":
      return printable(`the OOM killer came for ${event.cgroup || "the run's cgroup"} (${event.file})`);
    case "kubelet":
      return printable(kubeletWords(event));
    case "kmsg-lost":
      return printable(`kernel log records were lost${event.reason === undefined ? "" : ` (${event.reason})`}`);
    case "kernel-log":
      return printable(
        event.source === null
          ? `the kernel log was not readable${event.problem === null ? "" : `: ${event.problem}`}`
          : `the kernel log is read from ${event.source === "kmsg" ? "/dev/kmsg" : "systemd's journal"}`,
      );
    case "oom-killers":
      return printable(
        `userspace OOM killers on this machine: ${event.running.map(({ name, pid }) => `${name} (pid ${pid})`).join(", ") || "none"}`,
      );
    case "oom-killer-log":
      return printable(`${event.killer} wrote: ${event.text}`);
    case "journal":
      return printable(`the journal of the userspace OOM killers: ${event.problem ?? "read whole"}`);
    case "oomd-marks":
      return printable(
        `marks of oomd (${event.moment}): ${event.marks.map(({ path, name, count }) => `${name} ${count} on ${path}`).join(", ") || "none"}`,
      );
    case "timeout":
      return `the timeout of ${timeWords(event.ms)} was over`;
    case "panic":
      return printable(event.message);
    case "output":
      return printable(`${event.process} wrote: ${event.text.trim()}`);
    default: {
      const { line: _line, t: _t, type, ...rest } = event;
      return printable(`${type} ${JSON.stringify(rest).slice(0, 300)}`);
    }
  }
}

/** The event that shows a kill: its first record in the kernel's log, without a log the end of the process. */
export const signOf = ({ evidence }: Kill, record: readonly RunEvent[]): RunEvent | undefined =>
  record.find(({ line, type }) => type === "kmsg" && evidence.includes(line)) ??
  record.find(({ line, type }) => type === "process-exit" && evidence.includes(line));

/** The counter that a check is about, if it is about one. */
export function counterOf({ name }: Check, cgroups: readonly string[]): string | undefined {
  const cgroup = cgroups.find((cgroup) => name.startsWith(`counters.${cgroup}.`));
  return cgroup === undefined ? undefined : name.slice(`counters.${cgroup}.`.length);
}

/** A line for people; of what a process wrote the end tells most. */
const clip = (text: string): string => (text.length <= 600 ? text : `${text.slice(0, 200)} ... ${text.slice(-395)}`);

/** The lines that a check cites, the most telling first, in words. */
export function evidenceWords(
  check: Check,
  record: readonly RunEvent[],
  cgroups: readonly string[],
  most: number,
): string[] {
  const key = counterOf(check, cgroups);
  const cited = [...new Set(check.evidence)].flatMap((line) => {
    const event = record[line - 1]?.line === line ? record[line - 1] : record.find((event) => event.line === line);
    return event === undefined || event.type === "run" ? [] : [event];
  });
  const weight = (event: RunEvent): number =>
    event.type !== "kmsg"
      ? 1
      : /Killed? process \d+|oom-kill:constraint/.test(event.text)
        ? 0
        : telling.test(event.text)
          ? 2
          : 3;
  return cited
    .toSorted((a, b) => weight(a) - weight(b) || a.line - b.line)
    .slice(0, most)
    .map((event) => `${event.line}: ${clip(eventWords(event, key))}`);
}
