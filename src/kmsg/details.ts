import type { ChosenLine, HeaderLine, KilledLine, SelectedLine } from "./match.ts";
import type { OomDetails } from "./types.ts";

/** Lines of a report, kept until its kill is known. */
export interface ReportText {
  lines: string[];
  size: number;
  omitted: number;
}

/** What the scanner knows of the report besides its lines. */
export interface ReportFacts {
  header: HeaderLine | null;
  selected: SelectedLine | null;
  chosen: ChosenLine | null;
}

export function newReportText(): ReportText {
  return { lines: [], size: 0, omitted: 0 };
}

const MAX_LINES = 50_000;
const MAX_SIZE = 8_000_000;

/** Keeps a line of a report, within bounds. A record may hold several lines. */
export function addContext(report: ReportText, text: string): void {
  if (report.lines.length >= MAX_LINES || report.size + text.length > MAX_SIZE) {
    report.omitted++;
    return;
  }
  report.size += text.length;
  report.lines.push(text);
}

export function readReaper(text: string): { pid: number; anonRss: number | null; fileRss: number | null; shmemRss: number | null } | null {
  void text;
  return null;
}

export function readDetails(text: ReportText | null, facts: ReportFacts | null, killed: KilledLine): OomDetails {
  void text; void facts; void killed;
  throw new Error("todo");
}
