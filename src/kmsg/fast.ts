import { MARGIN, createFinder } from "./find.ts";
import { MAX_LINE, createLineReader, createLogReader, modeOf } from "./read.ts";
import { PIECE_LINES, createMatchedScanner, createOomScanner } from "./scan.ts";
import type { KmsgRecord, OomKill, OomScan, OomScanOptions } from "./types.ts";

/** Whole text or chunks in, scan out. Reads only lines that may hold a record of the OOM killer; with details, also those of a report. */
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
  let engine: { push(bytes: Uint8Array): OomKill[]; end(): OomScan } | null = null;
  let start: Uint8Array = new Uint8Array(0);
  const encoder = new TextEncoder();
  let surrogate = "";

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
    );
  }

  return {
    push(chunk) {
      if (typeof chunk !== "string") return engine === null ? choose(chunk, false) : engine.push(chunk);
      const kills: OomKill[] = [];
      // Pieces, so that a long text is not held twice.
      for (let at = 0; at < chunk.length; at += PIECE) {
        const bytes = bytesOf(chunk.slice(at, at + PIECE));
        for (const kill of engine === null ? choose(bytes, false) : engine.push(bytes)) kills.push(kill);
      }
      return kills;
    },
    end() {
      const kills = engine === null ? choose(encoder.encode(surrogate), true) : engine.push(encoder.encode(surrogate));
      const scan = engine!.end();
      scan.kills.unshift(...kills);
      return scan;
    },
  };
}

const PIECE = 131_072;

/** Every line read. */
function createThorough(options: OomScanOptions): { push(bytes: Uint8Array): OomKill[]; end(): OomScan } {
  const reader = createLogReader();
  const scanner = createOomScanner(options);
  const feed = (records: KmsgRecord[]): OomKill[] => {
    const kills: OomKill[] = [];
    for (const record of records) for (const kill of scanner.push(record)) kills.push(kill);
    return kills;
  };
  return {
    push: (bytes) => feed(reader.push(bytes)),
    end() {
      const kills = feed(reader.end());
      const scan = scanner.end();
      scan.kills.unshift(...kills);
      return scan;
    },
  };
}

const CAPACITY = 786_432;
// What may follow a place that is found, to tell whether it is worth a look.
const LOOK = 40;
// The callers of oom_kill_process() in a stack: eight lines.
const STACK_LINES = 8;
const STACK_BYTES = 2048;
// With details: a report whose head was cut off stands at the start of a log ...
const HEAD_LINES = 500;
// ... and the reaper's record comes soon after the kill.
const TAIL_LINES = 64;
// "System is deadlocked on memory" comes right after the report that found no victim.
const PANIC_LINES = 3;
// A line before that may hold nothing but the prefix of a wrapped record.
const PREVIOUS = 512;

interface Decoding {
  decode(bytes: Uint8Array): string;
}

