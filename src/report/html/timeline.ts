/**
 * A run's timeline as inline SVG, from the record's samples: memory.current against the limit, swap, stalls (PSI),
 * kills and steps. Colours are attributes of the SVG, for a content security policy may take the style sheet away.
 */
import type { Plan } from "../../plan.ts";
import { type EventOf, eventsOf, type RunEvent } from "../../record.ts";
import { signOf } from "../evidence.ts";
import type { Kill, Verdict } from "../index.ts";
import { sizeWords, timeWords, victimName } from "../words.ts";
import { clip, escape } from "./escape.ts";

/** In the SVG's own units: about a phone's width, so that text keeps its size there. */
const width = 420;
const left = 56;
const right = 6;
const plotHeight = 84;
const titleHeight = 18;
const stallHeight = 18;
const panelGap = 10;
const axisHeight = 18;

const mostPanels = 4;
const mostPoints = 160;
const mostMarks = 12;

/** A shorter run has no course to draw. */
const shortestUs = 20_000;

/** With at least 3:1 against white and against the dark page. */
const colors = {
  memory: "#3b82f6",
  limit: "#c2410c",
  swap: "#a855f7",
  stall: "#64748b",
  kill: "#dc2626",
  mark: "#7a828e",
};

interface Point {
  /** Microseconds since the record began. */
  t: number;
  value: number;
}

interface Panel {
  cgroup: string;
  memory: Point[];
  /** Where it changes; null: no limit. */
  limits: { t: number; value: number | null }[];
  swap: Point[];
  /** The share of the time since the sample before in which some task waited for memory, 0 to 1. */
  stalls: Point[];
}

interface Mark {
  t: number;
  text: string;
  kill: boolean;
}

export interface Timeline {
  svg: string;
  caption: string;
}

