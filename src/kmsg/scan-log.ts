// A log in chunks: its format, its lines, and of these the ones that are read.
import { createJournalReader } from "./journal.ts";
import { createLineReader } from "./lines.ts";
import { createObjectReader } from "./objects.ts";
import type { OomLine } from "./grammar.ts";
import { AROUND, createSearch, mayMatter } from "./prefilter.ts";
import { MAX_LINE, decoderOf } from "./record.ts";
import { HEAD_LINES, TAIL_LINES, createMatchedScanner } from "./scan.ts";
import type { KmsgRecord, OomIncomplete, OomKill, OomScan, OomScanOptions } from "./types.ts";

/** Whole text or chunks in, scan out; the journal's export format as bytes, or reports may be left out. */
export function scanKernelLog(
  input: string | Uint8Array | Iterable<string | Uint8Array>,
  options: OomScanOptions = {},
): OomScan {
  const scanner = createLogScanner(options);
  const kills: OomKill[] = [];
  for (const chunk of typeof input === "string" || input instanceof Uint8Array ? [input] : input)
    for (const kill of scanner.push(chunk)) kills.push(kill);
  const scan = scanner.end();
  scan.kills = [...kills, ...scan.kills];
  return scan;
}

/**
 * The same for a stream: `push` gives the kills that a chunk completed, `end` the rest of the scan with the kills that
 * no push gave. Where chunks are cut never changes the answer; memory is bounded, whatever comes.
 */
export function createLogScanner(options: OomScanOptions = {}): {
  push(chunk: string | Uint8Array): OomKill[];
  end(): OomScan;
} {
  const details = options.details === true;
  const scanner = createMatchedScanner(options);
  const lost: OomIncomplete[] = [];
  const others: { line: number; by: string; text: string }[] = [];
  let kills: OomKill[] = [];
  let killed = false;
  const log = createLog(
    (record, found) => {
      for (const kill of scanner.push(record, found)) {
        kills.push(kill);
        killed = true;
      }
    },
    (line, reason) => {
      if (lost.length < MAX_LISTED) lost.push({ line, reason });
    },
    {
      first: details ? HEAD_LINES : 0,
      /** Lines to be read after this one, whatever they hold. With details: all of a report, and the reaper's behind a kill. */
      after(line) {
        // Right behind a kill a group's title may stand, wrapped within its words.
        const more = killed ? (details ? TAIL_LINES : 1) : details && scanner.isOpen(line) ? 1 : 0;
        killed = false;
        return Math.max(more, scanner.wants(line));
      },
    },
    (line, by, text) => {
      if (others.length < MAX_LISTED) others.push({ line, by, text });
    },
  );
  const take = (): OomKill[] => {
    const done = kills;
    kills = [];
    return done;
  };
  return {
    push(chunk) {
      log.push(chunk);
      return take();
    },
    end() {
      log.end();
      const scan = scanner.end();
      scan.kills.unshift(...take());
      scan.incomplete = [...scan.incomplete, ...lost].toSorted((a, b) => a.line - b.line);
      if (others.length > 0) scan.others = others;
      return scan;
    },
  };
}

const MAX_LISTED = 10_000;

/**
 * A streaming reader for any text format (detects per line): push chunks in any cut, get records. The journal's export
 * format is binary: give it as bytes, or records are left out where text cannot show whose they are.
 */
export function createLogReader(): { push(chunk: string | Uint8Array): KmsgRecord[]; end(): KmsgRecord[] } {
  let out: KmsgRecord[] = [];
  const log = createLog(
    (record) => out.push(record),
    () => undefined,
    { first: Number.POSITIVE_INFINITY, after: () => 0 },
  );
  const take = (): KmsgRecord[] => {
    const records = out;
    out = [];
    return records;
  };
  return {
    push(chunk) {
      log.push(chunk);
      return take();
    },
    end() {
      log.end();
      return take();
    },
  };
}

/** Lines to be read whatever they hold: the first of the log, and some after one that was read. */
interface Wanted {
  first: number;
  after(line: number): number;
}

interface Sink {
  push(bytes: Uint8Array): void;
  end(): void;
}

