/**
 * GitHub Actions: annotations on standard output, and a summary of the job in Markdown. The runner shows ten
 * annotations of a kind a step, and takes 1 MiB of summary; what is left out is said.
 */
import { printable } from "../printable.ts";
import type { Plan } from "../plan.ts";
import { evidenceWords } from "./evidence.ts";
import type { Check, Output, Reporter, RunInfo, ScenarioResult, Status, Surroundings, Verdict } from "./index.ts";
import {
  checkWords,
  killWords,
  marks,
  ranges,
  sentence,
  severity,
  summaryWords,
  telltaleChecks,
  telling,
  timeWords,
  whereWords,
} from "./words.ts";

type Level = "error" | "warning" | "notice";

const levels: Record<Exclude<Status, "passed">, Level> = {
  failed: "error",
  errored: "error",
  inconclusive: "warning",
  skipped: "notice",
};

const annotationsOfAKind = 10;
/** Of the 1 MiB that the runner takes, in bytes; other reporters of the step may have written too. */
const summaryBytes = 900 * 1024;
const detailBytes = 60 * 1024;

interface Annotation {
  level: Level;
  file: string;
  line: number;
  column: number;
  title: string;
  message: string;
  /** The scenario's first; the others give way where there are too many. */
  first: boolean;
}

export function githubReporter(output: Output, info: RunInfo, around: Surroundings): Reporter {
  const annotations: Annotation[] = [];
  const rows: { status: Status; row: string }[] = [];
  const details: string[] = [];
  let bytes = 0;
  let left = 0;
  return {
    onScenarioEnd(result) {
      const { verdict, plan } = result;
      annotations.push(...annotate(result, around.fileName(plan.file)));
      if (around.summary === null) return;
      rows.push({ status: verdict.status, row: tableRow(verdict) });
      if (verdict.status === "skipped") return;
      const detail = detailOf(result);
      const size = Buffer.byteLength(detail);
      if (bytes + size > summaryBytes / 2 && verdict.status === "passed") left++;
      else if (bytes + size > summaryBytes - 200 * 1024) left++;
      else {
        bytes += size;
        details.push(detail);
      }
    },
    onRunEnd(_verdicts, summary) {
      for (const message of info.missing) output.write(`::error title=oomlab::${data(printable(message))}\n`);
      for (const level of ["error", "warning", "notice"] as const)
        for (const annotation of chosen(annotations.filter((one) => one.level === level)))
          output.write(command(annotation));
      if (around.summary === null) return;
      const ofStatus = (status: Status): string[] => rows.filter((one) => one.status === status).map(({ row }) => row);
      around.summary.write(
        [
          `## oomlab: ${summaryWords(summary)}`,
          "",
          ...info.notes.map((note) => `> ${markdown(note)}\n`),
          ...table(severity.flatMap(ofStatus)),
          ...details,
          ...(left === 0
            ? []
            : [`The evidence of ${left} more scenarios did not fit: \`--reporter html=FILE\` has it.`]),
          "",
        ].join("\n"),
      );
    },
  };
}

/** One for each check that does not hold, where its expectation stands. */
function annotate({ verdict, plan, record }: ScenarioResult, file: string): Annotation[] {
  const { status, reason } = verdict;
  if (status === "passed") return [];
  const at = {
    level: levels[status],
    file: printable(file),
    title: `${printable(verdict.name)} (${whereWords(verdict)}): ${status}`,
  };
  const whole = { ...at, line: plan.line ?? 1, column: 1, first: true };
  const checks = telltaleChecks(verdict);
  if (status === "skipped" || status === "errored" || checks.length === 0)
    return [{ ...whole, message: printable(reason ?? status) }];
  const cgroups = plan.cgroups.map(({ name }) => name);
  return checks.map((check, index) => ({
    ...whole,
    ...placeOf(check, plan),
    first: index === 0,
    message: [checkWords(check), ...evidenceWords(check, record, cgroups, 3)].join("\n"),
  }));
}

/** Where a check's expectation stands in the scenario's file; what nobody stated stands where the scenario begins. */
function placeOf({ name, expected }: Check, { expect, steps, line }: Plan): { line: number; column: number } {
  const step = /^step (\d+) /.exec(name);
  const pattern = name === "log" ? expect.log.findIndex(({ pattern }) => `/${pattern}/` === expected) : -1;
  const place = step
    ? steps[Number(step[1]) - 1]
    : (expect.where[pattern >= 0 ? `log.${pattern}` : name] ??
      expect.where[name] ??
      expect.where[name.split(".")[0] ?? name]);
  return place ? { line: place.line, column: place.column } : { line: line ?? 1, column: 1 };
}

/** The ten that are shown: each scenario's first before others, and a last one that says how many there are. */
function chosen(all: Annotation[]): Annotation[] {
  if (all.length <= annotationsOfAKind) return all;
  const sorted = [...all.filter(({ first }) => first), ...all.filter(({ first }) => !first)];
  const shown = sorted.slice(0, annotationsOfAKind - 1);
  const [last] = sorted.slice(annotationsOfAKind - 1);
  if (!last) return shown;
  const message = `and ${all.length - shown.length} more: the summary of the job and the other reports have them all`;
  return [...shown, { ...last, title: "oomlab", message }];
}

