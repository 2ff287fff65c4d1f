/** What the VM is made of, kept between runs. An entry is a folder, complete or not there: built beside, then renamed. */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { crc32 } from "node:zlib";
import { MachineError } from "../errors.ts";
import { loadAddon } from "../native.ts";

const manifestName = "manifest.json";

/** What every file of an entry was when it was built. */
type Manifest = Record<string, { size: number; mtimeMs: number; crc32: number }>;

export function cacheFolder(): string {
  const base = process.env["XDG_CACHE_HOME"];
  return join(base !== undefined && base.startsWith("/") ? base : join(homedir(), ".cache"), "oomlab");
}

/** Why the cache cannot be written, or null. Makes nothing. */
export function cacheProblem(): string | null {
  let folder = cacheFolder();
  while (!existsSync(folder)) folder = dirname(folder);
  try {
    if (!statSync(folder).isDirectory()) return `${folder} is no folder`;
    accessSync(folder, constants.W_OK);
    return null;
  } catch (error) {
    return `${cacheFolder()} cannot be written: ${(error as NodeJS.ErrnoException).code}`;
  }
}

/** The folder of an entry that is there and whole, or null. */
export function cachedEntry(name: string): string | null {
  const path = join(cacheFolder(), name);
  if (!isWhole(path)) return null;
  try {
    // The least recently used go first.
    const now = new Date();
    utimesSync(path, now, now);
  } catch {
    // Somebody else's cache serves as well.
  }
  return path;
}

/** Forgets an entry that has turned out not to serve. */
export function dropEntry(name: string): void {
  rmSync(join(cacheFolder(), name), { recursive: true, force: true });
}

/** A file as it stands: hashing 100 MB at each start would take longer than it is worth. */
export const identity = (path: string): string => {
  const { size, mtimeMs } = statSync(path);
  return `${path} ${size} ${mtimeMs}`;
};

/** A note beside the entries: what was found out, for as long as the state it was found in holds (null: whatever it is). */
export function recall(name: string, state: string | null): string | null {
  try {
    const note = JSON.parse(readFileSync(join(cacheFolder(), `${name}.note`), "utf8")) as Note;
    return state === null || note.state === state ? note.value : null;
  } catch {
    return null;
  }
}

export function remember(name: string, state: string, value: string): void {
  const path = join(cacheFolder(), `${name}.note`);
  mkdirSync(cacheFolder(), { recursive: true });
  const fresh = `${path}.${process.pid}`;
  try {
    writeFileSync(fresh, JSON.stringify({ state, value } satisfies Note));
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) rmSync(path, { recursive: true });
    renameSync(fresh, path);
  } catch (error) {
    rmSync(fresh, { force: true });
    throw unwritable(error);
  }
}

interface Note {
  state: string;
  value: string;
}

/** The folder of an entry, built where it is missing or not whole. */
export async function cached(name: string, build: (folder: string) => Promise<void>): Promise<string> {
  const known = cachedEntry(name);
  if (known !== null) return known;
  const path = join(cacheFolder(), name);
  const folder = newFolder(dirname(path), basename(path));
  // Held for as long as this process lives: what it leaves behind is free to be removed.
  const lock = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    loadAddon().lock(lock);
    await build(folder);
    writeFileSync(join(folder, manifestName), JSON.stringify(manifestOf(folder)));
    replace(folder, path);
    prune(path);
    return path;
  } finally {
    closeSync(lock);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** How many entries of one kind are kept: an image a build of oomlab, a kernel a version, a snapshot a shape of VM; of the tests the newest. */
const keep: Record<string, number> = { snapshot: 16, tests: 1, distro: 2, oci: 2 };
const keepOfOthers = 6;

/** Removes the least recently used entries of the new one's kind, and what killed builds left behind. */
function prune(newest: string): void {
  const kind = /^[a-z]+/.exec(basename(newest))?.[0] ?? "";
  const folder = dirname(newest);
  const old = readdirSync(folder)
    .filter((name) => name.startsWith(`${kind}-`) && !name.endsWith(".note"))
    .map((name) => ({ name, mtime: mtimeOf(join(folder, name)) }))
    .toSorted((a, b) => b.mtime - a.mtime)
    .slice(keep[kind] ?? keepOfOthers);
  for (const { name } of old) rmSync(join(folder, name), { recursive: true, force: true });
  removeAbandoned();
}

/** Removes what killed builds left behind; their paths. */
export function removeAbandoned(): string[] {
  const folder = cacheFolder();
  let names: string[];
  try {
    names = readdirSync(folder).filter((name) => name.startsWith("."));
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    const path = join(folder, name);
    try {
      const fd = openSync(path, constants.O_RDONLY);
      try {
        if (!loadAddon().lock(fd)) return [];
        rmSync(path, { recursive: true, force: true });
        return [path];
      } finally {
        closeSync(fd);
      }
    } catch {
      return [];
    }
  });
}

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
      ? filesOf(path).reduce((sum, file) => sum + statSync(join(path, file)).size, 0)
      : statSync(path).size;
    try {
      rmSync(path, { recursive: true, force: true });
    } catch (error) {
      throw unwritable(error);
    }
    return { path, size };
  });
}

function newFolder(parent: string, name: string): string {
  try {
    mkdirSync(parent, { recursive: true });
    return mkdtempSync(join(parent, `.${name}-${process.pid}-`));
  } catch (error) {
    throw unwritable(error);
  }
}

const unwritable = (error: unknown): MachineError =>
  new MachineError("CACHE", `the cache ${cacheFolder()} cannot be written: ${(error as Error).message}`, {
    cause: error,
    hint: "name another folder in XDG_CACHE_HOME",
  });

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

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)));
}

function manifestOf(folder: string): Manifest {
  return Object.fromEntries(
    filesOf(folder).map((file) => {
      const { size, mtimeMs } = statSync(join(folder, file));
      return [file, { size, mtimeMs, crc32: checksum(join(folder, file)) }];
    }),
  );
}

function checksum(path: string): number {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    const buffer = Buffer.allocUnsafe(1_048_576);
    let sum = 0;
    for (;;) {
      const size = readSync(fd, buffer, 0, buffer.length, null);
      if (size === 0) return sum;
      sum = crc32(buffer.subarray(0, size), sum);
    }
  } finally {
    closeSync(fd);
  }
}

/** Every file is as it was built. Content is read only where somebody has written since: an image is too big to be read at each start. */
function isWhole(path: string): boolean {
  try {
    const manifest = JSON.parse(readFileSync(join(path, manifestName), "utf8")) as Manifest;
    return Object.entries(manifest).every(([file, built]) => {
      const { size, mtimeMs } = statSync(join(path, file));
      return size === built.size && (mtimeMs === built.mtimeMs || checksum(join(path, file)) === built.crc32);
    });
  } catch {
    return false;
  }
}
