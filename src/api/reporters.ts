/** The reporters of a run: named ones with their outputs, objects of a program's, a GitHub job's summary. */
import { type Output, type Reporter, reporters, type RunInfo } from "../report/index.ts";
import { openOutputs, type OutputUse, shares } from "./outputs.ts";
import type { Streams } from "./streams.ts";

export interface OpenReporters {
  reporters: Reporter[];
  /** Every report goes to a file, so that nothing would be seen of how it ended. */
  filesOnly: boolean;
  close(): void;
}

/**
 * Opens `name` or `name=file`; reporters that are objects are taken as they are. Throws as
 * openOutputs.
 */
export async function openReporters(
  reports: readonly (string | Reporter)[],
  streams: Streams,
  info: RunInfo,
  use: OutputUse = {},
): Promise<OpenReporters> {
  const specs = reports.filter((report) => typeof report === "string");
  const own = reports.filter((report) => typeof report !== "string");
  if (specs.length === 0) return { reporters: own, filesOnly: false, close: () => undefined };
  const commands = streams.github?.isRunner
    ? (await import("../report/github.ts")).guardCommands(streams.stdout, crypto.randomUUID())
    : null;
  const { outputs, open, close: closeAll } = openOutputs(specs, Object.keys(reporters), streams, use);
  const close = (): void => {
    commands?.end();
    closeAll();
  };
  try {
    const opened: Reporter[] = [];
    const around = {
      summary: null as Output | null,
      fileName: (file: string) => streams.github?.fileName(file) ?? file,
    };
    for (const { name, output } of outputs) {
      const make = await reporters[name]?.();
      if (name === "github" && streams.github?.summary !== undefined)
        around.summary ??= open(
          streams.github.summary,
          "append",
          "GITHUB_STEP_SUMMARY names the file; unset it where there is none",
        );
      // A document is not for the runner, and is read by others.
      const guarded =
        output === streams.stdout && shares(name) ? commands?.[name === "github" ? "commands" : "text"] : undefined;
      if (make) opened.push(make(guarded ?? output, info, around));
    }
    const filesOnly = own.length === 0 && outputs.every(({ output }) => output !== streams.stdout);
    return { reporters: [...opened, ...own], filesOnly, close };
  } catch (error) {
    close();
    throw error;
  }
}
