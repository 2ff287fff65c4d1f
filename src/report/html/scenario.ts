/** One scenario of the page: the verdict, and everything that it rests on. */
import { explainKill, findOomKills, type OomKill } from "../../kmsg/index.ts";
import type { Plan, PlannedProcess } from "../../plan.ts";
import { eventsOf, type RunEvent } from "../../record.ts";
import { counterOf, eventWords, kernelLine, signOf } from "../evidence.ts";
import type { Check, Kill, ScenarioResult, Status, Verdict } from "../index.ts";
import {
  causeLines,
  marks,
  pidWords,
  sentence,
  sizeWords,
  statusWords,
  telling,
  telltaleChecks,
  timeWords,
  valueWords,
  victimName,
  whereWords,
} from "../words.ts";
import { clip, escape } from "./escape.ts";
import { timeline } from "./timeline.ts";

/** Bounds of what one scenario shows; what is left out is said. */
export interface Bounds {
  /** Kernel log lines beside those that are evidence. */
  logLines: number;
  kills: number;
  /** Lines of the record that are evidence, links of one check. */
  cited: number;
  links: number;
}

const usualBounds: Bounds = { logLines: 400, kills: 20, cited: 120, links: 10 };

const lineLength = 1000;

export const badge = (status: Status): string => `<span class="badge ${status}">${marks[status]} ${status}</span>`;

/** A scenario's section; `open`: its evidence is unfolded. */
export function scenarioSection(
  result: ScenarioResult,
  id: string,
  open: boolean,
  bounds: Bounds = usualBounds,
): string {
  const { verdict, plan, record, earlier } = result;
  const lines = citedLines(result, id, bounds);
  const { status } = verdict;
  const head = [
    `<section id="${id}" class="scenario ${status}">`,
    `<h2>${badge(status)} ${escape(clip(verdict.name, 300))}</h2>`,
    `<p class="meta">${meta(result)}</p>`,
    `<p class="sentence">${escape(clip(sentence(verdict), 2000))}</p>`,
  ];
  const body =
    status === "skipped"
      ? []
      : [
          `<details${open ? " open" : ""}><summary>Evidence</summary>`,
          ...checksList(verdict, plan, lines, bounds),
          ...killsList(result, lines, bounds),
          ...causesList(verdict),
          ...evictionsList(verdict, lines, bounds),
          ...statusesTable(verdict),
          ...timelineFigure(result, id, lines),
          ...cgroupTree(verdict, plan),
          ...notesList(verdict, earlier),
          ...kernelLog(record, verdict, lines, id, bounds),
          ...recordLines(record, verdict, plan, lines, bounds),
          "</details>",
        ];
  return [...head, ...body, `<p class="back"><a href="#results">Back to the results</a></p>`, "</section>", ""].join(
    "\n",
  );
}

/** What is left of a scenario where the page has no room for its evidence. */
export function shortSection({ verdict, plan, record, earlier }: ScenarioResult, id: string): string {
  const { status } = verdict;
  return [
    `<section id="${id}" class="scenario ${status}">`,
    `<h2>${badge(status)} ${escape(clip(verdict.name, 300))}</h2>`,
    `<p class="meta">${meta({ verdict, plan, record, earlier })}</p>`,
    `<p class="sentence">${escape(clip(sentence(verdict), 2000))}</p>`,
    "<p>The evidence is left out, for this page has grown large; <code>oomlab report</code> with this scenario's record alone shows it.</p>",
    `<p class="back"><a href="#results">Back to the results</a></p>`,
    "</section>",
    "",
  ].join("\n");
}

function meta({ verdict, plan, record, earlier }: ScenarioResult): string {
  const { file, durationMs } = verdict;
  const name = eventsOf(record, "run")[0]?.record;
  return [
    escape(`${file}${plan.line === undefined || file === "-" ? "" : `:${plan.line}`}`),
    escape(whereWords(verdict)),
    durationMs === null ? null : timeWords(durationMs),
    earlier.length === 0 ? null : `attempt ${earlier.length + 1}`,
    name === undefined ? null : `record ${escape(name)}`,
  ]
    .filter((part) => part !== null)
    .join(" \u00b7 ");
}

