/** What runs right now, a line each: memory against its limit, time, phase. Pure but for the clock it is given. */
import { printable } from "../printable.ts";
import type { Plan } from "../plan.ts";
import type { RunEvent } from "../record.ts";
import { sizeWords, timeWords } from "./words.ts";

interface Running {
  began: number;
  phase: string;
  /** Newest counters of each cgroup. */
  memory: Map<string, { current: number; limit: number | null }>;
}

export interface LiveView {
  start(plan: Plan): void;
  event(plan: Plan, event: RunEvent): void;
  end(plan: Plan): void;
  /** One line for each running scenario, none longer than `columns`. */
  lines(columns: number): string[];
}

const phases: Record<string, string> = {
  create: "making cgroups",
  collect: "collecting",
  start: "pressing",
  settle: "settling",
  remove: "removing",
};

const spinner = "\u280b\u2819\u2839\u2838\u283c\u2834\u2826\u2827\u2807\u280f";
const barWidth = 16;

/** `now` in milliseconds. */
export function liveView(now: () => number): LiveView {
  const running = new Map<Plan, Running>();
  return {
    start: (plan) =>
      void running.set(plan, {
        began: now(),
        phase: plan.machine === "host" ? "starting" : `starting its ${plan.machine}`,
        memory: new Map(),
      }),
    event(plan, event) {
      const state = running.get(plan);
      if (!state) return;
      if (event.type === "phase") state.phase = phases[event.phase] ?? event.phase;
      else if (event.type === "machine") state.phase = `${event.machine} is up`;
      else if (event.type === "counters") {
        const { "memory.current": current, "memory.max": limit } = event.counters;
        // Samples leave out what a run does not change.
        const known = limit === undefined ? state.memory.get(event.cgroup)?.limit : limit;
        if (typeof current === "number")
          state.memory.set(event.cgroup, { current, limit: typeof known === "number" ? known : null });
      }
    },
    end: (plan) => void running.delete(plan),
    lines: (columns) =>
      [...running].map(([{ name }, state]) => {
        const elapsed = now() - state.began;
        const turn = spinner.charAt(Math.floor(elapsed / 100) % spinner.length);
        const tail = [gauge(state), timeWords(elapsed), state.phase].filter((part) => part !== "").join("  ");
        const room = columns - tail.length - 5;
        // Too narrow for all: the name, and how long.
        if (room < 12) return cut(`${turn} ${timeWords(elapsed)}  ${printable(name)}`, columns - 1);
        return `${turn} ${cut(printable(name), room).padEnd(Math.min(room, 40))}  ${tail}`;
      }),
  };
}

/** The cgroup that is nearest to its limit. */
function gauge({ memory }: Running): string {
  let nearest: { name: string; current: number; limit: number } | null = null;
  for (const [name, { current, limit }] of memory)
    if (limit !== null && limit > 0 && (nearest === null || current / limit > nearest.current / nearest.limit))
      nearest = { name, current, limit };
  if (nearest === null) return "";
  const { name, current, limit } = nearest;
  const full = Math.min(barWidth, Math.round((current / limit) * barWidth));
  return `${"\u2588".repeat(full)}${"\u2591".repeat(barWidth - full)} ${sizeWords(current)} of ${sizeWords(limit)} ${cut(printable(name), 20)}`;
}

/** At most so many characters, an ellipsis where something was cut. */
function cut(text: string, most: number): string {
  const characters = Array.from(text);
  return characters.length <= most ? text : `${characters.slice(0, Math.max(0, most - 1)).join("")}\u2026`;
}
