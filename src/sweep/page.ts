/** A sweep as one HTML page: where the outcome flips, how long until the first death, memory.available and the polls. No script. */
import { escape } from "../report/html/escape.ts";
import { pageHead } from "../report/html/style.ts";
import type { Output } from "../report/index.ts";
import { sizeWords } from "../report/words.ts";
import { type Outcome, outcomeWord } from "./outcome.ts";
import {
  outcomeAt,
  type Stretch,
  type SweepInfo,
  type SweepReporter,
  type SweepResult,
  stretchesOf,
  stretchText,
} from "./report.ts";
import { type Axis, valuesAt } from "./vary.ts";

/** A page shows no more points than these. */
const mostPoints = 4000;
const mostMaps = 6;
const mostSeries = 6;
const mostCourses = 8;
const mostStretches = 60;

/** In the SVG's own units: about a phone's width, so that text keeps its size there. */
const width = 420;
const left = 64;
const right = 8;

/** Fills on which white letters are read, each with a letter of its own: colour alone says nothing. */
const looks: Readonly<Record<string, { fill: string; letter: string; about: string }>> = {
  lives: { fill: "#475569", letter: "L", about: "nobody dies" },
  eviction: { fill: "#1d4ed8", letter: "E", about: "the kubelet evicts, no OOM kill" },
  global: { fill: "#b91c1c", letter: "G", about: "the kernel's global OOM killer" },
  memcg: { fill: "#9a3412", letter: "M", about: "an OOM kill for a cgroup's limit" },
  unknown: { fill: "#6b7280", letter: "?", about: "no outcome" },
};
const mixed = { fill: "#7e22ce", letter: "*", about: "several, in this order" };
const lookOf = (word: string): { fill: string; letter: string; about: string } => looks[word] ?? mixed;

const round = (value: number): number => Math.round(value * 10) / 10;

export function htmlReporter(output: Output, axes: readonly Axis[]): SweepReporter {
  const results: SweepResult[] = [];
  const words: string[] = [];
  return {
    onPoint(result) {
      const outcome = outcomeAt(result);
      words.push(outcome === null ? "unknown" : outcomeWord(outcome));
      if (results.length < mostPoints) results.push(result);
    },
    onEnd(info) {
      const stretches = stretchesOf(axes, words);
      output.write(pageHead(`sweep of ${escape(info.scenario)}`));
      output.write(top(info, results, words, stretches));
      if (words.length > results.length)
        output.write(`<p>The first ${results.length} of ${words.length} points are shown.</p>\n`);
      else if (axes.length > 0) {
        output.write(maps(axes, results));
        output.write(deaths(axes, results));
      }
      output.write(courses(axes, results));
      output.write(table(axes, results));
      output.write(
        `</main>\n<footer><p>Made by oomlab. Run: as recorded on a real kernel. Model: docs/sweep.md.</p></footer>\n</body>\n</html>\n`,
      );
    },
  };
}

function top(
  { scenario, file, axes, machine }: SweepInfo,
  results: readonly SweepResult[],
  words: readonly string[],
  stretches: readonly Stretch[],
): string {
  const where =
    machine === null
      ? "the model alone"
      : `${machine.name}, cgroup v${machine.cgroupVersion}${machine.kernel === null ? "" : `, kernel ${machine.kernel}`}`;
  const compared = results.filter(({ measured, model }) => measured?.problem === null && model?.problem === null);
  const agreed = compared.filter(
    ({ measured, model }) => measured && model && outcomeWord(measured) === outcomeWord(model),
  );
  const agreement =
    compared.length === 0
      ? ""
      : `<p>The model says the same as the run at ${agreed.length} of ${compared.length} points.</p>\n`;
  const varied = axes.map(
    ({ name, values }) =>
      `<code>${escape(name)}</code> from ${escape(values[0] ?? "")} to ${escape(values.at(-1) ?? "")}`,
  );
  const problems = new Set(results.flatMap((result) => outcomeAt(result)?.problem ?? []));
  return `<main>
<h1>${escape(scenario)}</h1>
<p class="meta">${escape(file)} &middot; ${escape(where)} &middot; ${words.length} point${words.length === 1 ? "" : "s"}</p>
${varied.length > 0 ? `<p>Varied: ${varied.join("; ")}.</p>\n` : ""}${agreement}${[...problems].map((problem) => `<p>No outcome: ${escape(problem)}</p>\n`).join("")}<h2 id="results">Where the outcome flips</h2>
<ul class="words">
${stretches
  .slice(0, mostStretches)
  .map((stretch) => `<li>${escape(stretchText(stretch))}</li>`)
  .join("\n")}
</ul>
${stretches.length > mostStretches ? `<p>... and ${stretches.length - mostStretches} more.</p>\n` : ""}`;
}

