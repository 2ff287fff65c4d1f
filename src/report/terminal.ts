/** For people at a terminal: what was expected, what came, the kernel's own lines, the verdict; at the end what did not pass, and why. */
import { stripVTControlCharacters, styleText } from "node:util";
import { printable } from "../printable.ts";
import type { Plan } from "../plan.ts";
import { evidenceWords } from "./evidence.ts";
import type { Check, Output, Reporter, RunInfo, ScenarioResult, Status, Summary, Verdict } from "./index.ts";
import { liveView } from "./live.ts";
import {
  causeLines,
  checkWords,
  evictedWords,
  statusWords,
  killWords,
  marks,
  ranges,
  severity,
  telling,
  telltaleChecks,
  whereWords,
} from "./words.ts";

type Style = Parameters<typeof styleText>[0];

const styles: Record<Status, Style> = {
  passed: "green",
  failed: "red",
  inconclusive: "yellow",
  skipped: "gray",
  errored: "red",
};

/** Where nobody says how large a screen is: lines are not wrapped there. */
const usualSize = { rows: 40, columns: Number.POSITIVE_INFINITY };
const drawEveryMs = 100;

export function terminalReporter(output: Output, info: RunInfo): Reporter {
  const paint: Paint = (style, text) => (output.colors ? styleText(style, text, { validateStream: false }) : text);
  const line: Line = (text = "") => output.write(`${text}\n`);
  const view = liveView(() => performance.now());
  const unmet: Unmet[] = [];
  let ended = 0;
  let timer: NodeJS.Timeout | undefined;
  const draw = (): void => {
    const columns = output.size?.columns ?? 80;
    const lines = view.lines(columns).slice(0, Math.max(1, (output.size?.rows ?? 24) - 3));
    output.live?.(
      lines.length === 0 || info.scenarios < 2
        ? lines
        : [...lines, `${ended} of ${info.scenarios} scenarios have ended`],
    );
  };
  const live: Reporter =
    output.live === undefined
      ? {}
      : {
          onScenarioStart(plan) {
            if (plan.skip !== null) return;
            view.start(plan);
            timer ??= setInterval(draw, drawEveryMs).unref();
          },
          onEvent: (plan, event) => view.event(plan, event),
          onAttemptEnd(plan) {
            view.end(plan);
            draw();
          },
        };
  return {
    ...live,
    onScenarioEnd(result) {
      ended++;
      scenario(result, line, paint);
      const { status } = result.verdict;
      if (status !== "passed" && status !== "skipped") unmet.push(unmetOf(result));
    },
    onRunEnd(verdicts, summary) {
      clearInterval(timer);
      output.live?.([]);
      if (verdicts.length > 1) for (const text of account(unmet, output.size ?? usualSize, paint)) line(text);
      for (const note of info.notes) line(paint("yellow", `note: ${printable(note)}`));
      line(summaryLine(summary, paint));
      if (verdicts.length === 0) line("no scenario was run");
    },
    onPlans(plans) {
      const lines: string[] = [];
      for (const plan of plans) planText(plan, (text = "") => lines.push(text), paint);
      if (lines.length > 0) line(lines.join("\n"));
    },
  };
}

type Paint = (style: Style, text: string) => string;
type Line = (text?: string) => void;

