import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Plan } from "../../src/plan.ts";
import { parseRecords, type RunEvent, type RunEventBody } from "../../src/record.ts";
import {
  type Output,
  reporters,
  type RunInfo,
  type ScenarioResult,
  summarize,
  type Surroundings,
} from "../../src/report/index.ts";
import { judge, type Verdict } from "../../src/verdict.ts";

/** A record from test/fixtures/records. */
export function recorded(name: string): RunEvent[] {
  const file = join(import.meta.dirname, "../fixtures/records", name);
  const [record = []] = parseRecords(readFileSync(file, "utf8"), file);
  return record;
}

/** The record with some events changed, or left out (null). */
const changed = (record: readonly RunEvent[], change: (event: RunEvent) => RunEventBody | null): RunEvent[] =>
  record.flatMap((event) => {
    const body = change(structuredClone(event));
    return body === null ? [] : [{ line: event.line, t: event.t, ...body }];
  });

/** The record with another plan: other expectations, say. */
export const withPlan = (record: readonly RunEvent[], change: Partial<Plan>): RunEvent[] =>
  changed(record, (event) => (event.type === "run" ? { ...event, plan: { ...event.plan, ...change } } : event));

/** What a reporter gets of a record. */
export function resultOf(record: RunEvent[], earlier: Verdict[] = []): ScenarioResult {
  const [run] = record;
  if (run?.type !== "run") throw new TypeError("a record begins with an event of type run");
  return { verdict: judge(record), plan: run.plan, record, earlier };
}

export interface Written {
  output: string;
  summary: string;
}

/** Everything that a reporter writes of some scenarios. */
export async function written(
  name: string,
  results: readonly ScenarioResult[],
  options: { info?: Partial<RunInfo>; output?: Partial<Output>; around?: Partial<Surroundings> } = {},
): Promise<Written> {
  const make = await reporters[name]?.();
  if (!make) throw new TypeError(`there is no reporter ${name}`);
  const all: Written = { output: "", summary: "" };
  const info: RunInfo = { version: "0.0.0-test", scenarios: results.length, notes: [], missing: [], ...options.info };
  const reporter = make({ write: (text) => void (all.output += text), colors: false, ...options.output }, info, {
    summary: { write: (text) => void (all.summary += text), colors: false },
    fileName: (file) => file,
    ...options.around,
  });
  reporter.onRunStart?.(info);
  for (const result of results) {
    reporter.onScenarioStart?.(result.plan);
    for (const event of result.record) reporter.onEvent?.(result.plan, event);
    reporter.onAttemptEnd?.(result.plan);
    reporter.onScenarioEnd?.(result);
  }
  const verdicts = results.map(({ verdict }) => verdict);
  reporter.onRunEnd?.(verdicts, summarize(verdicts));
  return all;
}

const base = recorded("memcg-v1.ndjson");
const [run] = base;
const plan: Plan = run?.type === "run" ? run.plan : (undefined as never);

/** One scenario of each status, all from one real record. */
export const everyStatus = {
  passed: (): ScenarioResult => resultOf(base),
  /** It expects another limit than the one that was hit. */
  failed: (): ScenarioResult => resultOf(withPlan(base, { name: "failed", expect: { ...plan.expect, limit: "pod" } })),
  /** The kernel's log was lost. */
  inconclusive: (): ScenarioResult =>
    resultOf(
      changed(withPlan(base, { name: "inconclusive" }), (event) =>
        event.type !== "kmsg" ? event : /Killed process/.test(event.text) ? { type: "kmsg-lost", afterSeq: 1 } : null,
      ),
    ),
  skipped: (): ScenarioResult =>
    resultOf(withPlan(base.slice(0, 1), { name: "skipped", skip: "it needs what is not there" })),
  /** Cut off in the middle. */
  errored: (): ScenarioResult =>
    resultOf(
      withPlan(base, { name: "errored" }).slice(
        0,
        base.findIndex(({ type }) => type === "kmsg"),
      ),
    ),
};

/** Names and log lines as an attacker would choose them. */
export const hostile =
  "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \u001b[31m\u202e%0A::error::x ]]> \u0000 `x` | &amp;";

/** A comm has 15 bytes at most. */
export const hostileComm = "]]></pre>%0A<b>";

/** A run in which everything that others name is hostile. */
export function hostileResult(): ScenarioResult {
  const record = changed(withPlan(base, { name: hostile, file: `${hostile}.yaml` }), (event) => {
    if (event.type === "kmsg") return { ...event, text: event.text.replaceAll("stress", hostileComm) };
    return event;
  });
  const at = record.findIndex(({ type }) => type === "kmsg");
  // What the record's other lines hold, at the place of the log's first.
  const [first] = record.slice(at);
  if (first?.type === "kmsg") record[at] = { ...first, text: hostile };
  return resultOf(record);
}
