/** Where reports go: standard output, files, a GitHub job's summary. */
import { closeSync, existsSync, mkdirSync, openSync, writeSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { MachineError, UsageError } from "../errors.ts";
import { type Output, type Reporter, reporters, type RunInfo } from "../report/index.ts";
import type { Streams } from "./streams.ts";

export interface OpenReporters {
  reporters: Reporter[];
  close(): void;
}

/** Opens `name` or `name=file`, the terminal's where none is named. Throws UsageError for a name that there is not, MachineError for a file that cannot be written. */
export async function openReporters(specs: string[], streams: Streams, info: RunInfo): Promise<OpenReporters> {
  const { outputs, open, close } = openOutputs(specs, Object.keys(reporters), streams);
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
          "a",
          "GITHUB_STEP_SUMMARY names the file; unset it where there is none",
        );
      if (make) opened.push(make(output, info, around));
    }
    return { reporters: opened, close };
  } catch (error) {
    close();
    throw error;
  }
}

export interface OpenOutputs {
  outputs: { name: string; output: Output }[];
  /** Opens one more file, closed with the others. */
  open: (path: string, flags: "w" | "a", hint: string) => Output;
  close: () => void;
}

/** Opens what each `name` or `name=file` writes to; no name is the terminal's. Throws as openReporters. */
export function openOutputs(specs: readonly string[], names: readonly string[], streams: Streams): OpenOutputs {
  const named = (specs.length > 0 ? specs : ["terminal"]).map((spec) => {
    const [name = "", ...rest] = spec.split("=");
    if (!names.includes(name))
      throw new UsageError(`there is no reporter ${JSON.stringify(name)}: expected one of ${names.join(", ")}`);
    if (spec.endsWith("=")) throw new UsageError(`--reporter ${spec} names no file: expected ${name}=FILE`);
    return { name, path: rest.length === 0 ? null : rest.join("=") };
  });
  const descriptors: number[] = [];
  const close = (): void => {
    for (const fd of descriptors.splice(0)) closeSync(fd);
  };
  const open = (path: string, flags: "w" | "a", hint: string): Output => {
    try {
      makeFolder(dirname(path));
      const fd = openSync(path, flags);
      descriptors.push(fd);
      return { write: (text) => writeAll(fd, text), colors: false };
    } catch (error) {
      throw new MachineError("REPORTER_FILE", `the report ${path} cannot be written: ${(error as Error).message}`, {
        cause: error,
        hint,
      });
    }
  };
  try {
    const outputs = named.map(({ name, path }) => ({
      name,
      output:
        path === null ? streams.stdout : open(path, "w", "name a file that you may write with --reporter NAME=FILE"),
    }));
    return { outputs, open, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** writeSync may write a part. */
function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
}

/** A folder and those above it. (mkdirSync's `recursive` never ends where a parent refuses with ENOENT, as /proc does.) */
export function makeFolder(folder: string): void {
  const missing: string[] = [];
  for (let path = resolve(folder); !existsSync(path); path = dirname(path)) missing.push(path);
  for (const path of missing.toReversed()) mkdirSync(path);
}