function scenario({ verdict, plan }: ScenarioResult, line: Line, paint: Paint): void {
  const { status, name, reason } = verdict;
  const style = styles[status];
  if (status === "skipped") {
    line(`${paint(style, `${marks[status]} ${printable(name)}`)}  skipped: ${printable(reason ?? "")}`);
    line();
    return;
  }
  line(`${paint("bold", printable(name))}  ${paint("gray", `${placeOf(verdict, plan)} (${whereWords(verdict)})`)}`);
  const first = telltaleChecks(verdict);
  for (const check of [...first, ...verdict.checks.filter((check) => !first.includes(check))])
    line(`  ${checkLine(check, paint)}`);
  for (const note of verdict.notes) line(`  ${paint("gray", `note: ${printable(note)}`)}`);
  const told = verdict.kernelLog.filter((text) => telling.test(text));
  if (told.length > 0) line();
  for (const text of told) line(`  ${paint("cyan", printable(text))}`);
  if (told.length > 0) line();
  for (const kill of verdict.observed?.kills ?? []) line(`  ${killWords(kill)}`);
  for (const words of causeLines(verdict)) line(`  ${words}`);
  for (const eviction of verdict.observed?.evictions ?? []) line(`  ${evictedWords(eviction)}`);
  for (const status of verdict.observed?.containerStatuses ?? [])
    if (status.state !== "waiting")
      line(
        `  ${printable(status.name)}: kubectl shows ${statusWords(status)}; ${status.misleading ? paint("yellow", printable(status.really)) : printable(status.really)}`,
      );
  const foreign = verdict.observed?.foreignKills?.length ?? 0;
  if (foreign > 0) line(`  ${foreign} OOM kill(s) on this machine in the meantime were not ours`);
  const took = verdict.durationMs === null ? "" : ` in ${verdict.durationMs} ms`;
  line(paint(style, `${marks[status]} ${status}${took}${reason === null ? "" : `: ${printable(reason)}`}`));
  line();
}

/** A passed scenario is named by its file; another one so that an editor finds its line. */
const placeOf = ({ file, status }: Verdict, { line }: Plan): string =>
  `${printable(file)}${status === "passed" || line === undefined || file === "-" ? "" : `:${line}`}`;

function checkLine(check: Check, paint: Paint): string {
  const lines = check.evidence.length === 0 ? "" : paint("gray", `  [record ${ranges(check.evidence)}]`);
  return `${paint(styles[check.status], marks[check.status])} ${checkWords(check)}${lines}`;
}

/** What the closing account needs of a scenario that did not pass. */
interface Unmet {
  verdict: Verdict;
  place: string;
  checks: { check: Check; evidence: string[] }[];
}

function unmetOf({ verdict, plan, record }: ScenarioResult): Unmet {
  const cgroups = plan.cgroups.map(({ name }) => name);
  const told = new Set<string>();
  const checks = telltaleChecks(verdict)
    .slice(0, 3)
    .map((check) => {
      // What stands above is not said again.
      const evidence = evidenceWords(check, record, cgroups, 2).filter((text) => !told.has(text));
      for (const text of evidence) told.add(text);
      return { check, evidence };
    });
  return { verdict: { ...verdict, kernelLog: [], observed: null }, place: placeOf(verdict, plan), checks };
}

/** What did not pass and why, with the evidence, in one screen: the more there is, the less of each. */
function account(unmet: readonly Unmet[], { rows, columns }: NonNullable<Output["size"]>, paint: Paint): string[] {
  if (unmet.length === 0) return [];
  const most = Math.max(4, rows - 4);
  const height = (lines: readonly string[]): number =>
    lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(stripVTControlCharacters(line).length / columns)), 0);
  const sorted = unmet.toSorted((a, b) => severity.indexOf(a.verdict.status) - severity.indexOf(b.verdict.status));
  const levels: [number, number][] = [
    [3, 2],
    [2, 1],
    [1, 1],
    [1, 0],
    [0, 0],
  ];
  let each: string[][] = [];
  for (const [checks, evidence] of levels) {
    each = sorted.map((one) => unmetLines(one, checks, evidence, paint));
    if (height(each.flat()) <= most) return [...each.flat(), ""];
  }
  const shown: string[][] = [];
  for (const lines of each) {
    if (height([...shown.flat(), ...lines]) >= most) break;
    shown.push(lines);
  }
  return [...shown.flat(), `... and ${each.length - shown.length} more that did not pass, told above`, ""];
}

