/** The records themselves, event by event; `oomlab report` reads them. */
import type { Plan } from "../plan.ts";
import type { Output, Reporter } from "./index.ts";

/** Records stand behind each other: where several scenarios run at a time, one is written as it happens and the others once it has ended. */
export function ndjsonReporter(output: Output): Reporter {
  let current: Plan | null = null;
  const waiting = new Map<Plan, { lines: string[]; ended: boolean }>();
  return {
    onEvent(plan, event) {
      const line = `${JSON.stringify(event)}\n`;
      current ??= plan;
      if (plan === current) return output.write(line);
      const held = waiting.get(plan);
      if (held) held.lines.push(line);
      else waiting.set(plan, { lines: [line], ended: false });
    },
    onAttemptEnd(plan) {
      const held = waiting.get(plan);
      if (held) held.ended = true;
      if (plan !== current) return;
      current = null;
      for (const [next, { lines, ended }] of waiting) {
        output.write(lines.join(""));
        waiting.delete(next);
        if (ended) continue;
        current = next;
        break;
      }
    },
  };
}
