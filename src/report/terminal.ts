/** For people: what was expected, what came, the kernel's own lines, the verdict. */
import { styleText } from "node:util";
import { printable } from "../kmsg/index.ts";
import type { Plan } from "../plan.ts";
import { formatBytes } from "../units.ts";
import type { Check, Kill, Status, Verdict } from "../verdict.ts";
import type { Output, Reporter, Summary } from "./index.ts";

type Style = Parameters<typeof styleText>[0];

const looks: Record<Status, { mark: string; style: Style }> = {
  passed: { mark: "✓", style: "green" },
  failed: { mark: "✗", style: "red" },
  inconclusive: { mark: "?", style: "yellow" },
  skipped: { mark: "-", style: "gray" },
  errored: { mark: "!", style: "red" },
};

/** Lines of an OOM report that name who was killed, why and by whom. */
const telling =
  /invoked oom-killer|oom-kill:constraint|Killed process \d+|Kill process \d+|no killable processes|oom_reaper: reaped|are going to be killed due to memory\.oom\.group|callbacks suppressed/;

export function terminalReporter(output: Output): Reporter {
  const paint = (style: Style, text: string): string =>
    output.colors ? styleText(style, text, { validateStream: false }) : text;
  const line = (text = ""): void => output.write(`${text}\n`);
  return {
    onScenarioEnd: (verdict) => scenario(verdict, line, paint),
    onRunEnd: (verdicts, summary) => {
      line(summaryLine(summary, paint));
      if (verdicts.length === 0) line("no scenario was run");
    },
    onPlans: (plans) => {
      for (const plan of plans) planText(plan, line, paint);
    },
  };
}

type Paint = (style: Style, text: string) => string;
type Line = (text?: string) => void;

function scenario(verdict: Verdict, line: Line, paint: Paint): void {
  const { status, name, reason } = verdict;
  const { mark, style } = looks[status];
  const where = [
    verdict.machine,
    `cgroup v${verdict.cgroupVersion}`,
    verdict.kernel === null ? null : `kernel ${verdict.kernel}`,
  ]
    .filter((part) => part !== null)
    .join(", ");
  if (status === "skipped") {
    line(`${paint(style, `${mark} ${printable(name)}`)}  skipped: ${printable(reason ?? "")}`);
    line();
    return;
  }
  line(`${paint("bold", printable(name))}  ${paint("gray", `${printable(verdict.file)} (${where})`)}`);
  for (const check of verdict.checks) line(`  ${checkText(check, paint)}`);
  for (const note of verdict.notes) line(`  ${paint("gray", `note: ${printable(note)}`)}`);
  const told = verdict.kernelLog.filter((text) => telling.test(text));
  if (told.length > 0) line();
  for (const text of told) line(`  ${paint("cyan", printable(text))}`);
  if (told.length > 0) line();
  for (const kill of verdict.observed?.kills ?? []) line(`  ${killText(kill)}`);
  const foreign = verdict.observed?.foreignKills.length ?? 0;
  if (foreign > 0) line(`  ${foreign} OOM kill(s) on this machine in the meantime were not ours`);
  const took = verdict.durationMs === null ? "" : ` in ${verdict.durationMs} ms`;
  line(paint(style, `${mark} ${status}${took}${reason === null ? "" : `: ${printable(reason)}`}`));
  line();
}

const value = (of: unknown): string => {
  if (of === null) return "nothing";
  if (Array.isArray(of)) return of.length === 0 ? "none" : of.map(value).join(", ");
  return printable(typeof of === "string" ? of : JSON.stringify(of));
};

function checkText({ name, expected, actual, status, evidence, note }: Check, paint: Paint): string {
  const { mark, style } = looks[status];
  const lines = evidence.length === 0 ? "" : paint("gray", `  [record ${ranges(evidence)}]`);
  const got = value(expected) === value(actual) ? value(actual) : `expected ${value(expected)}, got ${value(actual)}`;
  return `${paint(style, mark)} ${printable(name)}: ${got}${note === undefined ? "" : ` (${printable(note)})`}${lines}`;
}

/** 3, 4, 5, 9 as `3-5, 9`; long lists cut. */
function ranges(lines: readonly number[]): string {
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

function killText(kill: Kill): string {
  const { victim } = kill;
  const who = `${kill.process === null ? "" : `${printable(kill.process)}: `}pid ${victim.pid} (${printable(victim.comm)})`;
  const sizes = [
    victim.anonRss === null ? null : `anon-rss ${formatBytes(victim.anonRss)}`,
    victim.totalVm === null ? null : `total-vm ${formatBytes(victim.totalVm)}`,
  ].filter((part) => part !== null);
  const limit =
    kill.limit === null
      ? kill.oomMemcg === null
        ? ""
        : `, limit of ${printable(kill.oomMemcg)}`
      : `, limit of ${printable(kill.limit)}`;
  const missing = kill.missing.length === 0 ? "" : `; not in the log: ${kill.missing.join(", ")}`;
  return `${kill.kind} OOM kill of ${who}${limit}${sizes.length === 0 ? "" : `, ${sizes.join(", ")}`}; witnesses: ${kill.witnesses.join(", ")}${missing}`;
}

function summaryLine(summary: Summary, paint: Paint): string {
  const parts = (Object.keys(looks) as Status[])
    .filter((status) => summary[status] > 0)
    .map((status) => paint(looks[status].style, `${summary[status]} ${status}`));
  return parts.length === 0 ? "0 scenarios" : parts.join(", ");
}

function planText(plan: Plan, line: Line, paint: Paint): void {
  line(
    `${paint("bold", printable(plan.name))}  ${paint("gray", `${printable(plan.file)} (${plan.machine}, cgroup v${plan.cgroupVersion}, timeout ${plan.timeoutMs} ms)`)}`,
  );
  if (plan.skip !== null) line(`  ${paint("yellow", `skip: ${printable(plan.skip)}`)}`);
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
