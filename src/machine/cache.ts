/** What the VM is made of, kept between runs. An entry is a folder, complete or not there: built beside, then renamed. */
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { MachineError } from "../errors.ts";

const manifestName = "manifest.json";

/** Name -> size of every file of an entry. */
type Manifest = Record<string, number>;

export function cacheFolder(): string {
  const base = process.env["XDG_CACHE_HOME"];
  return join(base !== undefined && base.startsWith("/") ? base : join(homedir(), ".cache"), "oomlab");
}

/** The folder of an entry that is there and whole, or null. */
export function cachedEntry(name: string): string | null {
  const path = join(cacheFolder(), name);
  return isWhole(path) ? path : null;
}

/** A note beside the entries: what was found out, for as long as the state it was found in holds. */
export function recall(name: string, state: string): string | null {
  try {
    const note = JSON.parse(readFileSync(join(cacheFolder(), `${name}.note`), "utf8")) as Note;
    return note.state === state ? note.value : null;
  } catch {
    return null;
  }
}

export function remember(name: string, state: string, value: string): void {
  const path = join(cacheFolder(), `${name}.note`);
  writeFileSync(`${path}.${process.pid}`, JSON.stringify({ state, value } satisfies Note));
  renameSync(`${path}.${process.pid}`, path);
}

interface Note {
  state: string;
  value: string;
}

/** The folder of an entry, built where it is missing or not whole. */
export async function cached(name: string, build: (folder: string) => Promise<void>): Promise<string> {
  const path = join(cacheFolder(), name);
  if (isWhole(path)) return path;
  const folder = newFolder(dirname(path), basename(path));
  try {
    await build(folder);
    writeFileSync(join(folder, manifestName), JSON.stringify(manifestOf(folder)));
    replace(folder, path);
    prune(path);
    return path;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** How many entries of one kind are kept: an image a build of oomlab, a kernel a version. */
const keep = 6;

/** Removes the oldest entries of the new one's kind, and what a killed build left behind. */
function prune(newest: string): void {
  const kind = /^[a-z]+/.exec(basename(newest))?.[0] ?? "";
  const folder = dirname(newest);
  const entries = readdirSync(folder).map((name) => ({ name, mtime: mtimeOf(join(folder, name)) }));
  const old = entries
    .filter(({ name }) => name.startsWith(`${kind}-`) && !name.endsWith(".note"))
    .toSorted((a, b) => b.mtime - a.mtime)
    .slice(keep);
  const torn = entries.filter(({ name, mtime }) => name.startsWith(".") && Date.now() - mtime > abandonedMs);
  for (const { name } of [...old, ...torn]) rmSync(join(folder, name), { recursive: true, force: true });
}

/** Longer than any build takes. */
const abandonedMs = 3_600_000;

function mtimeOf(path: string): number {
  try {
    return statSync(path).mtimeMs;
  } catch {
    return 0;
  }
}

/** Empties the cache; what was in it and how big, in bytes. */
export function emptyCache(): { path: string; size: number }[] {
  const folder = cacheFolder();
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return [];
  }
  return names.map((name) => {
    const path = join(folder, name);
    const size = statSync(path).isDirectory()
      ? Object.values(manifestOf(path)).reduce((sum, bytes) => sum + bytes, 0)
      : statSync(path).size;
    rmSync(path, { recursive: true, force: true });
    return { path, size };
  });
}

function newFolder(parent: string, name: string): string {
  try {
    mkdirSync(parent, { recursive: true });
    return mkdtempSync(join(parent, `.${name}-${process.pid}-`));
  } catch (error) {
    throw new MachineError("CACHE", `the cache ${cacheFolder()} cannot be written: ${(error as Error).message}`, {
      cause: error,
      hint: "name another folder in XDG_CACHE_HOME",
    });
  }
}

/** Puts an entry in its place; one that somebody else has finished meanwhile is as good. */
function replace(folder: string, path: string): void {
  for (let attempt = 0; ; attempt++) {
    try {
      renameSync(folder, path);
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if ((code !== "ENOTEMPTY" && code !== "EEXIST") || attempt > 2) throw error;
      if (isWhole(path)) return;
      rmSync(path, { recursive: true, force: true });
    }
  }
}

function manifestOf(folder: string): Manifest {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(
    files.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [relative(folder, path), statSync(path).size];
    }),
  );
}

function isWhole(path: string): boolean {
  if (basename(path) === basename(cacheFolder())) return false;
  try {
    const manifest = JSON.parse(readFileSync(join(path, manifestName), "utf8")) as Manifest;
    return Object.entries(manifest).every(([file, size]) => statSync(join(path, file)).size === size);
  } catch {
    return false;
  }
}
