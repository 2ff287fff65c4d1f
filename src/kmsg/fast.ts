import { LOOK, candidateAt } from "./candidate.ts";
import { MARGIN, createFinder } from "./find.ts";
import { createLineReader } from "./lines.ts";
import { createReader, modeOf } from "./read.ts";
import { MAX_LINE } from "./record.ts";
import { FRAME_WINDOW, HEAD_LINES, TAIL_LINES, createMatchedScanner } from "./scan.ts";
import type { KmsgRecord, OomIncomplete, OomKill, OomScan, OomScanOptions } from "./types.ts";

/** Whole text or chunks in, scan out; the journal's export format as bytes, or reports may be left out. Reads only lines that may hold a record of the OOM killer; with details, also those of a report. */
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
  /** As `push`, without a copy: `read` puts bytes into the buffer it is given and tells how many, 0 at the end. */
  fill(read: (into: Uint8Array) => number): { size: number; kills: OomKill[] };
  /**
   * Takes so many lines as read, of at least 64 KiB of the log in which, and in 64 KiB behind which, no place is that the
   * search for records stops at (find.ts). False, and nothing is done, where they matter all the same.
   */
  pass(lines: number): boolean;
  end(): OomScan;
} {
  let engine: Engine | null = null;
  let start: Uint8Array = new Uint8Array(0);
  const encoder = new TextEncoder();
  let surrogate = "";
  // Some of it came as text.
  let decoded = false;

  function bytesOf(text: string): Uint8Array {
    let whole = surrogate + text;
    surrogate = "";
    const last = whole.charCodeAt(whole.length - 1);
    if (last >= 0xd800 && last < 0xdc00) {
      surrogate = whole.slice(-1);
      whole = whole.slice(0, -1);
    }
    return encoder.encode(whole);
  }

  /** Which way to read is decided by the first lines; until then they are kept. */
  function choose(bytes: Uint8Array, complete: boolean): OomKill[] {
    const all = new Uint8Array(start.length + bytes.length);
    all.set(start);
    all.set(bytes, start.length);
    start = all;
    const wide = all.length >= 2 && ((all[0] === 0xff && all[1] === 0xfe) || (all[0] === 0xfe && all[1] === 0xff));
    if (all.length < 2 && !complete) return [];
    const mode = wide ? "wide" : modeOf(new TextDecoder().decode(all.subarray(0, 8192)), complete);
    if (mode === null) return [];
    engine = mode === "text" ? createFast(options) : createThorough(options);
    start = new Uint8Array(0);
    // A byte order mark is no text; the thorough reader's decoder knows it.
    return engine.push(
      mode === "text" && all[0] === 0xef && all[1] === 0xbb && all[2] === 0xbf ? all.subarray(3) : all,
      decoded,
    );
  }

  return {
    push(chunk) {
      if (typeof chunk !== "string") return engine === null ? choose(chunk, false) : engine.push(chunk, decoded);
      const kills: OomKill[] = [];
      decoded ||= chunk !== "";
      // Pieces, so that a long text is not held twice.
      for (let at = 0; at < chunk.length; at += PIECE) {
        const bytes = bytesOf(chunk.slice(at, at + PIECE));
        for (const kill of engine === null ? choose(bytes, false) : engine.push(bytes, decoded)) kills.push(kill);
      }
      return kills;
    },
    fill(read) {
      if (engine !== null) return engine.fill(read);
      const first = new Uint8Array(PIECE);
      const size = read(first);
      return { size, kills: size === 0 ? [] : choose(first.subarray(0, size), false) };
    },
    pass: (lines) => engine?.pass(lines) ?? false,
    end() {
      const rest = encoder.encode(surrogate);
      const kills = engine === null ? choose(rest, true) : engine.push(rest, decoded);
      const scan = engine!.end();
      scan.kills.unshift(...kills);
      return scan;
    },
  };
}

const PIECE = 131_072;

interface Engine {
  /** `decoded`: the bytes were made of text. */
  push(bytes: Uint8Array, decoded?: boolean): OomKill[];
  fill(read: (into: Uint8Array) => number): { size: number; kills: OomKill[] };
  pass(lines: number): boolean;
  end(): OomScan;
}

/** Reads every line: for JSON and the like, and the measure of the fast way. */
export function createThorough(options: OomScanOptions): Engine {
  const lost: OomIncomplete[] = [];
  const reader = createReader((line, reason) => lost.push({ line, reason }));
  const scanner = createMatchedScanner(options);
  const feed = (records: KmsgRecord[]): OomKill[] => {
    const kills: OomKill[] = [];
    for (const record of records) for (const kill of scanner.push(record)) kills.push(kill);
    return kills;
  };
  let room: Uint8Array | null = null;
  return {
    push: (bytes, decoded) => feed(reader.push(bytes, decoded)),
    fill(read) {
      room ??= new Uint8Array(PIECE);
      const size = read(room);
      return { size, kills: size === 0 ? [] : feed(reader.push(room.subarray(0, size))) };
    },
    pass: () => false,
    end() {
      const kills = feed(reader.end());
      const scan = scanner.end();
      scan.kills.unshift(...kills);
      scan.incomplete.push(...lost);
      scan.incomplete.sort((a, b) => a.line - b.line);
      return scan;
    },
  };
}