/** A workflow command; its rules of escaping are actions/toolkit's (packages/core/src/command.ts). */
function command({ level, file, line, column, title, message }: Annotation): string {
  const place = file === "-" ? "" : `file=${property(file)},line=${line},col=${column},`;
  return `::${level} ${place}title=${property(title)}::${data(message)}\n`;
}

/**
 * Standard output of a GitHub job, whose runner takes lines that begin with `::` for commands, whoever named a scenario or
 * a process so: only what goes to `commands` is taken; nobody else may know `token` (docs.github.com, "Stopping and starting workflow commands").
 */
export function guardCommands(stdout: Output, token: string): { text: Output; commands: Output; end(): void } {
  let stopped = false;
  const turn = (stop: boolean): void => {
    if (stopped === stop) return;
    stopped = stop;
    stdout.write(stop ? `::stop-commands::${token}\n` : `::${token}::\n`);
  };
  const through = (stop: boolean): Output =>
    Object.create(stdout, {
      write: {
        value(text: string) {
          turn(stop);
          stdout.write(text);
        },
      },
    }) as Output;
  return { text: through(true), commands: through(false), end: () => turn(false) };
}

const data = (text: string): string => text.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");
const property = (text: string): string => data(text).replaceAll(":", "%3A").replaceAll(",", "%2C");

function table(rows: string[]): string[] {
  if (rows.length === 0) return ["No scenario was run.", ""];
  // A table of thousands of rows would take the whole summary.
  const shown = rows.slice(0, 500);
  return [
    "| | scenario | where | time | |",
    "| --- | --- | --- | ---: | --- |",
    ...shown,
    ...(rows.length > shown.length ? [`| | and ${rows.length - shown.length} more | | | |`] : []),
    "",
  ];
}

const icons: Record<Status, string> = {
  passed: "\u2705",
  failed: "\u274c",
  errored: "\u2757",
  inconclusive: "\u2753",
  skipped: "\u23ed\ufe0f",
};

function tableRow(verdict: Verdict): string {
  const { status, name, durationMs, reason, observed } = verdict;
  const kill = observed?.kills[0];
  const told = status === "passed" ? (kill ? killWords(kill) : "no OOM kill") : (reason ?? "");
  const cells = [
    `${icons[status]} ${status}`,
    markdown(name),
    markdown(whereWords(verdict)),
    durationMs === null ? "" : timeWords(durationMs),
    markdown(clip(told, 300)),
  ];
  return `| ${cells.join(" | ")} |`;
}

/** Open where something did not hold. */
function detailOf({ verdict, plan, record }: ScenarioResult): string {
  const { status } = verdict;
  const cgroups = plan.cgroups.map(({ name }) => name);
  const checks = [...telltaleChecks(verdict), ...verdict.checks].filter((check, at, all) => all.indexOf(check) === at);
  const log = verdict.kernelLog.filter((line) => telling.test(line)).slice(0, 60);
  const lines = [
    `<details${status === "passed" ? "" : " open"}><summary>${marks[status]} ${html(verdict.name)} (${html(whereWords(verdict))}): ${status}</summary>`,
    "",
    markdown(sentence(verdict)),
    "",
    ...checks
      .slice(0, 40)
      .flatMap((check) => [
        `- ${marks[check.status]} ${markdown(clip(checkWords(check), 600))} (record ${ranges(check.evidence) || "-"})`,
        ...(check.status === "passed"
          ? []
          : evidenceWords(check, record, cgroups, 3).map((text) => `  - ${code(clip(text, 300))}`)),
      ]),
    ...verdict.notes.slice(0, 20).map((note) => `- ${markdown(clip(note, 600))}`),
    "",
    ...(log.length === 0 ? [] : fence(log.map((line) => clip(line, 400)).join("\n"))),
    "</details>",
    "",
  ];
  const text = lines.join("\n");
  return Buffer.byteLength(text) <= detailBytes
    ? text
    : `${lines.slice(0, 4).join("\n")}\n\nIts evidence is too long for this summary.\n\n</details>\n`;
}

const clip = (text: string, most: number): string => (text.length <= most ? text : `${text.slice(0, most)}...`);

const html = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

/** Text that Markdown leaves as it is, also in a table: no markup, no mention, no link. */
const markdown = (text: string): string =>
  html(text)
    .replace(/[\\`*_{}[\]()#+\-!|~^$.:]/g, String.raw`\$&`)
    .replaceAll("@", "@<!-- -->")
    .replace(/[\r\n]+/g, " ");

/** Text in a span of code, whatever backticks it holds. */
function code(text: string): string {
  const longest = Math.max(0, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const ticks = "`".repeat(longest + 1);
  return `${ticks} ${text.replace(/[\r\n]+/g, " ")} ${ticks}`;
}

/** A block of code, whatever backticks its lines hold. */
function fence(text: string): string[] {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const ticks = "`".repeat(longest + 1);
  return [`${ticks}text`, text, ticks, ""];
}