// evidence -------------------------------------------------------------------------------------------------------------

/** Which lines of the record are evidence, and where on the page each stands. */
interface Cited {
  events: Map<number, RunEvent>;
  /** Null: not on the page. */
  anchor(line: number): string | null;
}

function citedLines({ verdict, record }: ScenarioResult, id: string, { cited }: Bounds): Cited {
  const { checks, observed } = verdict;
  const wanted = new Set([
    ...checks.flatMap(({ evidence }) => evidence),
    ...(observed?.kills ?? []).flatMap(({ evidence }) => evidence),
    ...(observed?.foreignKills ?? []).flatMap(({ evidence }) => evidence),
    ...(observed?.evictions ?? []).flatMap(({ evidence }) => evidence),
  ]);
  const events = new Map<number, RunEvent>();
  let others = 0;
  for (const event of record) {
    if (!wanted.has(event.line) || event.type === "run") continue;
    if (event.type !== "kmsg" && ++others > cited) continue;
    events.set(event.line, event);
  }
  return { events, anchor: (line) => (events.has(line) ? `${id}-line${line}` : null) };
}

/** `kernel log 152, 153; record 156`, each a link. */
function cites(evidence: readonly number[], lines: Cited, links: number): string {
  const all = [...new Set(evidence)].toSorted((a, b) => a - b);
  const kernel = all.filter((line) => lines.events.get(line)?.type === "kmsg");
  const others = all.filter((line) => !kernel.includes(line));
  const link = (line: number): string => {
    const anchor = lines.anchor(line);
    return anchor === null ? String(line) : `<a href="#${anchor}">${line}</a>`;
  };
  const list = (name: string, some: number[]): string | null =>
    some.length === 0
      ? null
      : `${name} ${some.slice(0, links).map(link).join(", ")}${some.length > links ? ` and ${some.length - links} more` : ""}`;
  const parts = [list("kernel log line", kernel), list("record line", others)].filter((part) => part !== null);
  return parts.length === 0 ? "" : `<span class="cites">Evidence: ${parts.join("; ")}</span>`;
}

function checksList(verdict: Verdict, plan: Plan, lines: Cited, { links }: Bounds): string[] {
  const first = telltaleChecks(verdict);
  const all = [...first, ...verdict.checks.filter((check) => !first.includes(check))];
  if (all.length === 0) return [];
  return [
    "<h3>Checks</h3>",
    '<ul class="checks">',
    ...all.map(
      (check) => `<li class="${check.status}">${checkText(check, plan)} ${cites(check.evidence, lines, links)}</li>`,
    ),
    "</ul>",
  ];
}

function checkText(check: Check, plan: Plan): string {
  const { name, expected, actual, status, note } = check;
  const place = plan.expect.where[name] ?? plan.expect.where[name.split(".")[0] ?? ""];
  const sized =
    typeof actual === "number" &&
    counterOf(
      check,
      plan.cgroups.map(({ name }) => name),
    ) !== undefined &&
    actual >= 4096;
  const came = `<code>${escape(clip(valueWords(actual), lineLength))}</code>${sized ? ` (${sizeWords(actual)})` : ""}`;
  const wanted = `<code>${escape(clip(valueWords(expected), lineLength))}</code>`;
  const said =
    valueWords(expected) === valueWords(actual)
      ? `${came}, as expected`
      : status === "passed"
        ? `${came}; expected ${wanted}`
        : `expected ${wanted}, got ${came}`;
  const where = place && plan.file !== "-" ? ` <small>(line ${place.line} of the scenario's file)</small>` : "";
  return `${marks[status]} <strong>${escape(name)}</strong> ${status}: ${said}${note === undefined ? "" : ` (${escape(note)})`}${where}`;
}

// kills ----------------------------------------------------------------------------------------------------------------

