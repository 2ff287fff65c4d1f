/** `oomlab report`: judges recorded runs again and reports them, without a run. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../errors.ts";
import { eventsOf, parseRecords, type RunEvent } from "../record.ts";
import { announce, type Reporter, summarize, type Summary } from "../report/index.ts";
import { type RecordHead, type SelectedRecord, selectRecords } from "../report/select.ts";
import { judge, type Verdict } from "../verdict.ts";
import { openReporters } from "./reporters.ts";
import { type Streams, version } from "./streams.ts";

/** What `oomlab report` takes; all but `paths` has the command's default. */
export interface ReportOptions {
  /** Records, or folders of them; `-`: standard input. */
  paths: string[];
  /** `name`, `name=file` or an object with hooks. Default: `["terminal"]`; empty: nothing is reported. */
  reporters?: (string | Reporter)[];
  /** Joins shards and later runs: one result a scenario. */
  merge?: boolean;
  /** A skipped scenario makes the exit status 1. */
  failOnSkipped?: boolean;
}

/** What recorded runs came to. */
export interface ReportResult {
  /** The command's: 0 all passed, 1 one failed, 3 errored, inconclusive or incomplete. */
  exitCode: number;
  verdicts: Verdict[];
  summary: Summary;
}

/**
 * Reports the records in files and folders (those below included). One file of them is in memory at a time.
 * Throws OomlabError for what is no record.
 */
export async function report(
  { paths, reporters = ["terminal"], merge = false, failOnSkipped = false }: ReportOptions,
  streams: Streams,
): Promise<ReportResult> {
  if (paths.length === 0)
    throw new UsageError("name the records to report: oomlab report RECORD...", {
      hint: "`oomlab run --output DIR` writes them",
    });
  const warn = (message: string): void => streams.stderr.write(`oomlab: ${message}\n`);
  const files = [...new Set(paths.flatMap((path) => recordFiles(path, merge, warn)))];
  if (files.length === 0) throw noRecords(paths.join(", "));
  const stdin = files.includes("-") && streams.stdin ? await streams.stdin() : "";
  const read = (file: string): RunEvent[][] => (file === "-" ? parseRecords(stdin, file) : readRecords(file));
  const heads = files.flatMap((file) => read(file).map((events, position) => headOf(file, position, events)));
  const { records, superseded, missing } = selectRecords(heads, merge);
  const notes = [...missing];
  if (superseded > 0)
    notes.push(
      `${superseded} record(s) are of earlier runs of the same scenarios: ${merge ? "left out" : "reported too (--merge takes the last of each)"}`,
    );
  for (const note of notes) warn(note);
  const info = { version: version(), scenarios: records.length, notes, missing };
  const outputs = await openReporters(reporters, streams, info, { inputs: files.filter((file) => file !== "-") });
  let reportsLost = false;
  const lose = (message: string): void => {
    reportsLost = true;
    warn(message);
  };
  const all = outputs.reporters;
  const load = loader(read);
  try {
    announce(all, lose, (reporter) => reporter.onRunStart?.(info));
    const verdicts = records.map(({ head, earlier }: SelectedRecord): Verdict => {
      const before = earlier.map((attempt) => judge(load(attempt)));
      const record = load(head);
      const verdict = judge(record);
      noteAttempts(verdict, before.length);
      const { plan } = head;
      announce(all, lose, (reporter) => {
        for (const event of record) reporter.onEvent?.(plan, event);
        reporter.onAttemptEnd?.(plan);
        reporter.onScenarioEnd?.({ verdict, plan, record, earlier: before });
      });
      return verdict;
    });
    const summary = summarize(verdicts);
    announce(all, lose, (reporter) => reporter.onRunEnd?.(verdicts, summary));
    const status = exitStatus(summary, failOnSkipped);
    return { exitCode: (reportsLost || missing.length > 0) && status === 0 ? 3 : status, verdicts, summary };
  } finally {
    outputs.close();
  }
}

/** 0 all passed (skips are listed), 1 failed, 3 errored, inconclusive, or nothing that could be run. */
export function exitStatus(summary: Summary, failOnSkipped: boolean): number {
  if (summary.failed > 0 || (failOnSkipped && summary.skipped > 0)) return 1;
  if (summary.errored > 0 || summary.inconclusive > 0 || summary.passed === 0) return 3;
  return 0;
}

/** Says of a verdict how many attempts it took. */
export function noteAttempts(verdict: Verdict, before: number): void {
  if (before > 0 && verdict.status === "passed") verdict.notes.push(`passed at attempt ${before + 1}`);
}

/** `merge`: a folder without records, or none at all, may be that of a shard that had nothing to do. */
function recordFiles(path: string, merge: boolean, warn: (message: string) => void): string[] {
  if (path === "") throw new UsageError('"" names no record: expected a file, a folder, or - for standard input');
  const found = path === "-" ? undefined : statSync(path, { throwIfNoEntry: false });
  if (found === undefined && merge && path !== "-" && !path.endsWith(".ndjson")) {
    warn(`there is no ${path}: taken for a shard that had no scenario`);
    return [];
  }
  if (!found?.isDirectory()) return [path];
  const files = readdirSync(path, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ndjson"))
    .toSorted()
    .map((name) => join(path, name));
  if (files.length === 0 && !merge) throw noRecords(path);
  return files;
}

const noRecords = (where: string): UsageError =>
  new UsageError(`the folder ${where} holds no record: expected files that end in .ndjson`, {
    hint: "`oomlab run --output DIR` writes them",
  });

function readRecords(path: string): RunEvent[][] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new UsageError(`the record ${path} cannot be read: ${(error as Error).message}`);
  }
  return parseRecords(text, path);
}

function headOf(file: string, position: number, events: readonly RunEvent[]): RecordHead {
  const run = eventsOf(events, "run")[0];
  if (!run) throw new TypeError("parseRecords lets no record begin otherwise");
  const { startedAt, plan, capabilities, selection } = run;
  return { file, position, startedAt, plan, kernel: capabilities?.kernel ?? null, selection: selection ?? null };
}

/** Reads records again; the file read last is kept. */
function loader(read: (file: string) => RunEvent[][]): (head: RecordHead) => RunEvent[] {
  let last: { file: string; records: RunEvent[][] } | null = null;
  return ({ file, position }) => {
    if (last?.file !== file) last = { file, records: read(file) };
    return last.records[position] ?? [];
  };
}
