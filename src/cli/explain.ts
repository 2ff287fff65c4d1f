/** `oomlab explain`: reads a kernel log, tells every OOM kill in it as it is read. */
import { spawn } from "node:child_process";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { Duplex } from "node:stream";
import { setFlagsFromString } from "node:v8";
import { createGunzip } from "node:zlib";
import type { Streams } from "../api.ts";
import { openOutputs } from "../api/outputs.ts";
import { OomlabError } from "../errors.ts";
import { loadAddon, type LogSurvey } from "../native.ts";
import { classicLines, createLogScanner, explainKill, type OomKill, type OomScan } from "../kmsg/index.ts";
import { printable } from "../printable.ts";
import { announce, type Output } from "../report/index.ts";

const chunkSize = 256 * 1024;

/** A form of the explanation; what it writes leaves at `flush`. */
interface LogReport {
  /** The log could be read. */
  onStart(): void;
  /** `number` counts from 1. */
  onKill(kill: OomKill, number: number): void;
  onEnd(scan: OomScan, kills: number): void;
  flush(): void;
  /** Whether something was written since it was asked last. */
  wrote(): boolean;
}

export async function explain(
  file: string,
  flags: { reporter: string[]; format: string; details?: boolean },
  streams: Streams,
): Promise<number> {
  // What is read is soon done with: a heap that stays small keeps memory low, and in the cache.
  setFlagsFromString("--semi-space-growth-factor=1");
  setFlagsFromString("--heap-growing-percent=10");
  const withDetails = flags.details === true;
  const { outputs, close } = openOutputs(flags.reporter, ["terminal", "json"], streams, { inputs: [file] });
  const reports = outputs.map(({ name, output }) =>
    name === "json" ? jsonReport(output, withDetails) : textReport(output, flags.format === "classic"),
  );
  let lost = false;
  const tell = (call: (report: LogReport) => void): void =>
    announce(
      reports,
      (message) => {
        lost = true;
        streams.stderr.write(`oomlab: ${message}\n`);
      },
      call,
    );
  // Sentences are made of the details.
  const scanner = createLogScanner({ details: withDetails || outputs.some(({ name }) => name === "terminal") });
  let told = 0;
  const print = (kill: OomKill): void => {
    told++;
    tell((report) => report.onKill(kill, told));
  };
  // The records behind a kill (a group kill's title, the reaper's line) may still add to the last one.
  let last: OomKill | undefined;
  const take = (found: readonly OomKill[]): void => {
    for (const kill of found) {
      if (last) print(last);
      last = kill;
    }
  };
  const flush = (): void => tell((report) => report.flush());
  let opened = false;
  const open = (): void => {
    if (!opened) tell((report) => report.onStart());
    opened = true;
  };
  try {
    await readLog(file, {
      push(chunk) {
        open();
        take(scanner.push(chunk));
        flush();
      },
      fill(read) {
        const { size, kills } = scanner.fill(read);
        take(kills);
        flush();
        return size;
      },
      pass: (lines) => scanner.pass(lines),
      wrote: () => reports.some((report) => report.wrote()),
    }).catch((error: unknown) => {
      throw unreadable(file, error as Error);
    });
    open();
    const scan = scanner.end();
    take(scan.kills);
    if (last) print(last);
    tell((report) => report.onEnd(scan, told));
    flush();
    return lost ? 3 : 0;
  } finally {
    close();
  }
}

function unreadable(file: string, cause: Error): OomlabError {
  const name = file === "-" ? "on standard input" : file === "" ? '""' : file;
  return new OomlabError("LOG_UNREADABLE", `the log ${name} cannot be read: ${cause.message}`, { exitCode: 2, cause });
}

function jsonReport(output: Output, details: boolean): LogReport {
  const { write, flush, wrote } = gathered(output);
  let kills = 0;
  return {
    onStart: () => write('{ "kills": ['),
    onKill: (kill) => write(`${kills++ === 0 ? "\n" : ",\n"}${JSON.stringify(killJson(kill, details))}`),
    onEnd: ({ incomplete }) => write(`${kills === 0 ? "" : "\n"}], "incomplete": ${JSON.stringify(incomplete)} }\n`),
    flush,
    wrote,
  };
}

