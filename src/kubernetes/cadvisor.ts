/** What cAdvisor, inside the kubelet, reads of a cgroup and how often: the ground of the eviction signals. */

/** Usage and working set of a cgroup as cAdvisor derives them. */
export interface MemoryUse {
  usage: number;
  workingSet: number;
}

const statValue = (stat: string, key: string): number | null => {
  const at = stat.startsWith(`${key} `) ? 0 : stat.indexOf(`\n${key} `) + 1;
  if (at === 0 && !stat.startsWith(`${key} `)) return null;
  return Number.parseInt(stat.slice(at + key.length + 1), 10);
};

/**
 * cAdvisor's working set: usage without inactive file pages, 0 at least. `usage` is memory.usage_in_bytes or
 * memory.current; the root of cgroup v2 has none: there it is anon + file of memory.stat, until kubelet 1.28
 * MemTotal - MemFree (opencontainers/runc #3933).
 */
export function memoryUse(
  files: { version: 1 | 2; usage: string | null; stat: string; meminfo: string | null },
  minor: number,
): MemoryUse {
  let usage: number;
  if (files.usage !== null) usage = Number(files.usage);
  else if (minor >= 29 || files.meminfo === null)
    usage = (statValue(files.stat, "anon") ?? 0) + (statValue(files.stat, "file") ?? 0);
  else usage = meminfoBytes(files.meminfo, "MemTotal") - meminfoBytes(files.meminfo, "MemFree");
  const inactive = statValue(files.stat, files.version === 1 ? "total_inactive_file" : "inactive_file") ?? 0;
  return { usage, workingSet: Math.max(0, usage - inactive) };
}

/** A line of /proc/meminfo in bytes; 0 where there is none. */
export const meminfoBytes = (meminfo: string, key: string): number =>
  Number(new RegExp(`^${key}:\\s+(\\d+) kB`, "m").exec(meminfo)?.[1] ?? 0) * 1024;

/** `--housekeeping-interval` of the kubelet, and its longest when nothing moves. */
const housekeepingMs = 10_000;
const longestHousekeepingMs = 15_000;

/**
 * When cAdvisor reads a cgroup again (containerData.nextHousekeepingInterval): the interval, longer while two samples
 * are equal, and up to as much again by chance. `chance` is from 0 to 1.
 */
export function nextHousekeeping(
  intervalMs: number | null,
  unchanged: boolean,
  chance: number,
): { intervalMs: number; waitMs: number } {
  const before = intervalMs ?? housekeepingMs;
  // At its longest it falls back, even where nothing moves: the code's own quirk.
  const next =
    unchanged && before < longestHousekeepingMs ? Math.min(before * 2, longestHousekeepingMs) : housekeepingMs;
  return { intervalMs: next, waitMs: next + chance * next };
}

/** mulberry32, seeded by a text: numbers from 0 to 1. */
export function seeded(text: string): () => number {
  let state = new TextEncoder().encode(text).reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193), 0x811c9dc5);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
