/**
 * JUnit's XML, as Jenkins' xunit plugin takes it (its junit-10.xsd), which GitLab and others read too. A scenario is a
 * suite of one test: only suites may have properties. failed is a failure; errored and inconclusive are errors, for
 * neither says that the expectation does not hold.
 */
import { stripVTControlCharacters } from "node:util";
import { eventsOf } from "../record.ts";
import type { Output, Reporter, RunInfo, ScenarioResult, Verdict } from "./index.ts";
import { checkWords, killWords, ranges, sentence, telltaleChecks, telling, whereWords } from "./words.ts";

/** Kernel log in one test's system-out, in characters: Jenkins keeps what it reads in memory. */
const logLimit = 256 * 1024;

interface Suite {
  verdict: Verdict;
  /** The XML from the properties to the suite's end, but for the test's name. */
  properties: string;
  body: string;
  timestamp: string | null;
}

export function junitReporter(output: Output, info: RunInfo): Reporter {
  const suites: Suite[] = [];
  return {
    onScenarioEnd: (result) =>
      void suites.push({
        verdict: { ...result.verdict, kernelLog: [], observed: null },
        properties: properties(result),
        body: outcome(result) + earlierAttempts(result) + systemOut(result.verdict),
        timestamp: eventsOf(result.record, "run")[0]?.startedAt ?? null,
      }),
    onRunEnd() {
      const names = uniqueNames(suites.map(({ verdict }) => verdict));
      const verdicts = suites.map(({ verdict }) => verdict);
      output.write('<?xml version="1.0" encoding="UTF-8"?>\n');
      output.write(`<testsuites name="oomlab"${counts(verdicts, false, info.missing.length)}>\n`);
      for (const message of info.missing)
        output.write(
          `  <testsuite name="oomlab"${counts([], true, 1)}>\n    <testcase name="missing results" classname="oomlab" time="0.000">\n` +
            `      <error type="missing" message="${attribute(message)}"/>\n    </testcase>\n  </testsuite>\n`,
        );
      for (const [at, { verdict, properties, body, timestamp }] of suites.entries()) {
        const name = names[at] ?? verdict.name;
        const began = timestamp === null ? "" : ` timestamp="${attribute(timestamp)}"`;
        output.write(
          `  <testsuite name="${attribute(name)}"${counts([verdict], true)}${began} file="${attribute(verdict.file)}">\n` +
            `${properties}    <testcase name="${attribute(name)}" classname="${attribute(className(verdict))}" time="${seconds(verdict.durationMs)}">\n` +
            `${body}    </testcase>\n  </testsuite>\n`,
        );
      }
      output.write("</testsuites>\n");
    },
  };
}

const seconds = (ms: number | null): string => ((ms ?? 0) / 1000).toFixed(3);

/** `missing`: results that should be there, an error each. */
function counts(verdicts: readonly Verdict[], skipped: boolean, missing = 0): string {
  const count = (...statuses: string[]): number => verdicts.filter(({ status }) => statuses.includes(status)).length;
  const time = verdicts.reduce((sum, { durationMs }) => sum + (durationMs ?? 0), 0);
  return (
    ` tests="${verdicts.length + missing}" failures="${count("failed")}" errors="${count("errored", "inconclusive") + missing}"` +
    `${skipped ? ` skipped="${count("skipped")}"` : ""} time="${seconds(time)}"`
  );
}

/** Jenkins shows the last dot as the end of a package. */
const className = ({ file }: Verdict): string =>
  file === "-"
    ? "stdin"
    : file
        .replace(/\.ya?ml$/i, "")
        .replace(/^(?:\.{0,2}\/)+/, "")
        .replaceAll(".", "_")
        .replaceAll("/", ".");

/** The scenarios' names; where one file's name has several results, what tells them apart is added. */
function uniqueNames(verdicts: readonly Verdict[]): string[] {
  const id = (verdict: Verdict, name: string): string => `${verdict.file}\n${name}`;
  const count = (names: string[]): Map<string, number> => {
    const times = new Map<string, number>();
    for (const [at, verdict] of verdicts.entries()) {
      const key = id(verdict, names[at] ?? "");
      times.set(key, (times.get(key) ?? 0) + 1);
    }
    return times;
  };
  const plain = verdicts.map(({ name }) => name);
  const times = count(plain);
  const placed = verdicts.map((verdict) =>
    (times.get(id(verdict, verdict.name)) ?? 0) > 1 ? `${verdict.name} [${whereWords(verdict)}]` : verdict.name,
  );
  const seen = new Map<string, number>();
  return verdicts.map((verdict, at) => {
    const name = placed[at] ?? verdict.name;
    const nth = (seen.get(id(verdict, name)) ?? 0) + 1;
    seen.set(id(verdict, name), nth);
    return nth === 1 ? name : `${name} #${nth}`;
  });
}