/** `classicWords`: those of kernels 4.6 to 5.0. */
function textReport(output: Output, classicWords: boolean): LogReport {
  const { write, flush, wrote } = gathered(output);
  return {
    onStart: () => undefined,
    onKill: (kill, number) => write(classicWords ? classic(kill, number === 1) : words(kill, number)),
    onEnd({ incomplete, noVictim, panics, suppressed }, kills) {
      for (const { line, reason } of incomplete)
        write(`line ${line}: an OOM report that is not complete: ${printable(reason)}\n`);
      for (const { line } of noVictim)
        write(`line ${line}: the OOM killer ran and found no process that it may kill\n`);
      for (const { line, text } of panics) write(`line ${line}: the kernel panicked: ${printable(text)}\n`);
      if (suppressed > 0) write(`the kernel's rate limit took the head of ${suppressed} OOM report(s)\n`);
      if (kills === 0) write("no OOM kill in this log\n");
    },
    flush,
    wrote,
  };
}

/** Where a log goes: in chunks, each valid until the next, or read right into the buffer that is searched. */
interface Sink {
  push(chunk: Uint8Array): void;
  fill(read: (into: Uint8Array) => number): number;
  /** Takes lines as read that hold nothing, if it can. */
  pass(lines: number): boolean;
  /** Whether something was written since it was asked last. */
  wrote(): boolean;
}

/** Reads a log to its end; gzip and zstd are unpacked. */
async function readLog(file: string, sink: Sink): Promise<void> {
  const fd = file === "-" ? 0 : openSync(file, "r");
  try {
    const buffer = Buffer.allocUnsafe(chunkSize);
    const first = readChunk(fd, buffer);
    const packed = first >= 4 ? buffer.readUInt32BE(0) : 0;
    refuseOtherThanText(buffer.subarray(0, first));
    if (packed >>> 16 === 0x1f8b) return await unpack(createGunzip(), fd, buffer, first, (chunk) => sink.push(chunk));
    if (packed === 0x28b52ffd) return await unpack(zstd(), fd, buffer, first, (chunk) => sink.push(chunk));
    const survey = startSurvey(fd, first);
    let at: number | null = null;
    try {
      if (first > 0) sink.push(buffer.subarray(0, first));
      // From then on it is read by place: the search has moved nothing.
      if (survey !== null) at = await readSurveyed(fd, first, survey, sink);
    } finally {
      survey?.close();
    }
    for (;;) {
      const size = sink.fill((into) => readChunk(fd, into, at));
      if (size === 0) break;
      if (at !== null) at += size;
      if (sink.wrote()) await written();
    }
  } finally {
    if (fd !== 0) closeSync(fd);
  }
}

/** A piece of a file that is passed as a whole or read; at least 64 KiB, as `pass` wants them. */
const blockSize = 128 * 1024;
/** So many in a row that hold something: of such a log nothing is passed, and the search only takes time. */
const busyBlocks = 256;
/** Below this, loading the addon takes longer. */
const worthIt = 128 * blockSize;

/** A native search in a file, under way, that says which blocks of it may be passed; null where there is none. */
function startSurvey(fd: number, from: number): LogSurvey | null {
  const stat = fstatSync(fd);
  if (fd === 0 || !stat.isFile() || stat.size - from < worthIt) return null;
  try {
    const blocks = Math.floor((stat.size - from) / blockSize);
    return loadAddon().survey(fd, from, blocks, blockSize, 0);
  } catch {
    // Without the addon the log is read without.
    return null;
  }
}

/** Reads the blocks that were surveyed, from `from` on; where it left off. */
async function readSurveyed(fd: number, from: number, survey: LogSurvey, sink: Sink): Promise<number> {
  let at = from;
  const read = (into: Uint8Array): number => readSync(fd, into, 0, Math.min(into.length, end - at), at);
  let end = at;
  const blocks = blocksOf(survey);
  let busy = 0;
  for (let step = blocks.next(); !step.done;) {
    const lines = step.value;
    step = blocks.next();
    end = at + blockSize;
    // A record may have begun in the block before it.
    if (lines >= 0 && !step.done && step.value >= 0 && sink.pass(lines)) at = end;
    while (at < end) {
      const size = sink.fill(read);
      // It has been cut meanwhile.
      if (size === 0) return at;
      at += size;
    }
    if (sink.wrote()) await written();
    busy = lines < 0 ? busy + 1 : 0;
    if (busy === busyBlocks) return at;
  }
  return at;
}

