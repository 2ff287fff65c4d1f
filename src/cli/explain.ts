/** `oomlab explain`: reads a kernel log, tells every OOM kill in it as it is read. */
import { spawn } from "node:child_process";
import { closeSync, openSync, readSync } from "node:fs";
import { Duplex, PassThrough } from "node:stream";
import { setFlagsFromString } from "node:v8";
import { createGunzip } from "node:zlib";
import type { Streams } from "../api.ts";
import { openOutputs } from "../api/outputs.ts";
import { OomlabError } from "../errors.ts";
import { classicLines, createLogScanner, explainKill, type OomKill, type OomScan } from "../kmsg/index.ts";
import { printable } from "../printable.ts";
import { announce, type Output } from "../report/index.ts";

const chunkSize = 256 * 1024;

/** A form of the explanation; what it writes leaves at `flush`. */
interface LogReport {
  /** The first log can be read. */
  onStart(): void;
  onKill(kill: OomKill, file: string): void;
  /** What else a log shows, after its kills. */
  onLogEnd(scan: OomScan, file: string): void;
  onEnd(): void;
  flush(): void;
  /** Whether something was written since it was asked last. */
  wrote(): boolean;
}

export async function explain(
  files: string[],
  flags: { reporter: string[]; format: string; details?: boolean },
  streams: Streams,
): Promise<number> {
  // What is read is soon done with: a heap that stays small keeps memory low, and in the cache.
  setFlagsFromString("--semi-space-growth-factor=1");
  setFlagsFromString("--heap-growing-percent=10");
  const withDetails = flags.details === true;
  const { outputs, close } = openOutputs(flags.reporter, ["terminal", "json"], streams, { inputs: files });
  const reports = outputs.map(({ name, output }) =>
    name === "json" ? jsonReport(output, files, withDetails) : textReport(output, files, flags.format === "classic"),
  );
  let lost = false;
  const show = (call: (report: LogReport) => void): void =>
    announce(
      reports,
      (message) => {
        lost = true;
        streams.stderr.write(`oomlab: ${message}\n`);
      },
      call,
    );
  const flush = (): void => show((report) => report.flush());
  let opened = false;
  const open = (): void => {
    if (!opened) show((report) => report.onStart());
    opened = true;
  };
  try {
    for (const file of files) {
      // Sentences are made of the details.
      const scanner = createLogScanner({ details: withDetails || outputs.some(({ name }) => name === "terminal") });
      // The records behind a kill (a group kill's title, the reaper's line) may still add to the last one.
      let last: OomKill | undefined;
      const print = (kill: OomKill): void => show((report) => report.onKill(kill, file));
      const take = (found: readonly OomKill[]): void => {
        for (const kill of found) {
          if (last) print(last);
          last = kill;
        }
      };
      await readLog(file, {
        push(chunk) {
          open();
          take(scanner.push(chunk));
          flush();
        },
        wrote: () => reports.some((report) => report.wrote()),
      }).catch((error: unknown) => {
        throw unreadable(file, error as Error);
      });
      open();
      const scan = scanner.end();
      take(scan.kills);
      if (last) print(last);
      show((report) => report.onLogEnd(scan, file));
    }
    show((report) => report.onEnd());
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

function jsonReport(output: Output, files: readonly string[], details: boolean): LogReport {
  const { write, flush, wrote } = gathered(output);
  const all = {
    incomplete: [] as object[],
    suppressed: 0,
    noVictim: [] as object[],
    panics: [] as object[],
    others: [] as object[],
  };
  const named = (file: string): { file?: string } => (files.length > 1 ? { file } : {});
  let printed = 0;
  return {
    onStart: () => write('{ "kills": ['),
    onKill: (kill, file) =>
      write(`${printed++ === 0 ? "\n" : ",\n"}${JSON.stringify({ ...named(file), ...killJson(kill, details) })}`),
    onLogEnd(scan, file) {
      all.suppressed += scan.suppressed;
      for (const key of ["incomplete", "noVictim", "panics", "others"] as const)
        for (const item of scan[key] ?? []) all[key].push({ ...named(file), ...item });
    },
    onEnd: () => write(`${printed === 0 ? "" : "\n"}], ${JSON.stringify(all).slice(1, -1)} }\n`),
    flush,
    wrote,
  };
}

/** `classicWords`: those of kernels 4.6 to 5.0. */
function textReport(output: Output, files: readonly string[], classicWords: boolean): LogReport {
  const { write, flush, wrote } = gathered(output);
  let [printed, headed] = [0, ""];
  let before: OomKill | undefined;
  const head = (file: string): void => {
    if (files.length > 1 && headed !== file) write(`${headed === "" ? "" : "\n"}${printable(file)}:\n`);
    headed = file;
  };
  return {
    onStart: () => undefined,
    onKill(kill, file) {
      head(file);
      write(classicWords ? classic(kill, printed === 0) : words(kill, printed + 1, before));
      before = kill;
      printed++;
    },
    onLogEnd({ incomplete, noVictim, panics, suppressed, others = [] }, file) {
      head(file);
      for (const { line, reason, comm, oomMemcg } of incomplete) {
        const victim = comm == null ? "" : `, ${comm}`;
        const limit = oomMemcg == null ? "" : `, for the limit of ${oomMemcg}`;
        write(`line ${line}: an OOM report that is not complete: ${printable(`${reason}${victim}${limit}`)}\n`);
      }
      for (const { line } of noVictim)
        write(`line ${line}: the OOM killer ran and found no process that it may kill\n`);
      for (const { line, text } of panics) write(`line ${line}: the kernel panicked: ${printable(text)}\n`);
      if (suppressed > 0) write(`the kernel's rate limit took the head of ${suppressed} OOM report(s)\n`);
      for (const { line, by, text } of others) write(`line ${line}: not the kernel, but ${by}: ${printable(text)}\n`);
      const reports = incomplete.length + noVictim.length + panics.length;
      if (before === undefined)
        write(reports === 0 ? "no OOM kill in this log\n" : "no OOM kill that this log shows whole: see above\n");
      before = undefined;
    },
    onEnd: () => undefined,
    flush,
    wrote,
  };
}

/** Where a log goes: in chunks, each valid until the next. */
interface Sink {
  push(chunk: Uint8Array): void;
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
    for (let size = first; size > 0; size = readChunk(fd, buffer)) {
      sink.push(buffer.subarray(0, size));
      if (sink.wrote()) await written();
    }
  } finally {
    if (fd !== 0) closeSync(fd);
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
    ["4c504b5348485248", "a binary journal: read it with `journalctl --file FILE -k | oomlab explain`"],
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

function readChunk(fd: number, buffer: Uint8Array): number {
  for (;;) {
    try {
      return readSync(fd, buffer, 0, buffer.length, null);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EOF") return 0;
      // A non-blocking terminal or pipe that has nothing yet.
      if (code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
  }
}

/** Node 20 has no zstd: the tool unpacks, and says of a damaged file what is wrong with it. */
function zstd(): Duplex {
  const child = spawn("zstd", ["-dcq"], { stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr.on("data", (text: Buffer) => (said += text.toString()));
  // The output ends whatever the status is: only a good one may end the log.
  const output = new PassThrough();
  child.stdout.pipe(output, { end: false });
  child.on("close", (code) => {
    if (code === 0) output.end();
    else duplex.destroy(new Error(said.trim() || `zstd ended with status ${code}`));
  });
  const duplex = Duplex.from({ writable: child.stdin, readable: output });
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
function gathered(output: Output): { write: (text: string) => void; flush: () => void; wrote: () => boolean } {
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

function words(kill: OomKill, number: number, before: OomKill | undefined): string {
  // Of a group the first is explained, the others are listed below it.
  if (kill.group && kill.constraint === null && before?.group === true && before.oomMemcg === kill.oomMemcg) {
    const { pid, comm, anonRss } = kill.victim;
    const held = anonRss === null ? "" : `, which held ${Math.round(anonRss / 1024)} KiB of anonymous memory`;
    return `  OOM kill ${number} (line ${kill.line}): with it died process ${pid} (${printable(comm)})${held}\n`;
  }
  const sentences = explainKill(kill).map((sentence) => `  ${printable(sentence)}\n`);
  return `${number === 1 ? "" : "\n"}OOM kill ${number} (line ${kill.line}${when(kill)})\n${sentences.join("")}`;
}

/** When a kill happened, as far as the log shows it. */
function when({ date, timeUs }: OomKill): string {
  const uptime = timeUs === null ? "" : `, ${(timeUs / 1e6).toFixed(1)} s after boot`;
  return `${date === null ? "" : `, ${printable(date)}`}${uptime}`;
}

/** The kill object of the JSON report; a log alone knows no scenario. */
function killJson(
  { kind, constraint, trigger, oomMemcg, taskMemcg, group, victim, line, timeUs, date, missing, details }: OomKill,
  withDetails: boolean,
): object {
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
    atMs: timeUs === null ? null : Math.round(timeUs / 1000),
    date,
    missing,
    ...(withDetails && details ? { details } : {}),
  };
}
