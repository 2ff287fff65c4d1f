/** Scenario files: found, read, checked. The rest of oomlab sees only this door. */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { open, readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { UsageError } from "../errors.ts";
import { printable } from "../printable.ts";
import { nearest, ScenarioError, ScenarioErrors } from "./problem.ts";
import type { Include } from "./place.ts";
import { MAX_TEXT, parseScenarios as parse, readText } from "./read.ts";
import type { Scenario } from "./types.ts";

export { signalNumber } from "./names.ts";
export { NOTHING_EXPECTED } from "./read.ts";
export { nearest, ScenarioError, ScenarioErrors } from "./problem.ts";
export { scenarioJsonSchema } from "./schema.ts";
export type * from "./types.ts";
export { reservedKinds } from "./workload.ts";

export interface LoadOptions {
  /** What relative paths are relative to; default: the process's own directory. */
  cwd?: string;
  /** Only scenarios whose name matches. */
  grep?: RegExp;
  /** Only scenarios with one of these tags. */
  tags?: string[];
  /** The text that the path `-` stands for; default: stdin is read. */
  stdin?: string;
}

/**
 * Reads scenario files and folders (recursively, *.yaml, *.yml and *.json, sorted by bytes); no path: `scenarios/`.
 * Throws ScenarioErrors with all problems of all files, UsageError where there is nothing to read.
 */
export async function loadScenarios(paths: string[], options: LoadOptions = {}): Promise<Scenario[]> {
  const cwd = options.cwd ?? process.cwd();
  const problems: ScenarioError[] = [];
  const files = new Map<string, string>();
  for (const path of paths.length > 0 ? paths : await defaultPaths(cwd)) {
    for (const file of await findFiles(path, cwd, problems)) {
      const key = file === "-" ? file : resolve(cwd, file);
      if (!files.has(key)) files.set(key, file);
    }
  }
  const scenarios: Scenario[] = [];
  for (const file of files.values()) {
    const text =
      file === "-" ? (options.stdin ?? (await readStdin())) : await readFile(file, resolve(cwd, file), problems);
    if (text === undefined) continue;
    const read = readText(text, file, includeFrom(file, cwd));
    problems.push(...read.problems);
    scenarios.push(...read.scenarios);
  }
  const [first, ...rest] = problems;
  if (first !== undefined) throw new ScenarioErrors([first, ...rest]);
  if (scenarios.length === 0)
    throw new UsageError(`no Pod and no scenario in ${[...files.values()].join(", ")}`, {
      hint: "name a scenario, or a manifest of a Pod or of what makes Pods (Deployment, StatefulSet, DaemonSet, Job ...)",
    });
  const { grep, tags } = options;
  return scenarios.filter(
    ({ name, tags: own }) =>
      (grep === undefined || name.search(grep) >= 0) &&
      (tags === undefined || tags.length === 0 || tags.some((tag) => own.includes(tag))),
  );
}

/**
 * Reads the scenarios of one file from its text; `file` is its name in messages and in the result, and what the files
 * that it names are relative to. Throws ScenarioErrors with every problem there is.
 */
export function parseScenarios(text: string, file: string): Scenario[] {
  return parse(text, file, includeFrom(file, process.cwd()));
}

/** Reads files that a scenario names, relative to it. */
function includeFrom(file: string, cwd: string): Include {
  const folder = file === "-" ? "" : dirname(file);
  return (path) => {
    if (path === "" || path.includes("\0")) return { problem: "expected the path of a file" };
    const shown = isAbsolute(path) || folder === "" || folder === "." ? path : join(folder, path);
    let fd: number | undefined;
    try {
      fd = openSync(resolve(cwd, shown), constants.O_RDONLY | constants.O_NONBLOCK);
      const found = fstatSync(fd);
      if (!found.isFile()) return { problem: "expected a file" };
      const bytes = Buffer.alloc(Math.min(found.size, MAX_TEXT + 1));
      const length = readSync(fd, bytes, 0, bytes.length, 0);
      if (length > MAX_TEXT) return { problem: "a file of more than 8 MiB" };
      const text = decode(bytes.subarray(0, length));
      return text === undefined ? { problem: "expected UTF-8" } : { file: shown, text: text.replace(/^\ufeff/, "") };
    } catch (error) {
      return { problem: explain(error) };
    } finally {
      if (fd !== undefined) closeSync(fd);
    }
  };
}

async function defaultPaths(cwd: string): Promise<string[]> {
  const found = await stat(resolve(cwd, "scenarios")).catch(() => undefined);
  if (found?.isDirectory() === true) return ["scenarios"];
  throw new UsageError("no scenario file given, and there is no folder scenarios/ here", {
    hint: "name a scenario file or a folder: oomlab run path/to/scenario.yaml",
  });
}

const SCENARIO_FILE = /\.(?:ya?ml|json)$/i;

/** The files that a path stands for, named as the path was given. */
async function findFiles(path: string, cwd: string, problems: ScenarioError[]): Promise<string[]> {
  if (path === "-") return [path];
  const wrong = (what: string, hint?: string): string[] => {
    problems.push(fileProblem(path, what, hint));
    return [];
  };
  if (path === "" || path.includes("\0")) return wrong("expected the path of a file or folder");
  const absolute = resolve(cwd, path);
  try {
    if (!(await stat(absolute)).isDirectory()) return [path];
    const before = problems.length;
    const files = await walk(path.replace(/\/+$/, "") || "/", absolute, [], problems);
    if (files.length === 0 && problems.length === before)
      return wrong("expected scenarios; got a folder without *.yaml, *.yml or *.json");
    return files;
  } catch (error) {
    const near = nearest(basename(path), await readdir(dirname(absolute)).catch(() => []));
    return wrong(
      explain(error),
      near !== undefined && near !== basename(path)
        ? `did you mean ${path.slice(0, path.length - basename(path).length)}${printable(near)}?`
        : undefined,
    );
  }
}

async function walk(
  folder: string,
  absolute: string,
  above: readonly string[],
  problems: ScenarioError[],
): Promise<string[]> {
  const real = await realpath(absolute);
  if (above.includes(real)) {
    problems.push(fileProblem(folder, "this folder contains itself, through a symbolic link"));
    return [];
  }
  const files: string[] = [];
  const names = (await readdir(absolute)).filter((name) => !name.startsWith(".") && name !== "node_modules");
  for (const name of names.toSorted(byBytes)) {
    const path = `${folder === "/" ? "" : folder}/${name}`;
    // A dangling link with a scenario's name is told when it is read; pipes and devices are read only by their own name.
    const found = await stat(resolve(absolute, name)).catch(() => undefined);
    if (found?.isDirectory() === true)
      files.push(...(await walk(path, resolve(absolute, name), [...above, real], problems)));
    else if (SCENARIO_FILE.test(name) && found?.isFile() !== false) files.push(path);
  }
  return files;
}

function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

async function readFile(file: string, absolute: string, problems: ScenarioError[]): Promise<string | undefined> {
  const wrong = (what: string): undefined => {
    problems.push(fileProblem(file, what));
  };
  try {
    await using handle = await open(absolute, "r");
    const found = await handle.stat();
    if (found.isDirectory()) return wrong("expected a scenario file; got a folder");
    if (found.size > MAX_TEXT) return wrong("expected a scenario; got a file of more than 8 MiB");
    // A device or pipe states no size: it is read up to the limit.
    const bytes = found.isFile()
      ? await handle.readFile()
      : await readLimited(handle.createReadStream({ end: MAX_TEXT }));
    if (bytes.length > MAX_TEXT) return wrong("expected a scenario; got more than 8 MiB");
    const text = decode(bytes);
    if (text === undefined) problems.push(encodingProblem(file, bytes));
    return text;
  } catch (error) {
    return wrong(explain(error));
  }
}

async function readStdin(): Promise<string> {
  const bytes = await readLimited(process.stdin);
  if (bytes.length > MAX_TEXT) throw new ScenarioErrors([fileProblem("-", "expected a scenario; got more than 8 MiB")]);
  const text = decode(bytes);
  if (text === undefined) throw new ScenarioErrors([encodingProblem("-", bytes)]);
  return text;
}

async function readLimited(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_TEXT) break;
  }
  return Buffer.concat(chunks);
}