/** Null where the record holds too few samples to draw. `id` makes the SVG's own ids unique. */
export function timeline(record: readonly RunEvent[], plan: Plan, verdict: Verdict, id: string): Timeline | null {
  const samples = eventsOf(record, "counters");
  const panels = panelsOf(samples, verdict.observed?.kills ?? [], plan);
  const start = eventsOf(record, "process-start")[0]?.t ?? samples[0]?.t;
  const last = samples.findLast(({ moment }) => moment === "settled" || moment === "end" || moment === "sample")?.t;
  if (panels.length === 0 || start === undefined || last === undefined || last - start < shortestUs) return null;
  const scale = { start: Math.min(start, panels[0]?.memory[0]?.t ?? start), end: last };
  const marks = marksOf(record, verdict, scale);
  let top = 0;
  const plots: number[] = [];
  const drawn = panels.map((panel) => {
    plots.push(top + titleHeight);
    const height = titleHeight + plotHeight + (panel.stalls.length > 0 ? stallHeight : 0);
    const text = drawPanel(panel, top, scale);
    top += height + panelGap;
    return text;
  });
  const bottom = top - panelGap;
  const height = bottom + axisHeight;
  const svg = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="640" height="${Math.round((640 * height) / width)}" viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="${id}-title ${id}-desc" font-family="system-ui, sans-serif" font-size="10" fill="currentColor">`,
    `<title id="${id}-title">Timeline of ${escape(verdict.name)}</title>`,
    `<desc id="${id}-desc">${escape(description(panels, marks, start))}</desc>`,
    ...drawn,
    ...drawMarks(marks, plots, scale, start),
    drawAxis(bottom, scale, start),
    "</svg>",
  ].join("\n");
  return { svg, caption: caption(panels, marks) };
}

function panelsOf(samples: EventOf<"counters">[], kills: readonly Kill[], plan: Plan): Panel[] {
  const byCgroup = new Map<string, EventOf<"counters">[]>();
  for (const sample of samples) {
    if (typeof sample.counters["memory.current"] !== "number") continue;
    const group = byCgroup.get(sample.cgroup);
    if (group) group.push(sample);
    else byCgroup.set(sample.cgroup, [sample]);
  }
  const weight = (name: string, group: EventOf<"counters">[]): number => {
    if (kills.some(({ limit }) => limit === name)) return 0;
    if (kills.some(({ taskMemcg }) => taskMemcg?.endsWith(`/${plan.top.name}/${name}`))) return 1;
    if (group.some(({ counters }) => typeof counters["memory.max"] === "number")) return 2;
    return name === "" ? 4 : 3;
  };
  const order = plan.cgroups.map(({ name }) => name);
  const all = [...byCgroup].filter(([, group]) => group.length > 1);
  // The run's own cgroup only sums up what the others show.
  const shown = all.length > 1 ? all.filter(([name]) => name !== "") : all;
  return shown
    .toSorted(([a, one], [b, other]) => weight(a, one) - weight(b, other))
    .slice(0, mostPanels)
    .toSorted(([a], [b]) => order.indexOf(a) - order.indexOf(b))
    .map(([cgroup, group]) => panelOf(cgroup, group));
}

function panelOf(cgroup: string, group: EventOf<"counters">[]): Panel {
  const series = (key: string): Point[] =>
    group.flatMap(({ t, counters }) => {
      const value = counters[key];
      return typeof value === "number" ? [{ t, value }] : [];
    });
  const limits: Panel["limits"] = [];
  for (const { t, counters } of group) {
    const max = counters["memory.max"];
    // Samples between leave out what a run does not change.
    if (max === undefined) continue;
    const value = typeof max === "number" ? max : null;
    if (limits.at(-1)?.value !== value) limits.push({ t, value });
  }
  const swap = series("memory.swap.current");
  const totals = series("memory.pressure.some.total");
  const stalls = totals.slice(1).map(({ t, value }, at): Point => {
    const before = totals[at];
    const span = before === undefined ? 0 : t - before.t;
    return { t, value: before === undefined || span <= 0 ? 0 : Math.min(1, (value - before.value) / span) };
  });
  return {
    cgroup,
    memory: series("memory.current"),
    limits,
    swap: swap.some(({ value }) => value > 0) ? swap : [],
    stalls: stalls.some(({ value }) => value > 0.001) ? stalls : [],
  };
}

/** What happened at a moment: kills, timeouts, steps, and the ends of processes that no kill explains. */
function marksOf(record: readonly RunEvent[], verdict: Verdict, scale: Scale): Mark[] {
  const killed = new Set(verdict.observed?.kills.map(({ victim }) => victim.pid));
  const kills = (verdict.observed?.kills ?? []).flatMap((kill): Mark[] => {
    const first = signOf(kill, record);
    return first ? [{ t: first.t, text: `OOM kill of ${victimName(kill)}`, kill: true }] : [];
  });
  const others = record.flatMap((event): Mark[] => {
    const { t } = event;
    if (event.type === "step") return [{ t, text: `step ${event.index + 1}: ${event.do}`, kill: false }];
    if (event.type === "timeout") return [{ t, text: "timeout", kill: false }];
    if (event.type === "kubelet" && event.did === "evict")
      return [{ t, text: `eviction of ${event.eviction.pod}`, kill: true }];
    if (event.type === "panic") return [{ t, text: "panic", kill: true }];
    if (event.type === "process-exit" && !killed.has(event.pid))
      return [{ t, text: `end of ${event.process}`, kill: false }];
    return [];
  });
  return [...kills, ...others.slice(0, Math.max(0, mostMarks - kills.length))].filter(
    ({ t }) => t >= scale.start && t <= scale.end,
  );
}

interface Scale {
  start: number;
  end: number;
}

const round = (value: number): number => Math.round(value * 10) / 10;
const across = (t: number, { start, end }: Scale): number =>
  round(left + ((t - start) / (end - start)) * (width - left - right));

function drawPanel(panel: Panel, top: number, scale: Scale): string {
  const { cgroup, memory, limits, swap, stalls } = panel;
  const highest = Math.max(1, ...memory.map(({ value }) => value), ...swap.map(({ value }) => value));
  const limit = Math.max(0, ...limits.map(({ value }) => value ?? 0));
  // A limit far above would press the line to the ground.
  const near = limit > 0 && limit <= highest * 4;
  const ceiling = Math.max(highest, near ? limit : 0) * 1.06;
  const base = top + titleHeight + plotHeight;
  const up = (value: number): number => round(base - (Math.min(value, ceiling) / ceiling) * plotHeight);
  const label = clip(cgroup === "" ? "the run's own cgroup" : cgroup, 48);
  const says =
    limit === 0
      ? "no limit of its own"
      : near
        ? `limit ${sizeWords(limit)}`
        : `limit ${sizeWords(limit)}, above the plot`;
  const line = (points: Point[]): string =>
    points.map(({ t, value }, at) => `${at === 0 ? "M" : "L"}${across(t, scale)} ${up(value)}`).join("");
  const shown = thin(memory);
  const ends = `L${across(shown.at(-1)?.t ?? scale.end, scale)} ${base}L${across(shown[0]?.t ?? scale.start, scale)} ${base}Z`;
  const parts = [
    `<text x="0" y="${top + 11}" font-weight="600">${escape(label)}</text>`,
    `<text x="${width - right}" y="${top + 11}" text-anchor="end" fill-opacity=".8">peak ${sizeWords(Math.max(...memory.map(({ value }) => value)))}, ${says}</text>`,
    `<path d="M${left} ${top + titleHeight}V${base}H${width - right}" fill="none" stroke="currentColor" stroke-opacity=".4"/>`,
    ...ticks(ceiling).map(
      (value) =>
        `<text x="${left - 4}" y="${up(value) + 3}" text-anchor="end">${sizeWords(value)}</text><path d="M${left} ${up(value)}H${width - right}" stroke="currentColor" stroke-opacity=".12"/>`,
    ),
    `<path d="${line(shown)}${ends}" fill="${colors.memory}" fill-opacity=".15"/>`,
    `<path d="${line(shown)}" fill="none" stroke="${colors.memory}" stroke-width="1.5" stroke-linejoin="round"/>`,
  ];
  if (swap.length > 0)
    parts.push(
      `<path d="${line(thin(swap))}" fill="none" stroke="${colors.swap}" stroke-width="1.5" stroke-dasharray="1 2"/>`,
    );
  if (near)
    parts.push(
      `<path d="${limitLine(limits, up, scale)}" fill="none" stroke="${colors.limit}" stroke-width="1.5" stroke-dasharray="5 3"/>`,
    );
  if (stalls.length > 0) parts.push(drawStalls(stalls, base + 4, scale));
  return parts.join("\n");
}

function limitLine(limits: Panel["limits"], up: (value: number) => number, scale: Scale): string {
  return limits
    .map(({ t, value }, at) => {
      if (value === null) return "";
      const next = limits[at + 1];
      const from = at === 0 ? scale.start : t;
      return `M${across(from, scale)} ${up(value)}H${across(next?.t ?? scale.end, scale)}`;
    })
    .join("");
}

/** Bars below the plot: the share of time in which some task waited for memory. */
function drawStalls(stalls: Point[], top: number, scale: Scale): string {
  const height = stallHeight - 6;
  const bars = thin(stalls)
    .filter(({ value }) => value > 0.001)
    .map(
      ({ t, value }) => `M${across(t, scale)} ${top + height}V${round(top + height - Math.max(0.5, value * height))}`,
    )
    .join("");
  return `<text x="${left - 4}" y="${top + height}" text-anchor="end">stalls</text><path d="${bars}" fill="none" stroke="${colors.stall}" stroke-width="2"/>`;
}

function drawMarks(marks: readonly Mark[], plots: readonly number[], scale: Scale, start: number): string[] {
  const lines = marks
    .slice(0, mostMarks * 3)
    .toSorted((a, b) => Number(a.kill) - Number(b.kill))
    .map(({ t, kill }) => {
      const x = across(t, scale);
      const style = kill
        ? `stroke="${colors.kill}" stroke-width="1.5"`
        : `stroke="${colors.mark}" stroke-dasharray="2 3"`;
      return `<path d="${plots.map((top) => `M${x} ${top}v${plotHeight}`).join("")}" fill="none" ${style}/>`;
    });
  // One label: the first kill's, at the side that has room.
  const first = marks.filter(({ kill }) => kill).toSorted((a, b) => a.t - b.t)[0];
  if (!first) return lines;
  const x = across(first.t, scale);
  const flipped = x > width / 2;
  const more = marks.filter(({ kill }) => kill).length - 1;
  const label = `${clip(first.text, 40)}, ${timeWords((first.t - start) / 1000)}${more > 0 ? ` (and ${more} more)` : ""}`;
  return [
    ...lines,
    `<text x="${flipped ? x - 4 : x + 4}" y="${titleHeight + plotHeight - 6}" text-anchor="${flipped ? "end" : "start"}" font-weight="600"><tspan fill="${colors.kill}">\u2715</tspan> ${escape(label)}</text>`,
  ];
}

function drawAxis(bottom: number, scale: Scale, start: number): string {
  const span = (scale.end - start) / 1e6;
  const rough = span / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough) ?? rough;
  const labels: string[] = [];
  for (let at = 0; at <= span; at += step) {
    const x = across(start + at * 1e6, scale);
    if (x > width - 24) break;
    const said = span < 1 ? `${Number((at * 1000).toPrecision(6))} ms` : `${Number(at.toPrecision(6))} s`;
    labels.push(`<text x="${x}" y="${bottom + 13}" text-anchor="middle">${said}</text>`);
  }
  return labels.join("");
}

/** Round sizes for the axis, two to four of them. */
function ticks(ceiling: number): number[] {
  let step = 4096;
  while (ceiling / step > 4) step *= 2;
  return Array.from({ length: Math.floor(ceiling / step) }, (_, at) => (at + 1) * step);
}

/** At most so many points: of each stretch the highest, so that no peak is lost. */
function thin(points: Point[]): Point[] {
  if (points.length <= mostPoints) return points;
  const size = points.length / mostPoints;
  return Array.from({ length: mostPoints }, (_, at) =>
    points.slice(Math.floor(at * size), Math.floor((at + 1) * size)).reduce((a, b) => (b.value > a.value ? b : a)),
  );
}

function description(panels: Panel[], marks: readonly Mark[], start: number): string {
  const levels = panels.map(({ cgroup, memory, limits }) => {
    const limit = limits.findLast(({ value }) => value !== null)?.value;
    return `${cgroup || "the run's own cgroup"} reached ${sizeWords(Math.max(...memory.map(({ value }) => value)))}${limit ? ` of its limit of ${sizeWords(limit)}` : ""}`;
  });
  const events = marks
    .toSorted((a, b) => a.t - b.t)
    .slice(0, mostMarks)
    .map(({ t, text }) => `${text} at ${timeWords(Math.max(0, (t - start) / 1000))}`);
  return `${[...levels, ...events].join("; ")}.`;
}

function caption(panels: Panel[], marks: readonly Mark[]): string {
  const parts = ["Blue: memory.current"];
  if (panels.some(({ limits }) => limits.some(({ value }) => value !== null))) parts.push("orange, dashed: the limit");
  if (panels.some(({ swap }) => swap.length > 0)) parts.push("violet, dotted: swap");
  if (panels.some(({ stalls }) => stalls.length > 0))
    parts.push("bars below: the share of time in which some task waited for memory (PSI)");
  if (marks.some(({ kill }) => kill)) parts.push("red: an OOM kill, an eviction or a panic");
  if (marks.some(({ kill }) => !kill)) parts.push("grey, dashed: other events of the list below");
  return `${parts.join("; ")}. Time since the first process started.`;
}