function unmetLines({ verdict, place, checks }: Unmet, most: number, evidence: number, paint: Paint): string[] {
  const { status, name, reason } = verdict;
  const title = `${paint(styles[status], `${marks[status]} ${status}`)}  ${paint("bold", printable(name))}  ${paint("gray", `${place} (${whereWords(verdict)})`)}`;
  if (most === 0) return [title];
  if (checks.length === 0 || status === "errored") return [title, `    ${printable(reason ?? "")}`];
  return [
    title,
    ...checks
      .slice(0, most)
      .flatMap(({ check, evidence: cited }) => [
        `    ${checkWords(check)}`,
        ...cited.slice(0, evidence).map((text) => `      ${paint("cyan", text)}`),
      ]),
  ];
}

function summaryLine(summary: Summary, paint: Paint): string {
  const parts = severity
    .filter((status) => summary[status] > 0)
    .map((status) => paint(styles[status], `${summary[status]} ${status}`));
  return parts.length === 0 ? "0 scenarios" : parts.join(", ");
}

function planText(plan: Plan, line: Line, paint: Paint): void {
  line(
    `${paint("bold", printable(plan.name))}  ${paint("gray", `${printable(plan.file)} (${plan.machine}, cgroup v${plan.cgroupVersion}, timeout ${plan.timeoutMs} ms)`)}`,
  );
  if (plan.skip !== null) line(`  ${paint("yellow", `skip: ${printable(plan.skip)}`)}`);
  if (plan.pods) podsText(plan.pods, line, paint);
  for (const cgroup of plan.cgroups) {
    line(`  cgroup ${printable(cgroup.name)}  ${paint("gray", printable(cgroup.path))}`);
    for (const write of cgroup.writes)
      line(`    ${write.file} = ${printable(write.value)}  ${paint("gray", `# ${printable(write.why)}`)}`);
  }
  for (const process of plan.processes) {
    line(
      `  process ${printable(process.name)}  ${process.cgroup === null ? "no cgroup" : `in ${printable(process.cgroup)}`}, ${process.program} ${printable(process.argv.join(" "))}${process.oomScoreAdj === null ? "" : `, oom_score_adj ${process.oomScoreAdj}`}`,
    );
  }
  for (const [index, step] of plan.steps.entries()) {
    const { do: action, line: _line, column: _column, ...rest } = step;
    line(`  step ${index + 1}: ${action} ${printable(JSON.stringify(rest))}`);
  }
  line();
}

/** The node, a row for each container, and what of the manifests is not looked at. */
function podsText(laid: NonNullable<Plan["pods"]>, line: Line, paint: Paint): void {
  const { node } = laid;
  line(
    `  node  memory ${node.memTotal}, allocatable ${node.allocatable} (status.allocatable ${node.statusAllocatable}), kubelet ${node.kubeletVersion}, ${node.runtime}`,
  );
  const qos = new Map(laid.pods.map((pod) => [pod.name, pod.qos]));
  const rows = [
    ["container", "kind", "QoS", "oom_score_adj", "from"],
    ...laid.containers.map(({ name, pod, kind, oomScoreAdj, why }) => [
      printable(name),
      kind,
      qos.get(pod) ?? "",
      String(oomScoreAdj),
      printable(why),
    ]),
  ];
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  for (const [index, row] of rows.entries()) {
    const text = row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ");
    line(`  ${index === 0 ? paint("gray", text.trimEnd()) : text.trimEnd()}`);
  }
  for (const { name, size, why, mounts } of laid.volumes)
    line(
      `  tmpfs ${printable(name)}  size ${size ?? "half of RAM"}  ${paint("gray", `# ${printable(why)}${mounts.length === 0 ? "" : `; ${mounts.map(({ container, path }) => `${container}:${path}`).join(", ")}`}`)}`,
    );
  if (laid.turns.length > 0) line(`  pressed in turn: ${laid.turns.map(printable).join(", ")}`);
  for (const note of laid.notes) line(`  ${paint("gray", `note: ${printable(note)}`)}`);
  if (laid.ignored.length > 0) line(`  ${paint("gray", `ignored: ${laid.ignored.map(printable).join(", ")}`)}`);
}