/** The evidence, a property each. */
function properties({ verdict, record }: ScenarioResult): string {
  const all: [string, string][] = [
    ["status", verdict.status],
    ["machine", verdict.machine],
    ["cgroup", `v${verdict.cgroupVersion}`],
    ["kernel", verdict.kernel ?? "unknown"],
  ];
  const name = eventsOf(record, "run")[0]?.record;
  if (name !== undefined) all.push(["record", name]);
  if (verdict.observed) all.push(["oom", verdict.observed.oom]);
  for (const [at, kill] of (verdict.observed?.kills ?? []).entries())
    all.push([`kill.${at + 1}`, `${killWords(kill)} [record ${ranges(kill.evidence)}]`]);
  for (const check of verdict.checks)
    all.push([`check.${check.name}`, `${check.status}: ${checkWords(check)} [record ${ranges(check.evidence)}]`]);
  for (const note of verdict.notes) all.push(["note", note]);
  const lines = all.map(([name, value]) => `      <property name="${attribute(name)}" value="${attribute(value)}"/>\n`);
  return `    <properties>\n${lines.join("")}    </properties>\n`;
}

function outcome({ verdict }: ScenarioResult): string {
  const { status, reason } = verdict;
  if (status === "passed") return "";
  if (status === "skipped") return `      <skipped message="${attribute(reason ?? "")}"/>\n`;
  const element = status === "failed" ? "failure" : "error";
  const type = status === "failed" ? (telltaleChecks(verdict)[0]?.name ?? status) : status;
  return `      <${element} type="${attribute(type)}" message="${attribute(reason ?? status)}">${text(account(verdict))}</${element}>\n`;
}

/** An attempt that did not count: of one that passed in the end it makes a flaky test, else a test run again. */
function earlierAttempts({ verdict, earlier }: ScenarioResult): string {
  return earlier
    .map((attempt) => {
      const element = `${verdict.status === "passed" ? "flaky" : "rerun"}${attempt.status === "failed" ? "Failure" : "Error"}`;
      const type = telltaleChecks(attempt)[0]?.name ?? attempt.status;
      return `      <${element} type="${attribute(type)}" message="${attribute(attempt.reason ?? attempt.status)}">${text(account(attempt))}</${element}>\n`;
    })
    .join("");
}

/** Verdict, checks with evidence, and the kernel's lines that tell why. */
function account(verdict: Verdict): string {
  return [
    sentence(verdict),
    `${verdict.file} (${whereWords(verdict)})`,
    ...verdict.checks.map((check) => `${check.status}: ${checkWords(check)} [record ${ranges(check.evidence)}]`),
    ...(verdict.observed?.kills ?? []).map(killWords),
    ...verdict.notes.map((note) => `note: ${note}`),
    ...verdict.kernelLog.filter((line) => telling.test(line)).slice(0, 40),
    "",
  ].join("\n");
}

function systemOut({ kernelLog }: Verdict): string {
  if (kernelLog.length === 0) return "";
  const all = kernelLog.join("\n");
  const shown = all.length <= logLimit ? all : all.slice(0, all.lastIndexOf("\n", logLimit));
  const left = kernelLog.length - (all === shown ? kernelLog.length : shown.split("\n").length);
  const cut = left === 0 ? "" : `\n... ${left} more lines: \`oomlab report RECORD --reporter dmesg\` prints all`;
  return `      <system-out>${text(`${shown}${cut}\n`)}</system-out>\n`;
}

/* oxlint-disable no-control-regex -- control characters are what this is about */
/** What XML 1.0 does not take, not even escaped (section 2.2, Char), and lone surrogates. */
const noXml =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

/** Text of an element: a terminal's sequences taken away, other forbidden characters replaced by U+FFFD. */
const text = (value: string): string =>
  stripVTControlCharacters(value)
    .replace(noXml, "\ufffd")
    .replace(/[&<>]/g, (char) => entities[char] ?? char)
    .replaceAll("\r", "&#13;");

/** The value of an attribute; what a parser would make a space is escaped. */
const attribute = (value: string): string =>
  text(value)
    .replaceAll('"', "&quot;")
    .replace(/[\t\n]/g, (char) => `&#${char.charCodeAt(0)};`);
