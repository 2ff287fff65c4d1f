import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { probeCgroups, readProcs } from "../../src/cgroup/index.ts";

export const root: string = join(import.meta.dirname, "../..");
export const bin: string = join(root, "dist/oomlab.cjs");

export interface Ended {
  stdout: string;
  stderr: string;
  exitCode: number | undefined;
  signal: string | undefined;
}

interface CliOptions {
  cwd?: string;
  input?: string | Uint8Array;
  env?: Record<string, string>;
}

/** Starts the built command line. `ended` never rejects. */
export function start(
  args: string[],
  options: CliOptions = {},
): { kill(signal: NodeJS.Signals): void; ended: Promise<Ended> } {
  const child = execa(process.execPath, [bin, ...args], {
    cwd: root,
    reject: false,
    ...options,
    env: { NO_COLOR: "1", ...options.env },
  });
  return {
    kill: (signal) => void child.kill(signal),
    ended: child.then(({ stdout, stderr, exitCode, signal }) => ({ stdout, stderr, exitCode, signal })),
  };
}

/** Runs the built command line to its end. */
export function oomlab(args: string[], options: CliOptions = {}): Promise<Ended> {
  return start(args, options).ended;
}

/** Whether this user can make cgroups with the memory controller here, and read the kernel log. */
export const canRun: Record<string, boolean> = {
  root: process.getuid?.() === 0,
  "a writable memory controller": probeCgroups("/").hierarchies.length > 0,
};

/** Cgroups of oomlab's and living processes in them, but for those that stood before the tests began. */
export function leftovers(): string[] {
  return found().filter((line) => !before.has(line.split(":")[0] ?? ""));
}

function found(): string[] {
  const lines: string[] = [];
  const search = (directory: string): void => {
    let entries;
    try {
      entries = readdirSync(directory, { withFileTypes: true });
    } catch {
      return;
    }
    for (const entry of entries) {
      if (!entry.isDirectory()) continue;
      const path = join(directory, entry.name);
      if (entry.name.startsWith("oomlab-"))
        lines.push(path, ...readProcs(join(path, "cgroup.procs")).map((pid) => `${path}: pid ${pid}`));
      search(path);
    }
  };
  search("/sys/fs/cgroup");
  return lines;
}

const before = new Set(found());

/** Living (not zombie) processes whose command line holds a word. */
export function processesWith(word: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        return (
          readFileSync(`/proc/${pid}/cmdline`, "latin1").includes(word) &&
          !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "latin1"))
        );
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Waits until something holds; throws after the time is up. */
export async function eventually(holds: () => boolean, what: string, ms = 10_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`it did not come: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
