/** What the reports for people say, each in the same words. All text of others is escaped for a terminal by `printable`. */
import { printable } from "../printable.ts";
import { formatBytes } from "../units.ts";
import type { Check, Kill, Status, Summary, Verdict } from "./index.ts";

type Eviction = NonNullable<NonNullable<Verdict["observed"]>["evictions"]>[number];

/** A mark before the word, so that no colour is needed. */
export const marks: Record<Status, string> = {
  passed: "\u2713",
  failed: "\u2717",
  inconclusive: "?",
  skipped: "-",
  errored: "!",
};

/** From what needs a reader most to what needs none. */
export const severity: readonly Status[] = ["failed", "errored", "inconclusive", "skipped", "passed"];

/** Lines of an OOM report that name who was killed, why and by whom. */
export const telling: RegExp =
  /invoked oom-killer|oom-kill:constraint|Killed process \d+|Kill process \d+|no killable processes|oom_reaper: reaped|are going to be killed due to memory\.oom\.group|callbacks suppressed/;

/** An expectation's or an observation's value in words; null: nothing was observed. */
export function valueWords(of: unknown): string {
  if (of === null) return "nothing";
  if (Array.isArray(of)) return of.length === 0 ? "none" : of.map(valueWords).join(", ");
  return printable(typeof of === "string" ? of : JSON.stringify(of));
}

/** `limit: expected nginx, got web (why)`; what came as expected is said once. */
export function checkWords({ name, expected, actual, status, note }: Check): string {
  const sized = typeof actual === "number" && typeof expected === "string" && /\d[KMGTP]i?\b/.test(expected);
  const [wanted, came] = [valueWords(expected), sized ? formatBytes(actual) : valueWords(actual)];
  const got =
    wanted === came ? came : status === "passed" ? `${came} (expected ${wanted})` : `expected ${wanted}, got ${came}`;
  return `${printable(name)}: ${got}${note === undefined ? "" : ` (${printable(note)})`}`;
}

/** Machine, cgroup version and kernel, as far as they are known. */
export function whereWords({ machine, cgroupVersion, kernel }: Verdict): string {
  return `${machine}, cgroup v${cgroupVersion}${kernel === null ? "" : `, kernel ${printable(kernel)}`}`;
}

/** 3, 4, 5, 9 as `3-5, 9`; long lists cut. */
export function ranges(lines: readonly number[]): string {
  const parts: string[] = [];
  const sorted = [...new Set(lines)].toSorted((a, b) => a - b);
  for (let at = 0; at < sorted.length;) {
    let end = at;
    while (sorted[end + 1] === (sorted[end] ?? 0) + 1) end++;
    parts.push(end === at ? String(sorted[at]) : `${sorted[at]}-${sorted[end]}`);
    at = end + 1;
  }
  return parts.length > 6 ? `${parts.slice(0, 6).join(", ")}, ...` : parts.join(", ");
}

/** Whose limit a kill was for: the scenario's name, else the path in the log. */
const limitWords = ({ limit, oomMemcg }: Kill): string | null =>
  limit !== null ? printable(limit) : oomMemcg === null ? null : printable(oomMemcg);

/** Who was killed: the scenario's process, else what the kernel's log calls it. */
export const victimName = ({ process, victim }: Kill): string =>
  process ?? victim.comm ?? (victim.pid === null ? "a process that is not known" : `pid ${victim.pid}`);

/** `pid 17 (stress)`, as far as it is known. */
export const pidWords = ({ pid, comm }: Kill["victim"]): string =>
  [pid === null ? "pid not known" : `pid ${pid}`, ...(comm === null ? [] : [`(${printable(comm)})`])].join(" ");

export function killWords(kill: Kill): string {
  const { victim } = kill;
  const who = `${kill.process === null ? "" : `${printable(kill.process)}: `}${pidWords(victim)}`;
  const sizes = [
    victim.anonRss === null ? null : `anon-rss ${formatBytes(victim.anonRss)}`,
    victim.totalVm === null ? null : `total-vm ${formatBytes(victim.totalVm)}`,
  ].filter((part) => part !== null);
  const limit = limitWords(kill);
  const missing = !kill.witnesses.includes("kmsg")
    ? "; the kernel log was not readable"
    : kill.missing.length === 0
      ? ""
      : `; not in the log: ${kill.missing.join(", ")}`;
  return `${kill.kind} OOM kill of ${who}${limit === null ? "" : `, limit of ${limit}`}${sizes.length === 0 ? "" : `, ${sizes.join(", ")}`}; witnesses: ${kill.witnesses.join(", ")}${missing}`;
}