function* blocksOf(survey: LogSurvey): Generator<number, void> {
  for (;;) {
    const found = survey.next();
    if (found.length === 0) return;
    yield* found;
  }
}

/** A stream keeps what was written to it until the event loop has had its turn. */
const written = (): Promise<void> => new Promise((done) => setImmediate(done));

/** A packed or binary file holds no log that could be read, so it must not be told as one without kills. */
function refuseOtherThanText(start: Buffer): void {
  const kinds: [string, string][] = [
    ["fd377a585a", "xz: unpack it with `xz -dc FILE | oomlab explain`"],
    ["425a68", "bzip2: unpack it with `bzip2 -dc FILE | oomlab explain`"],
    ["7f454c46", "an ELF file"],
  ];
  const hex = start.toString("hex", 0, 8);
  const kind = kinds.find(([magic]) => hex.startsWith(magic));
  if (kind) throw new Error(`it is ${kind[1]}`);
  if (hex.startsWith("1f8b") || hex.startsWith("28b52ffd")) return;
  const sample = start.subarray(0, 4096);
  // Logs hold NULs after a crash and escapes of colours; no text holds many other control characters.
  const odd = sample.filter(
    (byte) => (byte > 0 && byte < 9) || (byte > 13 && byte < 27) || (byte > 27 && byte < 32),
  ).length;
  if (odd > 8 && odd > sample.length * 0.03) throw new Error("it is not text");
}

function readChunk(fd: number, buffer: Uint8Array, position: number | null = null): number {
  for (;;) {
    try {
      return readSync(fd, buffer, 0, buffer.length, position);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EOF") return 0;
      // A non-blocking terminal or pipe that has nothing yet.
      if (code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
  }
}

/** Node 20 has no zstd: the tool unpacks. */
function zstd(): Duplex {
  const child = spawn("zstd", ["-dcq"], { stdio: ["pipe", "pipe", "inherit"] });
  const duplex = Duplex.from({ writable: child.stdin, readable: child.stdout });
  child.on("error", (error) => duplex.destroy(new Error(`unpacking it needs the program zstd (${error.message})`)));
  return duplex;
}

async function unpack(
  unpacker: Duplex,
  fd: number,
  buffer: Buffer,
  first: number,
  push: (chunk: Uint8Array) => void,
): Promise<void> {
  const ended = new Promise<void>((resolve, reject) => {
    unpacker.on("data", push);
    unpacker.on("end", resolve);
    unpacker.on("error", reject);
  });
  for (let size = first; size > 0; size = readChunk(fd, buffer)) {
    // The unpacker keeps what it is given; the buffer is used again.
    const taken = unpacker.write(Buffer.from(buffer.subarray(0, size)));
    if (!taken) await Promise.race([new Promise((resolve) => unpacker.once("drain", resolve)), ended]);
  }
  unpacker.end();
  await ended;
}

/** Writes what one chunk of the log told in one go. */
function gathered(output: Output): { write(text: string): void; flush(): void; wrote(): boolean } {
  let text = "";
  let wrote = false;
  const flush = (): void => {
    if (text === "") return;
    output.write(text);
    text = "";
    wrote = true;
  };
  return {
    write(more) {
      text += more;
      if (text.length > chunkSize) flush();
    },
    flush,
    wrote() {
      const before = wrote;
      wrote = false;
      return before;
    },
  };
}

function classic(kill: OomKill, first: boolean): string {
  const head = first ? "# rendered in the words of kernels 4.6 to 5.0: not the kernel's own text\n" : "";
  return `${head}${classicLines(kill)
    .map((line) => `${printable(line)}\n`)
    .join("")}`;
}

function words(kill: OomKill, number: number): string {
  const sentences = explainKill(kill).map((sentence) => `  ${printable(sentence)}\n`);
  return `${number === 1 ? "" : "\n"}OOM kill ${number} (line ${kill.line})\n${sentences.join("")}`;
}

/** The kill object of the JSON report; a log alone knows no scenario. */
function killJson(
  { kind, constraint, trigger, oomMemcg, taskMemcg, group, victim, line, missing, details }: OomKill,
  withDetails: boolean,
): unknown {
  return {
    kind,
    constraint,
    trigger,
    oomMemcg,
    taskMemcg,
    group,
    limit: null,
    process: null,
    witnesses: ["kmsg"],
    victim,
    line,
    missing,
    ...(withDetails && details ? { details } : {}),
  };
}