function svg(height: number, title: string, description: string, id: string, body: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="640" height="${Math.round((640 * height) / width)}" viewBox="0 0 ${width} ${round(height)}" role="img" aria-labelledby="${id}-title ${id}-desc" font-family="system-ui, sans-serif" font-size="10" fill="currentColor">`,
    `<title id="${id}-title">${escape(title)}</title>`,
    `<desc id="${id}-desc">${escape(description)}</desc>`,
    ...body,
    "</svg>",
  ].join("\n");
}

const text = (x: number, y: number, words: string, more = ""): string =>
  `<text x="${round(x)}" y="${round(y)}"${more}>${escape(words)}</text>`;

const line = (x1: number, y1: number, x2: number, y2: number, more: string): string =>
  `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" ${more}/>`;

/** Values below an axis, as many as fit. */
function ticks(values: readonly string[], centre: (place: number) => number, y: number): string[] {
  const room = (width - left - right) / Math.max(1, ...values.map((value) => value.length * 5.6 + 6));
  const step = Math.max(1, Math.ceil(values.length / Math.max(1, Math.floor(room))));
  return values.flatMap((value, place) =>
    place % step === 0 ? [text(centre(place), y, value, ' text-anchor="middle"')] : [],
  );
}

/** The results that share the places of all axes but the first `free`. */
function groupsOf(
  axes: readonly Axis[],
  results: readonly SweepResult[],
  free: number,
): { at: string; results: SweepResult[] }[] {
  const groups = new Map<string, SweepResult[]>();
  for (const result of results) {
    const values = Object.entries(valuesAt(axes, result.point)).slice(free);
    const key = values.map(([name, value]) => `${name} ${value}`).join(", ");
    const group = groups.get(key);
    if (group) group.push(result);
    else groups.set(key, [result]);
  }
  return [...groups].map(([at, group]) => ({ at, results: group }));
}

function legend(words: Iterable<string>): string {
  const items = [...new Set(words)].map((word) => {
    const { letter, about } = lookOf(word);
    return `<li><strong>${letter}</strong> ${escape(word)}: ${about}</li>`;
  });
  return `<ul class="words">\n${items.join("\n")}\n</ul>\n`;
}

/** The outcome of each point: a cell, its letter, and the model's letter in the corner where it differs. */
function maps(axes: readonly Axis[], results: readonly SweepResult[]): string {
  const [across, down] = axes;
  if (!across) return "";
  const rows = down?.values ?? [""];
  const cell = (width - left - right) / across.values.length;
  const rowHeight = Math.max(16, Math.min(26, cell));
  const groups = groupsOf(axes, results, 2);
  const drawn = groups.slice(0, mostMaps).map(({ at, results: group }, index) => {
    const height = rows.length * rowHeight + 34;
    const cells = group.flatMap((result) => {
      const [x = 0, y = 0] = result.point.places;
      const outcome = outcomeAt(result);
      const word = outcome === null ? "unknown" : outcomeWord(outcome);
      const { fill, letter } = lookOf(word);
      const other = result.measured !== null && result.model !== null ? outcomeWord(result.model) : word;
      const [cx, cy] = [left + x * cell, (rows.length - 1 - y) * rowHeight];
      return [
        `<rect x="${round(cx)}" y="${round(cy)}" width="${round(cell)}" height="${round(rowHeight)}" fill="${fill}" stroke="#fff" stroke-width="0.5"/>`,
        ...(cell < 7
          ? []
          : [
              text(
                cx + cell / 2,
                cy + rowHeight / 2 + 3.5,
                letter,
                ' text-anchor="middle" fill="#fff" font-weight="600"',
              ),
            ]),
        ...(other === word || cell < 18
          ? []
          : [text(cx + cell - 2, cy + 8, lookOf(other).letter, ' text-anchor="end" fill="#fff" font-size="7"')]),
      ];
    });
    const labels = rows.map((value, row) =>
      text(left - 4, (rows.length - 1 - row) * rowHeight + rowHeight / 2 + 3.5, value, ' text-anchor="end"'),
    );
    const bottom = rows.length * rowHeight;
    const body = [
      ...cells,
      ...labels,
      ...ticks(across.values, (place) => left + (place + 0.5) * cell, bottom + 12),
      text(left, bottom + 28, `${across.name} across${down ? `, ${down.name} up` : ""}`),
    ];
    const description = group
      .map((result) => {
        const outcome = outcomeAt(result);
        return `${Object.values(valuesAt(axes, result.point)).join(", ")}: ${outcome === null ? "unknown" : outcomeWord(outcome)}`;
      })
      .slice(0, 100)
      .join("; ");
    return `<figure>\n${svg(height, `Outcomes${at === "" ? "" : ` at ${at}`}`, description, `map${index}`, body)}\n<figcaption>${at === "" ? "" : `${escape(at)}. `}A small letter in a corner: what the model says where it says otherwise.</figcaption>\n</figure>\n`;
  });
  const words = results
    .map((result) => outcomeAt(result))
    .map((outcome) => (outcome === null ? "unknown" : outcomeWord(outcome)));
  return `<h2>Outcomes</h2>\n${legend(words)}${drawn.join("")}${groups.length > mostMaps ? `<p>... and ${groups.length - mostMaps} more maps.</p>\n` : ""}`;
}

const firstMs = (outcome: Outcome | null): number | null => {
  const ms = outcome?.ends[0]?.atMs;
  return ms !== undefined && Number.isFinite(ms) ? ms : null;
};

/** The time to the first death by the first axis: dots for runs, a line for the model. */
function deaths(axes: readonly Axis[], results: readonly SweepResult[]): string {
  const [across] = axes;
  if (!across) return "";
  const latest = Math.max(
    1000,
    ...results.flatMap(({ measured, model }) => [firstMs(measured) ?? 0, firstMs(model) ?? 0]),
  );
  const plot = 90;
  const step = (width - left - right) / across.values.length;
  const x = (place: number): number => left + (place + 0.5) * step;
  const y = (ms: number): number => 6 + plot - (plot * ms) / latest;
  const groups = groupsOf(axes, results, 1);
  const drawn = groups.slice(0, mostSeries).map(({ at, results: group }, index) => {
    const stretches: string[] = [];
    let path = "";
    for (const { point, model } of group) {
      const ms = firstMs(model);
      if (ms === null) {
        if (path !== "") stretches.push(path);
        path = "";
      } else path += `${path === "" ? "" : " "}${round(x(point.places[0] ?? 0))},${round(y(ms))}`;
    }
    if (path !== "") stretches.push(path);
    const dots = group.flatMap(({ point, measured }) => {
      const ms = firstMs(measured);
      if (ms === null || measured === null) return [];
      const { fill, letter } = lookOf(outcomeWord(measured));
      const [cx, cy] = [x(point.places[0] ?? 0), y(ms)];
      return [
        `<circle cx="${round(cx)}" cy="${round(cy)}" r="6" fill="${fill}" stroke="#fff"/>`,
        text(cx, cy + 3, letter, ' text-anchor="middle" fill="#fff" font-size="8" font-weight="600"'),
      ];
    });
    const body = [
      line(left, 6 + plot, width - right, 6 + plot, 'stroke="currentColor" stroke-opacity="0.4"'),
      text(left - 4, 12, `${Math.round(latest / 1000)} s`, ' text-anchor="end"'),
      text(left - 4, 6 + plot, "0 s", ' text-anchor="end"'),
      ...stretches.map((points) =>
        points.includes(" ")
          ? `<polyline points="${points}" fill="none" stroke="currentColor" stroke-opacity="0.7" stroke-dasharray="4 2"/>`
          : `<rect x="${Number(points.split(",")[0]) - 2}" y="${Number(points.split(",")[1]) - 2}" width="4" height="4" fill="currentColor" fill-opacity="0.7"/>`,
      ),
      ...dots,
      ...ticks(across.values, x, plot + 19),
      text(left, plot + 33, across.name),
    ];
    const description = group
      .map(({ point, measured, model }) => {
        const [run, reckoned] = [firstMs(measured), firstMs(model)];
        return `${across.values[point.places[0] ?? 0] ?? ""}: ${run === null ? "no death" : `${run} ms`}${reckoned === null ? "" : `, model ${reckoned} ms`}`;
      })
      .slice(0, 100)
      .join("; ");
    return `<figure>\n${svg(plot + 38, `Time to the first death${at === "" ? "" : ` at ${at}`}`, description, `death${index}`, body)}\n<figcaption>${at === "" ? "" : `${escape(at)}. `}Dots: runs; the dashed line: the model. A gap: nobody dies.</figcaption>\n</figure>\n`;
  });
  return `<h2>Time to the first death</h2>\n${drawn.join("")}${groups.length > mostSeries ? `<p>... and ${groups.length - mostSeries} more.</p>\n` : ""}`;
}

/** The points that tell most: on both sides of the flips, else the first ones. */
function telling(axes: readonly Axis[], results: readonly SweepResult[]): SweepResult[] {
  const withPolls = results.filter((result) => (outcomeAt(result)?.polls.length ?? 0) > 0);
  const chosen = new Set<SweepResult>();
  for (const { results: group } of groupsOf(axes, withPolls, 1))
    for (const [index, result] of group.entries()) {
      const before = group[index - 1];
      const [here, there] = [outcomeAt(result), before ? outcomeAt(before) : null];
      if (before && here && there && outcomeWord(here) !== outcomeWord(there)) {
        chosen.add(before);
        chosen.add(result);
      }
    }
  for (const result of withPolls) chosen.add(result);
  return [...chosen].slice(0, mostCourses);
}

/** memory.available over time, with the polls marked. */
function courses(axes: readonly Axis[], results: readonly SweepResult[]): string {
  const plot = 80;
  const drawn = telling(axes, results).map((result, index) => {
    const outcome = outcomeAt(result);
    if (outcome === null) return "";
    const lines = [outcome, ...(result.measured !== null && result.model !== null ? [result.model] : [])];
    const last = Math.max(1000, ...lines.flatMap(({ course, polls }) => [...course, ...polls].map(({ atMs }) => atMs)));
    const most = Math.max(
      1,
      ...lines.flatMap(({ course, polls }) => [...course, ...polls].map(({ available }) => available)),
    );
    const x = (ms: number): number => left + ((width - left - right) * Math.max(0, ms)) / last;
    const y = (bytes: number): number => 6 + plot - (plot * bytes) / most;
    const path = ({ course }: Outcome): string =>
      course.map(({ atMs, available }) => `${round(x(atMs))},${round(y(available))}`).join(" ");
    const { threshold, ends, polls } = outcome;
    const body = [
      line(left, 6 + plot, width - right, 6 + plot, 'stroke="currentColor" stroke-opacity="0.4"'),
      text(left - 4, 12, sizeWords(most), ' text-anchor="end"'),
      text(left - 4, 6 + plot, "0", ' text-anchor="end"'),
      ...(threshold === null
        ? []
        : [
            line(left, y(threshold), width - right, y(threshold), 'stroke="#c2410c" stroke-dasharray="2 2"'),
            text(left - 4, y(threshold) + 3, sizeWords(threshold), ' text-anchor="end"'),
          ]),
      `<polyline points="${path(outcome)}" fill="none" stroke="#3b82f6" stroke-width="1.5"/>`,
      ...(lines[1]
        ? [
            `<polyline points="${path(lines[1])}" fill="none" stroke="currentColor" stroke-opacity="0.7" stroke-dasharray="4 2"/>`,
          ]
        : []),
      ...polls.flatMap(({ atMs, available }) => [
        line(x(atMs), 6, x(atMs), 6 + plot, 'stroke="currentColor" stroke-opacity="0.35"'),
        `<circle cx="${round(x(atMs))}" cy="${round(y(available))}" r="2.5" fill="currentColor"/>`,
      ]),
      ...ends.slice(0, 6).flatMap(({ atMs, by }) => {
        const { fill, letter } = lookOf(by);
        return Number.isFinite(atMs)
          ? [
              line(x(atMs), 6, x(atMs), 6 + plot, `stroke="${fill}" stroke-width="1.5"`),
              `<circle cx="${round(x(atMs))}" cy="10" r="6" fill="${fill}" stroke="#fff"/>`,
              text(x(atMs), 13, letter, ' text-anchor="middle" fill="#fff" font-size="8" font-weight="600"'),
            ]
          : [];
      }),
      text(left, plot + 19, "0 s"),
      text(width - right, plot + 19, `${(last / 1000).toFixed(0)} s`, ' text-anchor="end"'),
    ];
    const at = Object.entries(valuesAt(axes, result.point))
      .map(([name, value]) => `${name} ${value}`)
      .join(", ");
    const description = `${polls.map(({ atMs, available }) => `poll at ${atMs} ms: ${sizeWords(available)}`).join("; ")}; ${ends.map(({ by, process, atMs }) => `${by} of ${process} at ${atMs} ms`).join("; ")}`;
    return `<figure>\n${svg(plot + 24, `memory.available${at === "" ? "" : ` at ${at}`}`, description, `course${index}`, body)}\n<figcaption>${escape(at === "" ? "memory.available" : at)}: ${escape(outcomeWord(outcome))}. Upright lines with a dot: the kubelet's polls; dashed across: its threshold${lines[1] ? "; the dashed course: the model" : ""}.</figcaption>\n</figure>\n`;
  });
  return drawn.length === 0 ? "" : `<h2>memory.available and the polls</h2>\n${drawn.join("")}`;
}

function table(axes: readonly Axis[], results: readonly SweepResult[]): string {
  const both = results.some(({ measured, model }) => measured !== null && model !== null);
  const told = (outcome: Outcome | null): string => {
    if (outcome === null) return "";
    const [first] = outcome.ends;
    if (outcome.problem !== null) return `no outcome: ${escape(outcome.problem)}`;
    return escape(
      `${outcomeWord(outcome)}${first ? `: ${first.process} after ${Number.isFinite(first.atMs) ? `${(first.atMs / 1000).toFixed(1)} s` : "?"}` : ""}`,
    );
  };
  const rows = results.slice(0, 1000).map((result) => {
    const values = Object.values(valuesAt(axes, result.point)).map((value) => `<td>${escape(value)}</td>`);
    return `<tr>${values.join("")}<td>${told(outcomeAt(result))}</td>${both ? `<td>${told(result.model)}</td>` : ""}</tr>`;
  });
  return `<h2>Points</h2>
<div class="scroll" tabindex="0" role="region" aria-label="All points">
<table>
<thead><tr>${axes.map(({ name }) => `<th scope="col">${escape(name)}</th>`).join("")}<th scope="col">outcome</th>${both ? '<th scope="col">model</th>' : ""}</tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table>
</div>
${results.length > rows.length ? `<p>The first ${rows.length} are listed; --reporter csv has all.</p>\n` : ""}`;
}