function createFast(options: OomScanOptions): { push(bytes: Uint8Array): OomKill[]; end(): OomScan } {
  const finder = createFinder(CAPACITY);
  const bytes = finder.bytes;
  const capacity = Math.min(bytes.length - MARGIN, CAPACITY);
  const toText = decoderOf(bytes);
  const scanner = createMatchedScanner(options);
  let kills: OomKill[] = [];
  const reader = createLineReader((record, found) => {
    for (const kill of scanner.push(record, found)) {
      kills.push(kill);
      told = true;
    }
  });
  let told = false;
  // [base, end) holds text; up to `at` it is searched.
  let base = 0;
  let at = 0;
  let end = 0;
  // Lines consumed without the finder.
  let extra = 0;
  let lastFed = 0;
  // Lines to be read in full whatever they hold: a record waits for them, or a panic may follow.
  let follow = options.details === true ? HEAD_LINES : 0;
  // `base` lies within a line too long to be kept.
  let inside = false;

  /** Lines to be read after the one just read. With details: all of a report, and those after a kill, for the reaper. */
  function stillWanted(): number {
    const wanted = options.details !== true ? 0 : told ? TAIL_LINES : scanner.isOpen() ? 1 : 0;
    told = false;
    return Math.max(wanted, reader.waiting() ? 1 : 0);
  }

  /** Number of the line at the place searched last. */
  const lineNumber = (): number => finder.lines() + extra + 1;

  function feed(from: number, to: number, number: number): void {
    lastFed = number;
    reader.line(toText(from, Math.min(to, from + MAX_LINE)), number);
  }

  function run(final: boolean): void {
    for (;;) {
      if (follow > 0) {
        const stop = bytes.subarray(at, end).indexOf(10);
        if (stop === -1 && !final && end - at < MAX_LINE) return;
        if (stop === -1 && at === end) return;
        const to = stop === -1 ? end : at + stop;
        feed(at, to, lineNumber());
        follow = Math.max(follow - 1, stillWanted());
        if (stop === -1) {
          at = to;
          inside = true;
          follow = 0;
        } else {
          at = to + 1;
          extra++;
        }
        continue;
      }
      const limit = final ? end : Math.max(at, end - 4);
      const hit = finder.find(at, limit);
      if (hit === -1) {
        at = limit;
        return;
      }
      at = hit;
      if (!final && end - hit < STACK_BYTES + LOOK) {
        // Too little to decide on: the same place is found again when there is more, and its line is counted once.
        const enough = isSettled(hit);
        if (!enough) return;
      }
      const reach = classify(bytes, hit, Math.max(base, hit - LOOK), end);
      if (reach === 0) {
        at = hit + 1;
        continue;
      }
      let start = hit;
      const floor = Math.max(base, hit - MAX_LINE);
      while (start > floor && bytes[start - 1] !== 10) start--;
      if ((start === base && inside) || hit - start >= MAX_LINE) {
        // So far into a line no record begins: on to the next line, lest each place in it is looked at from its start.
        at = hit;
        while (at < limit && bytes[at] !== 10) at++;
        continue;
      }
      let to = hit;
      while (to < end && bytes[to] !== 10) to++;
      const stop = to === end ? -1 : to;
      if (stop === -1 && !final && end - start < MAX_LINE) return;
      const number = lineNumber();
      if (reach === 2) {
        // A stack frame: only what called it matters, and only seldom.
        if (options.details === true || !scanner.frame(number)) feed(start, to, number);
        lookForWrite(to, number);
      } else {
        if (start > base && lastFed < number - 1 && isBareStart(bytes, start, to) && endsOpen(bytes, start - 2)) {
          const previous = base + bytes.subarray(base, start - 1).lastIndexOf(10) + 1;
          if (start - 1 - previous <= PREVIOUS && (previous > base || !inside)) feed(previous, start - 1, number - 1);
        }
        feed(start, to, number);
      }
      at = to;
      const wanted = Math.max(reach === 3 ? PANIC_LINES : scanner.inPieces() ? PIECE_LINES : 0, stillWanted());
      if (wanted > 0 && stop !== -1) {
        at = to + 1;
        extra++;
        follow = wanted;
      } else if (stop === -1) inside = true;
    }
  }

  function isSettled(hit: number): boolean {
    return end - hit >= LOOK && classify(bytes, hit, Math.max(base, hit - LOOK), end) !== 2;
  }

  /** Feeds the frames near the one at `from` that show a limit being written. */
  function lookForWrite(from: number, number: number): void {
    let line = 0;
    let start = from + 1;
    const to = Math.min(end, from + STACK_BYTES);
    let found = false;
    for (let i = from + 1; i < to && line < STACK_LINES; i++) {
      const code = bytes[i]!;
      if (code === 10) {
        line++;
        if (found) feed(start, i, number + line);
        found = false;
        start = i + 1;
      } else if (code === 95 && !found) {
        // _max_write, _resize_
        found =
          (bytes[i + 1] === 119 && bytes[i + 2] === 114 && bytes[i + 3] === 105) ||
          (bytes[i + 1] === 114 && bytes[i + 2] === 101 && bytes[i + 3] === 115);
      }
    }
  }

  /** Makes room: keeps the unfinished line and the short one before it. */
  function compact(): void {
    let keep = bytes.subarray(base, at).lastIndexOf(10);
    keep = keep === -1 ? base : base + keep + 1;
    if (keep > base) {
      inside = false;
      const previous = bytes.subarray(base, keep - 1).lastIndexOf(10);
      const from = previous === -1 ? base : base + previous + 1;
      if (keep - from <= PREVIOUS + 1 && (previous !== -1 || base === from)) keep = from;
    }
    // A line that grows past all bounds: only its beginning could have been a record.
    if (at - keep > MAX_LINE + PREVIOUS + 1) {
      keep = at;
      inside = true;
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
  const decoder: Decoding = new TextDecoder("utf-8", { ignoreBOM: true });
  return (from, to) => decoder.decode(bytes.subarray(from, to));
}

/** Whether the bytes at `at` are `text`, up to a colour code in between. */
function isText(bytes: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text.charCodeAt(i)) return bytes[at + i] === 27;
  return true;
}

function isDigit(code: number | undefined): boolean {
  return code !== undefined && code >= 48 && code <= 57;
}

/** Whether the bytes at `at` are `text`, or as much of it as the line holds. */
function isTextOrCut(bytes: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = bytes[at + i];
    if (code !== text.charCodeAt(i)) return code === 27 || (i > 0 && (code === 10 || code === 13 || code === 0));
  }
  return true;
}