function killsList({ verdict, record }: ScenarioResult, lines: Cited, bounds: Bounds): string[] {
  const ours = verdict.observed?.kills ?? [];
  const foreign = verdict.observed?.foreignKills ?? [];
  if (ours.length + foreign.length === 0) return [];
  const told = findOomKills(
    eventsOf(record, "kmsg").map(({ seq, timeUs, facility, level, caller, text, line }) => ({
      seq,
      timeUs,
      facility,
      level,
      caller,
      text,
      line,
    })),
    { details: true },
  ).kills;
  const detailed = (kill: Kill): OomKill | undefined =>
    told.find((one) => one.victim.pid === kill.victim.pid && kill.evidence.includes(one.lines[0] ?? one.line));
  const shown = ours.slice(0, bounds.kills);
  return [
    `<h3>OOM ${ours.length === 1 ? "kill" : "kills"}</h3>`,
    ...shown.flatMap((kill) => oneKill(kill, detailed(kill), lines, bounds)),
    ...(ours.length > shown.length ? [`<p>${ours.length - shown.length} more OOM kills are left out here.</p>`] : []),
    ...(foreign.length === 0
      ? []
      : [
          `<h4>${foreign.length} OOM ${foreign.length === 1 ? "kill" : "kills"} on this machine that ${foreign.length === 1 ? "was" : "were"} not the scenario's</h4>`,
          "<ul>",
          ...foreign
            .slice(0, bounds.kills)
            .map(
              (kill) =>
                `<li>${escape(`${kill.kind}: ${pidWords(kill.victim)}${kill.taskMemcg === null ? "" : ` in ${kill.taskMemcg}`}`)} ${cites(kill.evidence, lines, bounds.links)}</li>`,
            ),
          "</ul>",
        ]),
  ];
}

function oneKill(kill: Kill, detailed: OomKill | undefined, lines: Cited, { links }: Bounds): string[] {
  const { victim } = kill;
  const size = (bytes: number | null): string | null =>
    bytes === null ? null : `${sizeWords(bytes)} (${bytes} bytes)`;
  const invoker = detailed?.details?.invoker;
  const score = detailed?.details?.score;
  const rows: [string, string | null][] = [
    ["kind", kill.constraint === null ? kill.kind : `${kill.kind} (${kill.constraint})`],
    ["trigger", kill.trigger],
    ["limit of", kill.limit],
    ["oom_memcg", kill.oomMemcg],
    ["task_memcg", kill.taskMemcg],
    ["victim", `${pidWords(victim)}${victim.uid === null ? "" : `, uid ${victim.uid}`}`],
    ["anon-rss", size(victim.anonRss)],
    ["file-rss", size(victim.fileRss)],
    ["shmem-rss", size(victim.shmemRss)],
    ["total-vm", size(victim.totalVm)],
    ["page tables", size(victim.pgtables)],
    ["oom_score_adj", victim.oomScoreAdj === null ? null : String(victim.oomScoreAdj)],
    ["score", score?.computed == null ? null : `${Math.round(score.computed)} of 1000`],
    ["invoked by", invoker == null ? null : `${invoker.comm}${invoker.pid === null ? "" : ` (pid ${invoker.pid})`}`],
    ["group kill", kill.group ? "yes (memory.oom.group)" : null],
    ["time", kill.atMs === null ? null : `${timeWords(kill.atMs)} after the first process started`],
    ["witnesses", kill.witnesses.join(", ")],
    [
      "not in the log",
      !kill.witnesses.includes("kmsg")
        ? "all of it: the kernel log was not readable"
        : kill.missing.length === 0
          ? null
          : kill.missing.join(", "),
    ],
  ];
  return [
    `<h4>${escape(`${victimName(kill)}${victim.pid === null ? "" : `, pid ${victim.pid}`}`)}</h4>`,
    ...(detailed === undefined
      ? []
      : ['<ul class="words">', ...explainKill(detailed).map((words) => `<li>${escape(words)}</li>`), "</ul>"]),
    "<dl>",
    ...rows.flatMap(([name, value]) =>
      value === null ? [] : [`<dt>${name}</dt><dd>${escape(clip(value, lineLength))}</dd>`],
    ),
    "</dl>",
    `<p>${cites(kill.evidence, lines, links)}</p>`,
  ];
}