/** Finds a log's encoding and format in its first bytes, and gives its records. */
function createLog(
  emit: Emit,
  lose: Lose,
  wanted: Wanted,
  note?: Note,
): { push(chunk: string | Uint8Array): void; end(): void } {
  const encoder = new TextEncoder();
  // UTF-16, as Windows shells write it.
  let wide: InstanceType<typeof TextDecoder> | null = null;
  let wasText = false;
  let surrogate = "";
  // The first bytes, until they show the format.
  let start: Uint8Array | null = new Uint8Array(0);
  let sink: Sink | null = null;

  function encode(text: string): Uint8Array {
    const whole = surrogate + text;
    const code = whole.charCodeAt(whole.length - 1);
    const half = code >= 0xd800 && code < 0xdc00;
    surrogate = half ? whole.slice(-1) : "";
    return encoder.encode(half ? whole.slice(0, -1) : whole);
  }

  function sinkOf(first: Uint8Array, complete: boolean): Sink | null {
    const format = formatOf(first, complete);
    if (format === "text") return createLines(emit, lose, wanted, note);
    if (format === "json") return createObjects(emit, lose);
    if (format === null) return null;
    const entries = createJournalReader(emit, lose);
    return { push: (bytes) => entries.push(bytes, wasText), end: () => entries.end() };
  }

  /** UTF-8, in which a byte order mark comes first at most. */
  function feed(bytes: Uint8Array, complete: boolean): void {
    if (sink === null) {
      const first = concat(start!, bytes);
      const marked = first[0] === 0xef && first[1] === 0xbb && first[2] === 0xbf;
      sink = first.length < 3 && !complete ? null : sinkOf(marked ? first.subarray(3) : first, complete);
      start = sink === null ? first : null;
      sink?.push(marked ? first.subarray(3) : first);
    } else sink.push(bytes);
    if (complete) sink?.end();
  }

  function bytes(chunk: Uint8Array): void {
    if (wide === null && start !== null && !wasText) {
      const head = concat(start, chunk);
      if (head.length < 2) {
        start = head;
        return;
      }
      const mark = (head[0]! << 8) | head[1]!;
      if (mark === 0xfffe || mark === 0xfeff) {
        wide = new TextDecoder(mark === 0xfffe ? "utf-16le" : "utf-16be");
        start = new Uint8Array(0);
        wasText = true;
        feed(encode(wide.decode(head, { stream: true })), false);
        return;
      }
    }
    if (wide === null) feed(chunk, false);
    else feed(encode(wide.decode(chunk, { stream: true })), false);
  }

  return {
    push(chunk) {
      if (chunk.length === 0) return;
      if (typeof chunk === "string") {
        wasText = true;
        feed(encode(chunk), false);
      } else bytes(chunk);
    },
    end() {
      if (wide !== null) feed(encode(wide.decode()), false);
      feed(encoder.encode(surrogate), true);
    },
  };
}

/** A copy: a caller's buffer may be used again, and Buffer.prototype.slice() makes none. */
function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

type Format = "text" | "json" | "export";