const CAPACITY = 786_432;
// How far beyond a place the finder looks.
const AHEAD = 8;
// A line before a candidate may hold the prefix of a wrapped record: so long at most, and two of them are kept.
const PREVIOUS = 500;
const CONTEXT = 2 * (PREVIOUS + 1);
const NEWLINE = 10;
// What the finder's places begin with: k, K, O, M, T.
const FIRST = [107, 75, 79, 77, 84];

/** Passes over lines without reading them, unless they may matter to the reader or the scanner: these it reads in order. */
function createFast(options: OomScanOptions): Engine {
  const details = options.details === true;
  const finder = createFinder(CAPACITY);
  const bytes = finder.bytes;
  const capacity = Math.min(bytes.length - MARGIN, CAPACITY);
  const toText = decoderOf(bytes);
  const scanner = createMatchedScanner(options);
  let kills: OomKill[] = [];
  let told = false;
  const reader = createLineReader((record, found) => {
    for (const kill of scanner.push(record, found)) {
      kills.push(kill);
      told = true;
    }
  }, before);
  // [base, end) holds text; up to `at` it is searched.
  let base = 0;
  let at = 0;
  let end = 0;
  // What stands at `base` is the rest of a line too long to be kept.
  let inside = false;
  // Lines passed without the finder.
  let extra = 0;
  // Where the line being read begins.
  let reading = 0;
  // Lines to be read whatever they hold.
  let follow = details ? HEAD_LINES : 0;

  /** Number of the line at the place searched last. */
  const lineNumber = (): number => finder.lines() + extra + 1;

  function feed(from: number, to: number, number: number): void {
    reading = from;
    reader.line(toText(from, Math.min(to, from + MAX_LINE)), number);
  }

  /** A short line `distance` lines before the one being read. */
  function before(distance: number): string | null {
    let from = reading;
    let to = from;
    for (let i = 0; i < distance; i++) {
      if (from === base) return null;
      to = from - 1;
      from = to;
      while (from > base && bytes[from - 1] !== NEWLINE) if (to - --from > PREVIOUS) return null;
      if (from === base && inside) return null;
    }
    return toText(from, to);
  }

  /** Lines to be read after the one just read. With details: all of a report, and those after a kill, for the reaper. */
  function stillWanted(number: number): number {
    const wanted = !details ? 0 : told ? TAIL_LINES : scanner.isOpen(number) ? 1 : 0;
    told = false;
    return Math.max(wanted, reader.waiting() ? 1 : 0);
  }

  function run(final: boolean): void {
    // Where too little is there to decide on, both leave `at` at the place; it is found again when there is more.
    while (follow > 0 ? readNext(final) : findNext(final));
  }

  /** Reads the line at `at`; false where its end is not there yet. */
  function readNext(final: boolean): boolean {
    let stop = at;
    while (stop < end && bytes[stop] !== NEWLINE) stop++;
    if (stop === end && ((!final && end - at < MAX_LINE) || at === end)) return false;
    const number = lineNumber();
    feed(at, stop, number);
    if (stop === end) {
      leaveLine();
      return true;
    }
    at = stop + 1;
    extra++;
    follow = Math.max(follow - 1, scanner.wants(number), stillWanted(number));
    return true;
  }

  /** Looks for a line that may matter and reads it; false where there is none yet. */
  function findNext(final: boolean): boolean {
    const limit = final ? end : Math.max(at, end - AHEAD);
    const hit = finder.find(at, limit);
    if (hit === -1) {
      at = limit;
      return false;
    }
    at = hit;
    let to = hit;
    if (!final && end - hit < LOOK) {
      while (to < end && bytes[to] !== NEWLINE) to++;
      if (to === end) return false;
    }
    const found = candidateAt(bytes, hit, Math.max(base, hit - LOOK));
    if (found === 0 || (found === 2 && !scanner.isOpen(0))) {
      at = hit + 1;
      return true;
    }
    let start = hit;
    const floor = Math.max(base, hit - MAX_LINE);
    while (start > floor && bytes[start - 1] !== NEWLINE) start--;
    while (to < end && bytes[to] !== NEWLINE) to++;
    if ((start === base && inside) || hit - start >= MAX_LINE) {
      // So far into a line no record begins: on to its end, lest each place in it is looked at from its start.
      at = Math.min(to, limit);
      return true;
    }
    if (to === end && !final && end - start < MAX_LINE) return false;
    const number = lineNumber();
    let wanted = -1;
    if (found === 2) {
      wanted = stackLines(to, final);
      if (wanted === -1) return false;
      // Of a stack frame it is enough to know where it is.
      if (finder.find(hit + 1, to) !== -1 || !isPlainFrame(start, hit) || !scanner.frame(number))
        feed(start, to, number);
    } else feed(start, to, number);
    wanted = Math.max(wanted === -1 ? scanner.wants(number) : wanted, stillWanted(number));
    at = to;
    if (to === end) leaveLine();
    else if (wanted > 0) {
      at = to + 1;
      extra++;
      follow = wanted;
    }
    return true;
  }

  /** `at` and all before it are done with; a line that is not over goes on. */
  function leaveLine(): void {
    at = end;
    base = end;
    inside = true;
    follow = 0;
  }

  /** Whether only a timestamp and blanks stand before a stack frame: then its line is a record of the kernel, and nothing else. */
  function isPlainFrame(start: number, hit: number): boolean {
    if (bytes[start] !== 91) return false;
    let i = start + 1;
    while (bytes[i] === 32 || bytes[i] === 46 || (bytes[i]! >= 48 && bytes[i]! <= 57)) i++;
    if (bytes[i] !== 93 || i - start < 9 || bytes[i - 7] !== 46) return false;
    for (i++; bytes[i] === 32; i++);
    // oom_kill_process
    return i === hit - 4 && bytes[i] === 111;
  }

  /** How many of the lines behind a stack frame are to be read to know whether a limit was written; -1 where they are not there yet. */
  function stackLines(from: number, final: boolean): number {
    let wanted = 0;
    let line = 1;
    for (let i = from + 1; i < end; i++) {
      const code = bytes[i];
      if (code === NEWLINE) {
        if (++line > FRAME_WINDOW) return wanted;
      } else if (code === 95 && line > wanted) {
        // _max_write, _resize_
        const next = bytes[i + 1];
        if (
          (next === 119 && bytes[i + 2] === 114 && bytes[i + 3] === 105) ||
          (next === 114 && bytes[i + 2] === 101 && bytes[i + 3] === 115)
        )
          wanted = line;
      }
    }
    return final || end - from > MAX_LINE ? wanted : -1;
  }

  /** Makes room: keeps the line that is being searched and two short ones before it. */
  function compact(): void {
    let keep = bytes.subarray(base, at).lastIndexOf(NEWLINE) + 1 + base;
    if (at - keep > MAX_LINE) {
      // A line that grows past all bounds: only its beginning could have been a record.
      keep = at;
      inside = true;
    } else if (keep > base) {
      let from = Math.max(base, keep - CONTEXT);
      if (from > base) {
        while (bytes[from - 1] !== NEWLINE) from++;
        inside = false;
      }
      keep = from;
    }
    bytes.copyWithin(0, keep, end);
    at -= keep;
    end -= keep;
    base = 0;
  }

  function take(): OomKill[] {
    const done = kills;
    kills = [];
    return done;
  }

  return {
    push(chunk) {
      for (let from = 0; from < chunk.length;) {
        if (end + PIECE > capacity) compact();
        const piece = Math.min(PIECE, chunk.length - from, capacity - end);
        bytes.set(chunk.subarray(from, from + piece), end);
        end += piece;
        from += piece;
        run(false);
      }
      return take();
    },
    fill(read) {
      if (end + PIECE > capacity) compact();
      const size = read(bytes.subarray(end, end + PIECE));
      end += size;
      run(false);
      return { size, kills: take() };
    },
    pass(lines) {
      // Lines are wanted whatever they hold, or what was found is not decided on.
      if (follow > 0 || end - at > AHEAD) return false;
      // One that begins in the last bytes would go on in what is passed.
      if (FIRST.some((code) => bytes.subarray(at, end).includes(code))) return false;
      for (; at < end; at++) if (bytes[at] === NEWLINE) extra++;
      extra += lines;
      [base, at, end] = [0, 0, 0];
      // Maybe a line's beginning was passed. Longer ones than what was passed are no record.
      inside = true;
      return true;
    },
    end() {
      // Nothing of an earlier chunk may stand behind the end.
      bytes.fill(0, end, Math.min(bytes.length, end + LOOK * 2));
      run(true);
      reader.flush();
      const last = take();
      const scan = scanner.end();
      scan.kills.unshift(...last);
      return scan;
    },
  };
}

/** Text of a range of the buffer; Node's Buffer is three times as fast on short lines. */
function decoderOf(bytes: Uint8Array): (from: number, to: number) => string {
  const node = (
    globalThis as {
      Buffer?: {
        from(
          buffer: ArrayBufferLike,
          offset: number,
          length: number,
        ): { toString(encoding: string, from: number, to: number): string };
      };
    }
  ).Buffer;
  if (node !== undefined) {
    const view = node.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return (from, to) => view.toString("utf8", from, to);
  }
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return (from, to) => decoder.decode(bytes.subarray(from, to));
}
