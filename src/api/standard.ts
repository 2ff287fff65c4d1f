/** Standard streams, opened when first needed, and what tells of them. */
import { fstatSync, readFileSync, writeSync } from "node:fs";
import { relative, resolve } from "node:path";
import { isatty } from "node:tty";
import { printable } from "../printable.ts";
import type { Streams } from "./streams.ts";
import { createWindow } from "./window.ts";

/**
 * This process's streams. From the first look at `signal` on, Ctrl-C and the like are told by it, so that what was made
 * is removed; before, and after `release`, they end the process as ever.
 */
export function standardStreams(): { streams: Streams; release: () => void } {
  const { env } = process;
  const terminal = isTerminal() && env["TERM"] !== "dumb";
  const forced = env["FORCE_COLOR"];
  // https://no-color.org: set, and not empty.
  const colors = forced === undefined || forced === "" ? terminal && !env["NO_COLOR"] : forced !== "0";
  const live = terminal && !env["CI"];
  const window = createWindow((text) => write("stdout", text));
  const interrupt = new AbortController();
  const abort = (signal: NodeJS.Signals): void => interrupt.abort(signal);
  let listening = false;
  const streams: Streams = {
    stdout: {
      write: (text) => window.above(() => write("stdout", text)),
      colors,
      get broken() {
        return gone.has("stdout");
      },
      ...(terminal
        ? {
            get size() {
              const { columns, rows } = process.stdout;
              return { columns: columns || 80, rows: rows || 24 };
            },
          }
        : {}),
      ...(live ? { live: (lines: readonly string[]) => window.draw(lines) } : {}),
    },
    stderr: { write: (text) => window.above(() => write("stderr", printableLines(text))) },
    stdin: async () => {
      let text = "";
      process.stdin.setEncoding("utf8");
      for await (const chunk of process.stdin) text += chunk as string;
      return text;
    },
    github: {
      ...(env["GITHUB_STEP_SUMMARY"] ? { summary: env["GITHUB_STEP_SUMMARY"] } : {}),
      fileName: (file) => inRepository(file, env["GITHUB_WORKSPACE"]),
      isRunner: env["GITHUB_ACTIONS"] === "true",
    },
    get signal() {
      if (!listening) for (const name of ending) process.on(name, abort);
      listening = true;
      return interrupt.signal;
    },
  };
  return {
    streams,
    release: () => {
      for (const name of ending) process.removeListener(name, abort);
    },
  };
}

/** Messages name files and scenarios, which may hold what a terminal obeys. */
export const printableLines = (text: string): string => text.split("\n").map(printable).join("\n");

const ending: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP"];

/** A file as GitHub names it: from the root of the checkout, where it lies below it. */
function inRepository(file: string, root: string | undefined): string {
  if (!root || file === "-") return file;
  const path = relative(root, resolve(file));
  return path === "" || path.startsWith("..") ? file : path;
}

/** Loading node:tty takes a tenth of a short command's time, and only a character device can be a terminal. */
function isTerminal(): boolean {
  try {
    return fstatSync(1).isCharacterDevice() && isatty(1);
  } catch {
    return false;
  }
}

/** Why something could not be written to a standard stream, or null. A reader that went away is none. */
let unwritten: string | null = null;
const gone = new Set<"stdout" | "stderr">();
const opened = new Set<NodeJS.WriteStream>();
/** Descriptors that are written to as they are: regular files. A stream for one costs a short command a tenth of its time. */
const files = new Map<number, boolean>();

/** Resolves, once all failed writes have been told of, to why the standard streams are incomplete, or null. */
export async function incomplete(): Promise<string | null> {
  // A stream tells of a failed write at the next turn.
  await new Promise(setImmediate);
  return unwritten;
}

/** Whether all that was written to the standard streams has left this process. */
export const isWritten = (): boolean => [...opened].every(({ writableLength }) => writableLength === 0);

function isFile(fd: number): boolean {
  let is = files.get(fd);
  if (is === undefined) {
    try {
      is = fstatSync(fd).isFile();
    } catch {
      is = false;
    }
    files.set(fd, is);
  }
  return is;
}

/** Writes to a standard stream. A reader that went away (`oomlab run | head`) or a closed terminal is no error of ours; a full disk is, told at the end. */
function write(name: "stdout" | "stderr", text: string): void {
  const failed = ({ code, message }: NodeJS.ErrnoException): void => {
    gone.add(name);
    if (code !== "EPIPE" && code !== "EIO") unwritten ??= message;
  };
  if (gone.has(name)) return;
  const fd = name === "stdout" ? 1 : 2;
  try {
    if (isFile(fd)) {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
      return;
    }
    const stream = process[name];
    if (!opened.has(stream)) {
      opened.add(stream);
      stream.on("error", failed);
      if (name === "stdout" && wasClosed(1))
        write("stderr", "oomlab: standard output is closed, or /dev/null: what would stand there is lost\n");
    }
    stream.write(text);
  } catch (error) {
    failed(error as NodeJS.ErrnoException);
  }
}

/**
 * Whether a standard stream was closed when the program began: Node opens /dev/null for reading and writing in its
 * place, which `>/dev/null` (for writing alone) is not. Others that open it so, as Node does for a child's ignored
 * stream, cannot be told apart: so it is said, and changes no status.
 */
function wasClosed(fd: number): boolean {
  try {
    const { rdev } = fstatSync(fd);
    if (rdev !== 0x103) return false;
    const [, flags] = /^flags:\s+([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1")) ?? [];
    return flags !== undefined && (Number.parseInt(flags, 8) & 3) === 2;
  } catch {
    return false;
  }
}
