/** Where reports go: standard output and files. */
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  realpathSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, resolve } from "node:path";
import { MachineError, UsageError } from "../errors.ts";
import type { Output } from "../report/index.ts";
import type { Streams } from "./streams.ts";

export interface OutputUse {
  /** Files that are read meanwhile; `-` is none. */
  inputs?: readonly string[];
  /** The folder that records (*.ndjson) are written to meanwhile. */
  records?: string;
  /** A file that nothing is written to stays as it was, or missing; else it is empty then. */
  dryRun?: boolean;
}

export interface OpenOutputs {
  outputs: { name: string; output: Output }[];
  /** Opens one more file, closed with the others. */
  open: (path: string, mode: "replace" | "append", hint: string) => Output;
  close: () => void;
}

/**
 * Opens what each `name` or `name=file` writes to; no name is the terminal's. A file keeps what it held until something is
 * written, or to the end. Throws UsageError for a name that there is
 * not and for a file that is one of the inputs or another report, MachineError for a file that cannot be written.
 */
export function openOutputs(
  specs: readonly string[],
  names: readonly string[],
  streams: Streams,
  { inputs = [], records, dryRun = false }: OutputUse = {},
): OpenOutputs {
  const named = (specs.length > 0 ? specs : ["terminal"]).map((spec) => {
    const [name = "", ...rest] = spec.split("=");
    if (!names.includes(name))
      throw new UsageError(`there is no reporter ${JSON.stringify(name)}: expected one of ${names.join(", ")}`);
    if (spec.endsWith("=")) throw new UsageError(`--reporter ${spec} names no file: expected ${name}=FILE`);
    return { name, path: rest.length === 0 ? null : rest.join("=") };
  });
  const [document, other] = named
    .filter(({ path }) => path === null)
    .map(({ name }) => name)
    .toSorted((a, b) => Number(shares(a)) - Number(shares(b)));
  if (document !== undefined && other !== undefined && !shares(document))
    throw new UsageError(`${document} and ${other} cannot both be on standard output: name a file, ${document}=FILE`);
  const taken = new Map(inputs.filter((path) => path !== "-").map((path) => [placeOf(path), "is read"]));
  for (const { name, path } of named) {
    if (path === null || !isPlain(path)) continue;
    const other = taken.get(placeOf(path));
    if (other !== undefined)
      throw new UsageError(`--reporter ${name}=${path} would overwrite what ${other}: name another file`);
    taken.set(placeOf(path), `--reporter ${name} writes`);
    if (records !== undefined && path.endsWith(".ndjson") && placeOf(dirname(path)) === placeOf(records))
      throw new UsageError(`--reporter ${name}=${path} would stand among the records: name another folder`);
  }
  const files: { fd: number; path: string; made: boolean; empty: () => void; written: boolean }[] = [];
  const close = (): void => {
    for (const { fd, path, made, empty, written } of files.splice(0)) {
      if (!dryRun && !written) empty();
      closeSync(fd);
      if (dryRun && made && !written) rmSync(path, { force: true });
    }
  };
  const open = (path: string, mode: "replace" | "append", hint: string): Output => {
    try {
      makeFolder(dirname(path));
      const made = !existsSync(path);
      const fd = openSync(path, "a");
      const empty = (): void => {
        if (mode === "replace" && fstatSync(fd).isFile()) ftruncateSync(fd);
      };
      const file = { fd, path, made, empty, written: false };
      files.push(file);
      const write = (text: string): void => {
        if (!file.written) empty();
        file.written = true;
        writeAll(fd, text);
      };
      return { write, colors: false };
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
        path === null
          ? streams.stdout
          : open(path, "replace", "name a file that you may write with --reporter NAME=FILE"),
    }));
    return { outputs, open, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** Whether a reporter writes lines that others may stand between; all others write a document. */
export const shares = (reporter: string): boolean => reporter === "terminal" || reporter === "github";

/** A file, or none yet: devices and pipes take more than one report. */
const isPlain = (path: string): boolean => !existsSync(path) || statSync(path).isFile();

/** The same for all paths of one file. */
const placeOf = (path: string): string => (existsSync(path) ? realpathSync(path) : resolve(path));

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