function evictionsList(verdict: Verdict, lines: Cited, { links }: Bounds): string[] {
  const all = verdict.observed?.evictions ?? [];
  if (all.length === 0) return [];
  return [
    `<h3>${all.length === 1 ? "Eviction" : "Evictions"}</h3>`,
    "<ol>",
    ...all.map(({ pod, message, atMs, available, threshold, rank, evidence }) => {
      const facts = [
        timeWords(atMs),
        available === null ? null : `${sizeWords(available)} available`,
        threshold === null ? null : `threshold ${sizeWords(threshold)}`,
        rank === null ? null : `number ${rank} in the order of eviction`,
      ].filter((fact) => fact !== null);
      return `<li><strong>${escape(pod)}</strong>: ${escape(clip(message, lineLength))} <small>(${facts.join(", ")})</small> ${cites(evidence, lines, links)}</li>`;
    }),
    "</ol>",
  ];
}

/** What kubectl would show, next to what really became of it. */
function statusesTable(verdict: Verdict): string[] {
  const all = verdict.observed?.containerStatuses ?? [];
  if (all.length === 0) return [];
  return [
    "<h3>Containers, as kubectl shows them</h3>",
    '<div class="scroll" tabindex="0" role="region" aria-label="Containers, as kubectl shows them"><table><thead><tr><th scope="col">Container</th><th scope="col">kubectl</th><th scope="col">Really</th></tr></thead><tbody>',
    ...all.map(
      (status) =>
        `<tr><th scope="row">${escape(clip(status.name, 300))}</th><td>${escape(statusWords(status))}</td><td>${status.misleading ? "<strong>" : ""}${escape(clip(status.really, lineLength))}${status.misleading ? "</strong>" : ""}</td></tr>`,
    ),
    "</tbody></table></div>",
  ];
}

// timeline -------------------------------------------------------------------------------------------------------------

const eventsShown = 40;
const kubeletTold: ReadonlySet<string> = new Set(["start", "condition", "evict", "killed"]);

function timelineFigure({ verdict, plan, record }: ScenarioResult, id: string, lines: Cited): string[] {
  const drawn = timeline(record, plan, verdict, id);
  const list = happenings(record, verdict, lines);
  if (drawn === null && list.length === 0) return [];
  return [
    "<h3>Timeline</h3>",
    ...(drawn === null ? [] : [`<figure>${drawn.svg}<figcaption>${escape(drawn.caption)}</figcaption></figure>`]),
    ...list,
  ];
}

/** What happened when, in a list: all of the plot's events are in it. */
function happenings(record: readonly RunEvent[], verdict: Verdict, lines: Cited): string[] {
  const kills = new Map<number, Kill>();
  for (const kill of verdict.observed?.kills ?? []) {
    const first = signOf(kill, record);
    if (first) kills.set(first.line, kill);
  }
  const start = eventsOf(record, "process-start")[0]?.t ?? 0;
  const told = new Set([
    "process-start",
    "process-exit",
    "step",
    "timeout",
    "panic",
    "oom-event",
    "kmsg-lost",
    "interrupted",
  ]);
  const events = record.filter(
    (event) =>
      kills.has(event.line) ||
      told.has(event.type) ||
      (event.type === "kubelet" && kubeletTold.has(event.did)) ||
      (event.type === "kill" && event.why !== "cleanup"),
  );
  if (events.length === 0) return [];
  const items = events.slice(0, eventsShown).map((event) => {
    const kill = kills.get(event.line);
    const words = kill
      ? `<strong>OOM kill of ${escape(victimName(kill))}</strong>${kill.limit === null ? "" : ` for the limit of ${escape(kill.limit)}`}`
      : escape(clip(eventWords(event), lineLength));
    const anchor = lines.anchor(event.line);
    const ms = (event.t - start) / 1000;
    return `<li><time>${ms < 0 ? "before" : escape(timeWords(ms))}</time> <span>${words}${anchor === null ? "" : ` <a href="#${anchor}">line ${event.line}</a>`}</span></li>`;
  });
  const left = events.length - items.length;
  return ['<ol class="events">', ...items, ...(left > 0 ? [`<li>and ${left} more events</li>`] : []), "</ol>"];
}

