/** The streams that a program gives to the library; without any, this process's own. */
import { incomplete, printableLines, standardStreams } from "../api/standard.ts";
import type { Streams } from "../api/streams.ts";
import { abortSignal, callable, checked, hasWrite } from "./checks.ts";

/** Where reports and messages go, what is read, and when to stop; each is this process's own where it is left out. */
export interface LibraryStreams {
  /** Reports without a file: `process.stdout`, any Node stream, or anything else that takes text. */
  stdout?: Streams["stdout"];
  /** Messages. */
  stderr?: Streams["stderr"];
  /** The text that the path `-` stands for. */
  stdin?: () => Promise<string>;
  /** Ends the run: what it made is removed, and it resolves to exit status 130. */
  signal?: AbortSignal;
}

/**
 * Calls `work` with these streams. Without a signal of the caller's, Ctrl-C and the like end the work first, which removes
 * what it made, and then the program, unless the program listens to them itself.
 */
export async function withStreams<Result extends { exitCode: number }>(
  call: string,
  given: LibraryStreams | undefined,
  work: (streams: Streams) => Promise<Result>,
): Promise<Result> {
  const { stdout, stderr, stdin, signal } = checked<LibraryStreams>(call, given, {
    stdout: hasWrite,
    stderr: hasWrite,
    stdin: callable,
    signal: abortSignal,
  });
  const { streams: own, release } = standardStreams();
  const standard = stdout === undefined || stdout === process.stdout;
  let interrupted: () => AbortSignal | undefined = () => undefined;
  const streams: Streams = {
    stdout: standard ? own.stdout : stdout,
    stderr:
      stderr === undefined || stderr === process.stderr
        ? own.stderr
        : { write: (text) => stderr.write(printableLines(text)) },
    ...((stdin ?? own.stdin) ? { stdin: stdin ?? own.stdin } : {}),
    ...(own.github ? { github: { ...own.github, isRunner: own.github.isRunner && standard } } : {}),
    get signal() {
      if (signal) return signal;
      // The first look at it takes over Ctrl-C.
      const first = own.signal;
      interrupted = () => first;
      return first;
    },
  };
  try {
    const result = await work(streams);
    const why = standard ? await incomplete() : null;
    if (why === null) return result;
    streams.stderr.write(`oomlab: standard output is incomplete: ${why}\n`);
    return { ...result, exitCode: result.exitCode === 0 ? 3 : result.exitCode };
  } finally {
    release();
    endBy(interrupted());
  }
}

/** Ends this program by the signal that was held back, unless the program listens to it itself. */
function endBy(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  const name = signal.reason as NodeJS.Signals;
  if (process.listenerCount(name) === 0) process.kill(process.pid, name);
}