/** What the first bytes of a log show of its format; null while more are needed. */
function formatOf(bytes: Uint8Array, complete: boolean): Format | null {
  const start = Array.from(bytes.subarray(0, 8192), (byte) => String.fromCharCode(byte)).join("");
  const match = /\S/.exec(start);
  if (match === null) return complete || start.length > 4096 ? "text" : null;
  const rest = start.slice(match.index);
  if (rest[0] === "{") return "json";
  if (rest[0] === "[") {
    const next = /\S/.exec(rest.slice(1));
    if (next === null) return complete || rest.length > 256 ? "text" : null;
    return next[0] === "{" ? "json" : "text";
  }
  const end = rest.indexOf("\n");
  if (end === -1 && rest.length < 1024 && !complete) return null;
  const first = rest.slice(0, end === -1 ? 1024 : Math.min(end, 1024));
  // A record's dictionary line (" SUBSYSTEM=pci") has a blank in front.
  const field = /^_{0,2}[A-Z][A-Z0-9_]{1,63}=/.test(first) && (match.index === 0 || start[match.index - 1] === "\n");
  return field || / \[s=[0-9a-f]{1,32};i=/.test(first.slice(0, 200)) ? "export" : "text";
}

type Emit = (record: KmsgRecord, found?: OomLine | null) => void;
type Lose = (line: number, reason: string) => void;
type Note = (line: number, by: string, text: string) => void;

function createObjects(emit: Emit, lose: Lose): Sink {
  const lines = createLineReader(emit, () => null, lose);
  const objects = createObjectReader(emit, (text, number) => lines.line(text, number));
  const decoder = new TextDecoder();
  return {
    push: (bytes) => objects.push(decoder.decode(bytes, { stream: true })),
    end() {
      objects.push(decoder.decode());
      objects.end();
      lines.end();
    },
  };
}

const NEWLINE = 10;
const PIECE = 131_072;
// Lines already read of which the next may be the rest.
const BEHIND = 1024;

/** Cuts bytes into lines and reads those that are wanted or may hold a record of the OOM killer. */
function createLines(emit: Emit, lose: Lose, wanted: Wanted, note?: Note): Sink {
  const search = createSearch(PIECE + MAX_LINE + 2 * BEHIND);
  const { bytes } = search;
  const decode = decoderOf(bytes);
  const reader = createLineReader(emit, before, lose, note);
  let [at, end] = [0, 0];
  let number = 1;
  let follow = wanted.first;
  // What comes is the rest of a line that was too long.
  let inside = false;
  let reading = 0;
  let dropped = false;

  /** A short line `distance` lines before the one being read, where it is still there. */
  function before(distance: number): string | null {
    let to = reading;
    for (let i = 1; i < distance; i++) to = bytes.subarray(0, Math.max(0, to - 1)).lastIndexOf(NEWLINE) + 1;
    const from = bytes.subarray(0, Math.max(0, to - 1)).lastIndexOf(NEWLINE) + 1;
    return to === 0 || (from === 0 && dropped) || to - from > BEHIND / 2 ? null : decode(from, to - 1);
  }

  function read(from: number, to: number): void {
    reading = from;
    reader.line(decode(from, Math.min(to, from + MAX_LINE)), number);
    const more = Math.max(wanted.after(number), reader.waiting() ? 1 : 0);
    follow = Math.max(follow - 1, more);
  }

  /** The next line in [at, to) that is to be read, `at` at its start; -1 where there is none. Ends at its newline, or at `to`. */
  function next(to: number): number {
    if (follow > 0) return lineEnd(at, to);
    for (let from = at; ;) {
      const hit = search.find(from, to);
      number += search.lines();
      if (hit === -1) return -1;
      from = hit + 3;
      if (!mayMatter(bytes, hit, to)) continue;
      at = Math.max(at, bytes.lastIndexOf(NEWLINE, hit) + 1);
      if (hit - at < MAX_LINE - AROUND) return lineEnd(hit, to);
      // So far into a line no record begins.
      from = lineEnd(hit, to);
    }
  }

  function lineEnd(from: number, to: number): number {
    const found = bytes.indexOf(NEWLINE, from);
    return found === -1 || found > to ? to : found;
  }

  /** Reads what is there in whole lines; at the end of the log the rest, too. */
  function run(final: boolean): void {
    if (inside) {
      const found = lineEnd(at, end);
      at = found;
      if (found === end) return;
      at++;
      number++;
      inside = false;
    }
    const last = bytes.subarray(at, end).lastIndexOf(NEWLINE);
    const to = final ? end : at + last + 1;
    while (at < to) {
      const stop = next(to);
      if (stop === -1) break;
      read(at, stop);
      at = stop + 1;
      number++;
    }
    at = to;
    if (end - at < MAX_LINE) return;
    // A line longer than a record can be: its beginning is read, what follows is not.
    const stop = next(at + MAX_LINE);
    if (stop !== -1) read(at, stop);
    at = end;
    inside = true;
  }

  /** Makes room, but keeps the lines right before. */
  function compact(): void {
    const keep = Math.max(0, at - BEHIND);
    dropped ||= keep > 0;
    bytes.copyWithin(0, keep, end);
    at -= keep;
    end -= keep;
  }

  return {
    push(chunk) {
      for (let from = 0; from < chunk.length;) {
        if (bytes.length - end < PIECE) compact();
        const piece = chunk.subarray(from, from + Math.min(PIECE, bytes.length - end));
        bytes.set(piece, end);
        end += piece.length;
        from += piece.length;
        run(false);
      }
    },
    end() {
      run(true);
      reader.end();
    },
  };
}