/** Why processes ended, where that is not told elsewhere: by a kill's own line, or as a note. */
export function causeLines({ observed, notes }: Verdict): string[] {
  return Object.entries(observed?.processes ?? {}).flatMap(([name, { exit, cause }]) => {
    const isTold =
      exit === null ||
      exit.code === 0 ||
      cause.kill !== null ||
      cause.by?.kind === "oomlab" ||
      notes.some((note) => note.startsWith(`${name} ended with status`) || note.startsWith(`${name} was ended by`));
    return isTold && !tellsMore.has(cause.cause) ? [] : [`${cause.cause}: ${printable(cause.sentence)}`];
  });
}

/** Causes that no note tells. */
const tellsMore: ReadonlySet<string> = new Set(["heap-limit", "enomem", "userspace-oom", "signal"]);

/** One eviction: when, by which numbers, and the kubelet's own message. */
export function evictedWords({ pod, message, atMs, available, threshold, rank }: Eviction): string {
  const memory =
    available === null || threshold === null
      ? ""
      : `: ${formatBytes(available)} available, below ${formatBytes(threshold)}`;
  return `the kubelet evicted ${printable(pod)} after ${atMs} ms${memory}${rank === null ? "" : `, place ${rank} in its order`}: "${printable(message.trim())}"`;
}

type ContainerStatus = NonNullable<NonNullable<Verdict["observed"]>["containerStatuses"]>[number];

/** As kubectl's columns tell it, and what it leaves out. */
export function statusWords({ state, reason, exitCode, podReason }: ContainerStatus): string {
  const container = reason === null ? state : `${reason}, exit code ${exitCode}`;
  return podReason === null ? container : `${container}, Pod ${podReason}`;
}

/** The checks that a verdict rests on, those that failed first. */
export function telltaleChecks({ checks, status }: Verdict): Check[] {
  const failed = checks.filter((check) => check.status === "failed");
  const open = checks.filter((check) => check.status === "inconclusive");
  return status === "passed" ? [...checks] : [...failed, ...open];
}

/** The verdict in a sentence. */
export function sentence(verdict: Verdict): string {
  const { status, reason, observed } = verdict;
  const why = printable(reason ?? "no reason was given");
  switch (status) {
    case "passed":
      return `Passed: ${[evictionWords(verdict), observed === null || observed.kills.length === 0 ? withoutKills(verdict) : withKills(observed.kills)].filter((part) => part !== null).join("; ")}.`;
    case "failed":
    case "inconclusive": {
      const more = telltaleChecks(verdict).length - 1;
      const others = more > 0 ? `, and ${more} more ${more === 1 ? "check does" : "checks do"} not hold` : "";
      return `${status === "failed" ? "Failed" : "Inconclusive"}: ${why}${others}.`;
    }
    case "errored":
      return `Errored: ${why}.`;
    case "skipped":
      return `Skipped: ${why}.`;
  }
}

const evictionWords = ({ observed }: Verdict): string | null => {
  const pods = (observed?.evictions ?? []).map(({ pod }) => printable(pod));
  return pods.length === 0 ? null : `the kubelet evicted ${listWords(pods)}`;
};

const withoutKills = ({ checks }: Verdict): string =>
  `no OOM kill happened, as expected${checks.length === 0 ? "" : `; ${checks.length === 1 ? "the one check holds" : `all ${checks.length} checks hold`}`}`;

/** Kills for the same limit, by the same witnesses, are told together. */
function withKills(kills: readonly Kill[]): string {
  const names: Record<string, string> = { kmsg: "the kernel log", counters: "the counters", exit: "the exit status" };
  const groups = new Map<string, string[]>();
  for (const kill of kills) {
    const limit = limitWords(kill);
    const by = listWords(kill.witnesses.map((witness) => names[witness] ?? witness));
    const why = `${limit === null ? `with a ${kill.kind} OOM kill` : `for the limit of ${limit} (${kill.kind})`}, as ${by} ${kill.witnesses.length === 1 ? "says" : "say"}`;
    const who = `${printable(victimName(kill))}${kill.victim.pid === null ? "" : ` (pid ${kill.victim.pid})`}`;
    groups.set(why, [...(groups.get(why) ?? []), who]);
  }
  const told = [...groups].map(([why, who]) => {
    const shown = who.length > 4 ? [...who.slice(0, 3), `${who.length - 3} more`] : who;
    return `the kernel killed ${listWords(shown)} ${why}`;
  });
  return `as expected, ${told.join("; ")}`;
}

/** `a, b and c`. */
const listWords = (items: readonly string[]): string =>
  items.length < 2 ? (items[0] ?? "") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;

/** `1 failed, 3 passed`. */
export const summaryWords = (summary: Summary): string =>
  severity
    .filter((status) => summary[status] > 0)
    .map((status) => `${summary[status]} ${status}`)
    .join(", ") || "0 scenarios";

/** A size for people: 209190912 as `199.5 MiB`. */
export function sizeWords(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${unit === 0 || value >= 100 ? Math.round(value) : Number(value.toFixed(1))} ${units[unit]}`;
}

/** A time for people: 412 as `412 ms`, 41200 as `41.2 s`. */
export const timeWords = (ms: number): string => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
