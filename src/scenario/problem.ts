/** What is wrong in a scenario file, as text with the place, the code line and the nearest right spelling. */
import { OomlabError } from "../errors.ts";
import { printable } from "../printable.ts";

export interface ProblemDetails {
  /** The file as the user named it. */
  file: string;
  /** From 1; null where the file as a whole is meant. */
  line: number | null;
  column: number | null;
  /** `expect.oom`; empty at the top. */
  path: string;
  /** What was expected and what came. */
  what: string;
  /** What to write instead. */
  hint?: string | undefined;
  /** The line of the file that is shown. */
  code?: string | undefined;
}

/** One problem of one scenario file: exit status 2. `message` is all that is to be printed. */
export class ScenarioError extends OomlabError {
  readonly file: string;
  readonly line: number | null;
  readonly column: number | null;
  readonly path: string;

  constructor(details: ProblemDetails, message: string = describe(details)) {
    super("SCENARIO", message, { exitCode: 2 });
    this.file = details.file;
    this.line = details.line;
    this.column = details.column;
    this.path = details.path;
  }
}

/** All problems of all files that were read; place and path are the first one's. */
export class ScenarioErrors extends ScenarioError {
  readonly errors: readonly ScenarioError[];

  constructor(errors: readonly [ScenarioError, ...ScenarioError[]]) {
    const [{ file, line, column, path }] = errors;
    super({ file, line, column, path, what: "" }, errors.map((error) => error.message).join("\n"));
    this.errors = errors;
  }
}

function describe({ file, line, column, path, what, hint, code }: ProblemDetails): string {
  const place = line === null ? file : `${file}:${line}:${column ?? 1}`;
  const where = path.length > 160 ? `${path.slice(0, 80)}...${path.slice(-70)}` : path;
  const head = shown(`${place}${where === "" ? ":" : ` ${where}:`} ${what}`);
  const next = hint === undefined ? "" : shown(hint);
  if (code === undefined || column === null) return next === "" ? head : `${head}\n    ${next}`;
  const frame = codeFrame(code, column);
  return `${head}\n    ${frame.line}\n    ${" ".repeat(frame.caret)}^${next === "" ? "" : ` ${next}`}`;
}

const FRAME = 100;

/** The code line without its indent, cut to what a terminal shows, and the width of what stands before the caret. */
function codeFrame(code: string, column: number): { line: string; caret: number } {
  const indent = /^[ \t]*/.exec(code)?.[0].length ?? 0;
  const at = Math.max(column - 1, 0);
  const start = at - indent > FRAME - 20 ? at - 40 : Math.min(indent, at);
  const before = `${start > indent ? "..." : ""}${shown(code.slice(start, at))}`;
  const rest = code.slice(at, start + FRAME);
  return { line: `${before}${shown(rest)}${start + FRAME < code.length ? "..." : ""}`, caret: width(before) };
}

/** A part of the file as it is shown: a tab takes one column. */
const shown = (text: string): string => printable(text.replaceAll("\t", " "));

/** A piece of the file for a message: one line, at most 60 characters. */
export function excerpt(text: string): string {
  const line = text.trim().split(/\r?\n/, 1)[0] ?? "";
  const short = line.length > 60 || line.length < text.trim().length ? `${line.slice(0, 60)}...` : line;
  return shown(short);
}

/** Columns that text takes on a terminal: East Asian wide characters and emoji take two, combining marks none. */
function width(text: string): number {
  let columns = 0;
  for (const char of text) {
    if (/\p{M}/u.test(char)) continue;
    columns +=
      /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u.test(
        char,
      )
        ? 2
        : 1;
  }
  return columns;
}

/** The right spelling nearest to a wrong one; undefined where none is near. Case and separators cost nothing. */
export function nearest(wrong: string, right: Iterable<string>): string | undefined {
  if (wrong.length > 80) return undefined;
  const plain = simplify(wrong);
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(wrong.length / 3)) + 1;
  for (const candidate of right) {
    const distance =
      simplify(candidate) === plain ? 0 : editDistance(wrong.toLowerCase(), candidate.toLowerCase(), bestDistance);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function simplify(text: string): string {
  return text.toLowerCase().replace(/[-_. ]/g, "");
}

/** Damerau-Levenshtein (two swapped neighbours count one); `limit` where it is not below. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let previous: number[] = [];
  let current = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let distance = Math.min((current[j - 1] ?? 0) + (same ? 0 : 1), (current[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        distance = Math.min(distance, (previous[j - 2] ?? 0) + 1);
      next[j] = distance;
    }
    [previous, current] = [current, next];
  }
  return current[b.length] ?? limit;
}
