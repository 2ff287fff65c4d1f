/** What a command has of the world around it. */
import { createRequire } from "node:module";
import type { Output } from "../report/index.ts";

export interface Streams {
  stdout: Output;
  /** Diagnostics. */
  stderr: { write(text: string): void };
  stdin?: () => Promise<string>;
  /** A GitHub job: the file of its summary, how it names a file of the repository, whether it reads standard output. */
  github?: { summary?: string; fileName(file: string): string; isRunner: boolean };
  /** That the run is to end; whoever has looked at it removes what was made. */
  readonly signal: AbortSignal;
}

/** oomlab's version, from package.json. */
export function version(): string {
  return (
    process.env.OOMLAB_VERSION ?? (createRequire(import.meta.url)("../../package.json") as { version: string }).version
  );
}