// cgroups --------------------------------------------------------------------------------------------------------------

function cgroupTree(verdict: Verdict, plan: Plan): string[] {
  const names = plan.cgroups.map(({ name }) => name);
  const free = plan.processes.filter(({ cgroup }) => cgroup === null);
  if (names.length === 0 && free.length === 0) return [];
  const parent = (name: string): string => (name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : "");
  const branch = (name: string): string[] => {
    const below = names.filter((child) => child !== name && parent(child) === name);
    const inside = plan.processes.filter(({ cgroup }) => cgroup === name);
    return [
      `<li>${cgroupText(name, verdict, plan)}`,
      ...(below.length + inside.length === 0
        ? []
        : ["<ul>", ...inside.map((process) => processItem(process, verdict)), ...below.flatMap(branch), "</ul>"]),
      "</li>",
    ];
  };
  return [
    "<h3>Cgroups and processes</h3>",
    `<p class="meta">below ${escape(plan.top.path)}</p>`,
    '<ul class="tree">',
    ...names.filter((name) => parent(name) === "" || !names.includes(parent(name))).flatMap(branch),
    ...free.map((process) => processItem(process, verdict)),
    "</ul>",
  ];
}

function cgroupText(name: string, verdict: Verdict, plan: Plan): string {
  const planned = plan.cgroups.find((cgroup) => cgroup.name === name);
  const seen = verdict.observed?.cgroups[name];
  const events = seen?.["memory.events"];
  const counted = (key: string): number | null => {
    const value = typeof events === "object" && events !== null ? (events as Record<string, unknown>)[key] : null;
    return typeof value === "number" ? value : null;
  };
  const peak = seen?.["memory.peak"];
  const facts = [
    ...(planned?.writes ?? []).map(
      ({ file, value, why }) =>
        `<code>${escape(`${file} = ${value}`)}</code>${why.startsWith(`${file}: ${value}`) ? "" : ` <small>(${escape(why)})</small>`}`,
    ),
    typeof peak === "number" ? `peak ${sizeWords(peak)}` : null,
    counted("oom_kill") === null ? null : `oom_kill ${counted("oom_kill")}`,
    counted("max") ? `at its limit ${counted("max")} times` : null,
  ].filter((fact) => fact !== null);
  const hit = (verdict.observed?.kills ?? []).some(({ limit }) => limit === name);
  return `<strong>${escape(name)}</strong>${hit ? " <em>its limit was hit</em>" : ""}${facts.length === 0 ? "" : `: ${facts.join(", ")}`}`;
}

function processItem({ name, program, argv, oomScoreAdj }: PlannedProcess, verdict: Verdict): string {
  const seen = verdict.observed?.processes[name];
  const killed = (verdict.observed?.kills ?? []).some(({ process }) => process === name);
  const exit = seen?.exit;
  const facts = [
    `${program} ${clip(argv.join(" "), 200)}`,
    oomScoreAdj === null ? null : `oom_score_adj ${oomScoreAdj}`,
    exit == null ? null : exit.signal === null ? `ended with status ${exit.code}` : `ended by ${exit.signal}`,
    seen?.maxRss == null ? null : `largest RSS ${sizeWords(seen.maxRss)}`,
  ].filter((fact) => fact !== null);
  return `<li>process <strong>${escape(name)}</strong>${killed ? " <em>OOM killed</em>" : ""}: ${escape(facts.join(", "))}</li>`;
}

