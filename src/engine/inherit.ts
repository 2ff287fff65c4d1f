/** This process's standard streams for a child, and the last words that it writes to standard error. */
import { closeSync, fstatSync, openSync, readSync, type Stats, write } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Addon, PollHandle } from "../native.ts";

export interface InheritedStreams {
  /** For SpawnOptions. */
  stdio: number[];
  /** The child has its ends. */
  started(): void;
  /** The child has ended: resolves, once all has been passed on, to its last words. */
  end(): Promise<string>;
}

/** A V8 that gives up prints a stack behind its words. */
const most = 16_384;

/**
 * Standard input and output are the child's as they are. So is standard error where it is a terminal; from a file its end
 * is read afterwards; what goes into a pipe passes through this process, both streams where both are one pipe, so that
 * their order stays.
 */
export function inheritedStreams(addon: Addon): InheritedStreams {
  const error = statOf(2);
  if (error?.isFIFO() === true || error?.isSocket() === true) return relayed(addon, error);
  const size = error?.isFile() === true ? error.size : null;
  return {
    stdio: [0, 1, 2],
    started: () => undefined,
    end: async () => (size === null ? "" : endOfFile(size)),
  };
}

/** Null: the stream is closed. */
function statOf(fd: number): Stats | null {
  try {
    return fstatSync(fd);
  } catch {
    return null;
  }
}

/** What has been written to standard error's file since it had this size. */
function endOfFile(size: number): string {
  try {
    const file = openSync("/proc/self/fd/2", "r");
    try {
      const start = Math.max(size, fstatSync(file).size - most);
      const buffer = Buffer.alloc(most);
      return buffer.toString("utf8", 0, readSync(file, buffer, 0, most, start));
    } finally {
      closeSync(file);
    }
  } catch {
    // A file that this user may write and not read.
    return "";
  }
}

function relayed(addon: Addon, error: Stats): InheritedStreams {
  const output = statOf(1);
  const isOne = output !== null && output.dev === error.dev && output.ino === error.ino;
  const [read, theirs] = addon.pipe();
  const buffer = Buffer.allocUnsafe(65_536);
  let tail = Buffer.alloc(0);
  let watching: PollHandle | null = null;
  let passing: Promise<void> = Promise.resolve();
  let isOpen = true;
  const shut = (): void => {
    if (!isOpen) return;
    isOpen = false;
    watching?.close();
    watching = null;
    // A writer whose reader went away gets SIGPIPE, as it would without us.
    closeSync(read);
  };
  /** Passes on what is there; true where there may be more. */
  const pass = async (): Promise<boolean> => {
    if (!isOpen) return false;
    let size: number;
    try {
      size = readSync(read, buffer, 0, buffer.length, null);
    } catch {
      return false;
    }
    if (size === 0) {
      shut();
      return false;
    }
    const chunk = buffer.subarray(0, size);
    tail = Buffer.concat([tail, chunk]).subarray(-most);
    if (await writeAll(chunk)) return true;
    shut();
    return false;
  };
  const watch = (): void => {
    if (!isOpen || watching !== null) return;
    watching = addon.poll(read, "readable", () => {
      watching?.close();
      watching = null;
      // One chunk at a time: a slow reader slows its writer down.
      passing = pass().then(watch);
    });
  };
  return {
    stdio: [0, isOne ? theirs : 1, theirs],
    started() {
      closeSync(theirs);
      watch();
    },
    async end() {
      await passing;
      watching?.close();
      watching = null;
      while (await pass());
      shut();
      return tail.toString("utf8");
    },
  };
}

/** Writes to standard error without blocking this process; false where nobody reads any more. */
async function writeAll(chunk: Buffer): Promise<boolean> {
  for (let at = 0; at < chunk.length;) {
    try {
      at += await new Promise<number>((resolve, reject) => {
        write(2, chunk, at, chunk.length - at, null, (error, size) => (error ? reject(error) : resolve(size)));
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") return false;
      await sleep(5);
    }
  }
  return true;
}