/** UTF-8 without NUL; a byte order mark is left in place. */
function decode(bytes: Uint8Array): string | undefined {
  if (bytes.includes(0)) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** Says what the bytes are instead of UTF-8, and where they leave it. */
function encodingProblem(file: string, bytes: Uint8Array): ScenarioError {
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)) {
    return fileProblem(file, "expected UTF-8; got UTF-16");
  }
  if (bytes.includes(0)) return fileProblem(file, "expected a scenario; got a binary file");
  // What precedes the first wrong byte decodes unchanged, the byte itself becomes U+FFFD.
  const text = Buffer.from(bytes).toString("utf8");
  let offset = 0;
  for (const char of text) {
    const length = Buffer.byteLength(char);
    if (char === "\ufffd" && !(bytes[offset] === 0xef && bytes[offset + 1] === 0xbf && bytes[offset + 2] === 0xbd))
      break;
    offset += length;
  }
  const lines = Buffer.from(bytes.subarray(0, offset)).toString("utf8").split("\n");
  const byte = (bytes[offset] ?? 0).toString(16).padStart(2, "0");
  const what = `expected UTF-8; got the byte 0x${byte}`;
  const column = (lines.at(-1)?.length ?? 0) + 1;
  return new ScenarioError({ file, line: lines.length, column, path: "", what, hint: "save the file as UTF-8" });
}

function fileProblem(file: string, what: string, hint?: string): ScenarioError {
  return new ScenarioError({ file: file === "" ? '""' : file, line: null, column: null, path: "", what, hint });
}

const ERRNO_TEXT: Readonly<Record<string, string>> = {
  ENOENT: "no such file or folder",
  ENOTDIR: "no such file or folder",
  EACCES: "it may not be read (permission denied)",
  EPERM: "it may not be read (operation not permitted)",
  ELOOP: "its symbolic links go in a circle",
  ENAMETOOLONG: "the path is too long",
  EISDIR: "expected a scenario file; got a folder",
};

function explain(error: unknown): string {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return ERRNO_TEXT[code] ?? (error instanceof Error ? printable(error.message) : String(error));
}