// log and record -------------------------------------------------------------------------------------------------------

function causesList(verdict: Verdict): string[] {
  const lines = causeLines(verdict).slice(0, 50);
  if (lines.length === 0) return [];
  return ["<h3>Causes</h3>", "<ul>", ...lines.map((words) => `<li>${escape(clip(words, lineLength))}</li>`), "</ul>"];
}

function notesList({ notes }: Verdict, earlier: readonly Verdict[]): string[] {
  const all = [
    ...notes,
    ...earlier.map(({ status, reason }, at) => `attempt ${at + 1}: ${status}${reason === null ? "" : `: ${reason}`}`),
  ];
  if (all.length === 0) return [];
  return [
    "<h3>Notes</h3>",
    "<ul>",
    ...all.slice(0, 50).map((note) => `<li>${escape(clip(note, lineLength))}</li>`),
    "</ul>",
  ];
}

/** The kernel's records: those that are evidence and their neighbours first of all, where there are too many. */
function kernelLog(
  record: readonly RunEvent[],
  verdict: Verdict,
  lines: Cited,
  id: string,
  { logLines }: Bounds,
): string[] {
  const own = new Set(verdict.kernelLog);
  const all = eventsOf(record, "kmsg").filter(
    (event) => lines.events.has(event.line) || (event.facility === 0 && own.has(kernelLine(event))),
  );
  if (all.length === 0) return [];
  const keep = new Set<number>();
  if (all.length > logLines) {
    for (const [at, { line, text }] of all.entries())
      if (lines.events.has(line) || telling.test(text)) for (let near = at - 2; near <= at + 2; near++) keep.add(near);
    for (let at = 0; keep.size < logLines && at < all.length; at++) keep.add(at);
  }
  const text: string[] = [];
  let left = 0;
  const gap = (): void => {
    if (left > 0) text.push(`... ${left} lines left out: oomlab report RECORD --reporter dmesg prints all\n`);
    left = 0;
  };
  for (const [at, event] of all.entries()) {
    if (keep.size > 0 && !keep.has(at)) {
      left++;
      continue;
    }
    gap();
    const line = escape(clip(kernelLine(event), lineLength));
    const anchor = lines.anchor(event.line);
    text.push(anchor === null ? `${line}\n` : `<mark id="${anchor}">${line}</mark>\n`);
  }
  gap();
  return [
    `<h3 id="${id}-log">Kernel log</h3>`,
    `<pre tabindex="0" role="group" aria-labelledby="${id}-log">${text.join("")}</pre>`,
  ];
}

/** Lines of the record that are evidence and no kernel record. */
function recordLines(
  record: readonly RunEvent[],
  verdict: Verdict,
  plan: Plan,
  lines: Cited,
  { cited }: Bounds,
): string[] {
  const events = [...lines.events.values()].filter(({ type }) => type !== "kmsg");
  if (events.length === 0) return [];
  const cgroups = plan.cgroups.map(({ name }) => name);
  const keys = new Map<number, string>();
  for (const check of verdict.checks) {
    const key = counterOf(check, cgroups);
    if (key !== undefined) for (const line of check.evidence) keys.set(line, key);
  }
  const start = eventsOf(record, "process-start")[0]?.t ?? 0;
  const wanted = new Set(verdict.checks.flatMap(({ evidence }) => evidence)).size;
  return [
    "<h3>Lines of the record that are evidence</h3>",
    '<ul class="lines">',
    ...events.map((event) => {
      const ms = (event.t - start) / 1000;
      const words = escape(clip(eventWords(event, keys.get(event.line)), lineLength));
      return `<li id="${lines.anchor(event.line) ?? ""}"><code>${event.line}</code> ${words}${ms > 0 ? ` <small>${timeWords(ms)}</small>` : ""}</li>`;
    }),
    ...(events.length >= cited && wanted > cited ? ["<li>and more, in the record</li>"] : []),
    "</ul>",
  ];
}
