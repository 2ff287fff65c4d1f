/**
 * One page that needs nothing else: it opens from disk and under Jenkins' content security policy, has no script, and
 * is complete as HTML where the style sheet is taken away.
 */
import type { Output, Reporter, RunInfo, ScenarioResult, Status, Summary, Verdict } from "./index.ts";
import { clip, escape } from "./html/escape.ts";
import { badge, scenarioSection, shortSection } from "./html/scenario.ts";
import { pageHead } from "./html/style.ts";
import { marks, sentence, severity, summaryWords, timeWords, whereWords } from "./words.ts";

/** Evidence on one page, in characters; beyond it what passed is told without. */
const roomForAll = 16 * 1024 * 1024;
const roomForUnmet = 32 * 1024 * 1024;
/** So few scenarios are all unfolded. */
const fewScenarios = 3;

interface Entry {
  id: string;
  verdict: Pick<Verdict, "name" | "file" | "status" | "durationMs">;
  where: string;
  sentence: string;
}

export function htmlReporter(output: Output, info: RunInfo): Reporter {
  const entries: Entry[] = [];
  const sections: string[] = [];
  let size = 0;
  let began: string | null = null;
  return {
    onScenarioEnd(result) {
      const { verdict, record } = result;
      const id = `s${entries.length + 1}`;
      const [first] = record;
      if (first?.type === "run" && (began === null || first.startedAt < began)) began = first.startedAt;
      const { name, file, status, durationMs } = verdict;
      entries.push({
        id,
        verdict: { name, file, status, durationMs },
        where: whereWords(verdict),
        sentence: sentence(verdict),
      });
      const section = sectionOf(result, id, size, info.scenarios);
      size += section.length;
      sections.push(section);
    },
    onRunEnd(_verdicts, summary) {
      output.write(pageHead(summaryWords(summary)));
      output.write(top(summary, info, entries.length, began));
      output.write(matrix(entries));
      output.write(results(entries));
      for (const section of sections) output.write(section);
      output.write(
        `</main>\n<footer><p>Made by oomlab ${escape(info.version)}. Every check names the lines of the record that it rests on.</p></footer>\n</body>\n</html>\n`,
      );
    },
  };
}

function sectionOf(result: ScenarioResult, id: string, size: number, scenarios: number): string {
  const { status } = result.verdict;
  const unmet = status !== "passed" && status !== "skipped";
  if (size > (unmet ? roomForUnmet : roomForAll)) return shortSection(result, id);
  return scenarioSection(result, id, unmet || scenarios <= fewScenarios);
}

function top(summary: Summary, info: RunInfo, scenarios: number, began: string | null): string {
  const badges = severity
    .filter((status) => summary[status] > 0)
    .map((status) => `<span class="badge ${status}">${marks[status]} ${summary[status]} ${status}</span>`);
  const facts = [
    `${scenarios} ${scenarios === 1 ? "scenario" : "scenarios"}`,
    began === null ? null : `begun ${began.slice(0, 19).replace("T", " ")} UTC`,
    `oomlab ${info.version}`,
  ].filter((fact) => fact !== null);
  return `<header>
<h1>OOM lab report</h1>
<p>${badges.length === 0 ? "No scenario was run." : badges.join(" ")}</p>
<p class="meta">${escape(facts.join(" \u00b7 "))}</p>
${info.notes.map((note) => `<p><strong>Note:</strong> ${escape(note)}</p>\n`).join("")}</header>
<main>
`;
}

/** A grid where scenarios ran on several kernels or cgroup versions: a row each, a column for each of those. */
function matrix(entries: readonly Entry[]): string {
  const rows = new Map<string, Entry[]>();
  for (const entry of entries) {
    const key = `${entry.verdict.file}\n${entry.verdict.name}`;
    rows.set(key, [...(rows.get(key) ?? []), entry]);
  }
  const columns = [...new Set(entries.map(({ where }) => where))].toSorted();
  const several = [...rows.values()].some((row) => new Set(row.map(({ where }) => where)).size > 1);
  if (!several) return "";
  const cell = (row: readonly Entry[], column: string): string => {
    const here = row.filter(({ where }) => where === column);
    return here.length === 0
      ? "<td>not run</td>"
      : `<td>${here.map(({ id, verdict }) => `<a class="badge ${verdict.status}" href="#${id}">${marks[verdict.status]} ${verdict.status}</a>`).join(" ")}</td>`;
  };
  return `<section>
<h2 id="matrix">Kernels and cgroup versions</h2>
<div class="scroll" tabindex="0" role="region" aria-labelledby="matrix">
<table>
<thead><tr><th scope="col">scenario</th>${columns.map((column) => `<th scope="col">${escape(column)}</th>`).join("")}</tr></thead>
<tbody>
${[...rows.values()].map((row) => `<tr><th scope="row">${escape(clip(row[0]?.verdict.name ?? "", 200))}</th>${columns.map((column) => cell(row, column)).join("")}</tr>`).join("\n")}
</tbody>
</table>
</div>
</section>
`;
}

/** Every scenario in a line or two, those that need a reader first. */
function results(entries: readonly Entry[]): string {
  const order = (status: Status): number => severity.indexOf(status);
  const items = entries
    .toSorted((a, b) => order(a.verdict.status) - order(b.verdict.status))
    .map(
      ({ id, verdict, where, sentence }) =>
        `<li>${badge(verdict.status)} <a href="#${id}">${escape(clip(verdict.name, 200))}</a> <span class="where">${escape(where)}${verdict.durationMs === null || verdict.status === "skipped" ? "" : `, ${timeWords(verdict.durationMs)}`}</span><p>${escape(clip(sentence, 500))}</p></li>`,
    );
  return `<nav aria-labelledby="results">
<h2 id="results" tabindex="-1">Results</h2>
<ol class="results">
${items.join("\n")}
</ol>
</nav>
`;
}