/** What a place that the finder found is: 0 nothing, 1 a record of the OOM killer perhaps, 2 a stack frame, 3 a report without a victim. */
function classify(bytes: Uint8Array, hit: number, floor: number, end: number): 0 | 1 | 2 | 3 {
  const first = bytes[hit];
  const next = bytes[hit + 4];
  if (first === 75) {
    if (!mayPrecede(bytes, hit, floor)) return 0;
    // Killed process N | Kill process N
    if (next === 101) {
      if (!isTextOrCut(bytes, hit + 4, "ed process ")) return 0;
      const pid = bytes[hit + 15];
      return isDigit(pid) ? (afterPid(bytes, hit + 16, end) ? 1 : 0) : isLineEnd(bytes, hit + 6, 9) ? 1 : 0;
    }
    if (next !== 32 || !isTextOrCut(bytes, hit + 4, " process ")) return 0;
    return isDigit(bytes[hit + 13]) ? (afterPid(bytes, hit + 14, end) ? 1 : 0) : isLineEnd(bytes, hit + 4, 9) ? 1 : 0;
  }
  if (first === 79) {
    if (bytes[hit + 1] === 79) return isText(bytes, hit + 3, " exec") ? 1 : 0;
    return isText(bytes, hit + 4, "of memory: ") && (bytes[hit + 15] === 99 || bytes[hit + 15] === 115) ? 1 : 0;
  }
  const before = hit > floor ? bytes[hit - 1] : 0;
  if (before === 45) {
    // oom-kill:constraint= | oom-killer: gfp_mask=
    if (next === 58) return isTextOrCut(bytes, hit + 4, ":constraint=") ? 1 : 0;
    return next === 101 && isTextOrCut(bytes, hit + 4, "er: gfp_mask=0x") ? 1 : 0;
  }
  if (before === 95) {
    if (next !== 95 || !isText(bytes, hit + 5, "process")) return 0;
    const after = bytes[hit + 12];
    return after === 58 ? 1 : after === 43 || after === 46 ? 2 : 0;
  }
  if (before !== 32) return 0;
  switch (next) {
    case 101:
      // killed as a result of limit of | killed due to memory.oom.group
      return isTextOrCut(bytes, hit + 4, "ed as a r") || isTextOrCut(bytes, hit + 4, "ed due to m") ? 1 : 0;
    case 97:
      return isText(bytes, hit + 5, "ble proc") ? 3 : 0;
    case 105:
      return isText(bytes, hit + 5, "ng the task") ? 1 : 0;
    case 32:
      return isText(bytes, hit + 5, "process ") && isDigit(bytes[hit + 13]) ? 1 : 0;
    default:
      return 0;
  }
}

/** Whether the bytes before a kill line can end a prefix: "] ", "kernel: ", "out of memory: ", "-;", "<3>", '"msg":"', a date. */
function mayPrecede(bytes: Uint8Array, hit: number, floor: number): boolean {
  if (hit <= floor) return true;
  const last = bytes[hit - 1]!;
  // A letter, a bracket or a quotation mark before it: part of somebody's sentence.
  if (last !== 32)
    return (
      last === 10 ||
      last === 59 ||
      last === 62 ||
      last === 9 ||
      last === 13 ||
      last === 124 ||
      last === 61 ||
      last === 58 ||
      last === 109 ||
      last === 93 ||
      (last === 34 && hit - 2 > floor && (bytes[hit - 2] === 58 || (bytes[hit - 2] === 32 && bytes[hit - 3] === 58)))
    );
  if (hit - 1 <= floor) return true;
  const code = bytes[hit - 2]!;
  if (code === 58) {
    // "memory: ", "cpuset: ", "kernel: ", "task): ", "kernel[1]: ", "err   : "
    const word = hit - 2 > floor ? bytes[hit - 3]! : 0;
    return word === 121 || word === 116 || word === 108 || word === 41 || word === 93 || word === 32 || word === 0;
  }
  return (
    !(code >= 97 && code <= 122) &&
    !(code >= 65 && code <= 90 && code !== 90 && code !== 70 && code !== 80) &&
    code !== 34 &&
    code !== 40
  );
}

/** Whether the line ends within `reach` bytes from `at`. */
function isLineEnd(bytes: Uint8Array, at: number, reach: number): boolean {
  for (let i = at; i <= at + reach; i++) if (bytes[i] === 10 || bytes[i] === 13 || bytes[i] === 0) return true;
  return false;
}

/** Whether a line ends as one that has nothing after its prefix. */
function endsOpen(bytes: Uint8Array, last: number): boolean {
  const code = bytes[bytes[last] === 13 ? last - 1 : last];
  return code === 32 || code === 93 || code === 58;
}

/** After the pid comes the name in parentheses, RHEL's UID, or the end of a cut line. */
function afterPid(bytes: Uint8Array, from: number, end: number): boolean {
  let at = from;
  while (at < end && isDigit(bytes[at])) at++;
  if (at >= end) return true;
  const code = bytes[at];
  return (
    code === 10 ||
    code === 13 ||
    code === 44 ||
    (code === 32 &&
      (at + 1 >= end || bytes[at + 1] === 40 || bytes[at + 1] === 10 || bytes[at + 1] === 13 || bytes[at + 1] === 91))
  );
}

/** Whether a line may have no prefix: it belongs to the line before, perhaps. */
function isBareStart(bytes: Uint8Array, from: number, to: number): boolean {
  let at = from;
  while (at < to && (bytes[at] === 32 || bytes[at] === 62 || bytes[at] === 124 || bytes[at] === 9)) at++;
  const code = bytes[at] ?? 0;
  return (code >= 65 && code <= 90) || (code >= 97 && code <= 122) || code === 40;
}
