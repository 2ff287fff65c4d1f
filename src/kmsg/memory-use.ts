// What the memory of a cgroup or of the machine was used for, from a report's counters. Bytes.
import type { OomDetails, OomTask } from "./types.ts";

/** A part of the memory, largest meaning first; the parts never add up to more than the whole. */
export interface Part {
  name: string;
  bytes: number;
}

const FALLBACK_PAGE = 4096;

/** Page size of the machine: from the victim's row, the free lists, or a node's counters; 4 KiB where nothing shows it. */
export function pageSizeOf(details: OomDetails): number {
  if (details.score.pageSize !== null) return details.score.pageSize;
  const { memory } = details;
  const blocks = Object.values(memory?.freeBlocks ?? {}).flatMap((sizes) => Object.keys(sizes).map(Number));
  if (blocks.length > 0) return Math.min(...blocks);
  const nodes = Object.values(memory?.nodes ?? {});
  const file = memory?.pages["active_file"] ?? 0;
  const ratio = nodes.reduce((sum, node) => sum + (node["active_file"] ?? 0), 0) / file;
  return [4096, 16_384, 65_536].find((size) => size === ratio) ?? FALLBACK_PAGE;
}

/** Keeps each part within what the parts before it leave of the whole, and leaves empty ones out. */
function within(whole: number | null, parts: [string, number | undefined][]): Part[] {
  let left = whole ?? Number.POSITIVE_INFINITY;
  const kept: Part[] = [];
  for (const [name, wanted] of parts) {
    const bytes = Math.min(left, Math.max(0, wanted ?? 0));
    left -= bytes;
    if (bytes > 0) kept.push({ name, bytes });
  }
  return kept;
}

/** memory.stat of the cgroup; v1 calls its counters otherwise. */
export function cgroupParts(details: OomDetails): Part[] {
  const { memcg } = details;
  if (memcg === null || Object.keys(memcg.stats).length === 0) return [];
  const { stats } = memcg;
  const file = stats["file"] ?? stats["cache"];
  const shmem = stats["shmem"];
  const used = memcg.memory?.usage ?? null;
  return within(used === 0 ? null : used, [
    ["shared memory and tmpfs", shmem],
    ["anonymous memory", stats["anon"] ?? stats["rss"]],
    ["page cache without shared memory", file === undefined ? undefined : file - (shmem ?? 0)],
    ["the kernel on its behalf", cgroupKernel(details)],
  ]);
}

export function cgroupKernel({ memcg }: OomDetails): number | undefined {
  const stats = memcg?.stats ?? {};
  if (stats["kernel"] !== undefined) return stats["kernel"];
  const parts = ["slab", "kernel_stack", "pagetables", "percpu", "sock"]
    .map((name) => stats[name])
    .filter((value) => value !== undefined);
  return parts.length > 0 ? parts.reduce((sum, value) => sum + value, 0) : (memcg?.kmem?.usage ?? undefined);
}

/** Mem-Info of the machine. Shared memory lies on the anonymous lists, or on the unevictable one where it is locked. */
export function machineParts(details: OomDetails): { whole: number | null; parts: Part[]; other: number } {
  const { memory } = details;
  const page = pageSizeOf(details);
  const pages = memory?.pages ?? {};
  if (memory === null || pages["active_anon"] === undefined) return { whole: null, parts: [], other: 0 };
  const bytes = (...names: string[]): number => names.reduce((sum, name) => sum + (pages[name] ?? 0), 0) * page;
  const nodes = (name: string): number => Object.values(memory.nodes).reduce((sum, node) => sum + (node[name] ?? 0), 0);
  const lists = bytes("active_anon", "inactive_anon", "isolated_anon");
  const shmem = bytes("shmem");
  const whole = memory.ramPages === null ? null : memory.ramPages * page;
  const parts = within(whole, [
    ["shared memory and tmpfs", shmem],
    ["anonymous memory", lists - shmem],
    ["page cache", bytes("active_file", "inactive_file", "isolated_file")],
    ["what cannot be reclaimed (locked memory)", bytes("unevictable") - Math.max(0, shmem - lists)],
    ["reserved huge pages", memory.hugetlb ?? 0],
    [
      "the kernel (slab, page tables, stacks)",
      bytes("slab_reclaimable", "slab_unreclaimable", "pagetables", "sec_pagetables") + nodes("kernel_stack"),
    ],
    ["free memory", bytes("free", "free_pcp")],
  ]);
  const counted = parts.reduce((sum, part) => sum + part.bytes, 0) + (memory.reservedPages ?? 0) * page;
  // Without the slab's counters, up to 2.6.x or in a cut report, nothing can be said of the rest.
  const other = whole === null || pages["slab_unreclaimable"] === undefined ? 0 : Math.max(0, whole - counted);
  return { whole, parts, other };
}

/** Memory of a task that no other shares, as far as the table shows it, and its swap. Pages. */
function footprint(task: OomTask): number {
  return (task.rssAnonPages ?? task.rssPages ?? 0) + (task.swapPages ?? 0);
}

/** The task table by name, the largest first. */
export function byName(tasks: OomTask[]): { name: string; count: number; pages: number }[] {
  const names = new Map<string, { name: string; count: number; pages: number }>();
  for (const task of tasks) {
    const entry = names.get(task.name) ?? { name: task.name, count: 0, pages: 0 };
    entry.count++;
    entry.pages += footprint(task);
    names.set(task.name, entry);
  }
  return [...names.values()].filter(({ pages }) => pages > 0).toSorted((a, b) => b.pages - a.pages);
}

/** Why an allocation failed although memory was free; null where it had run out, or nothing shows it. */
export type Shortage =
  | { type: "page-fault"; free: number }
  | { type: "fragmentation"; wanted: number; free: number; largest: number | null }
  | { type: "zone"; free: number; usable: number; highmem: boolean }
  | null;

// Less free memory than this is no evidence of anything.
const MANY = 64 * 1024 * 1024;

export function shortageOf(details: OomDetails): Shortage {
  const { memory, order, gfpMask } = details;
  const page = pageSizeOf(details);
  const free = (memory?.pages["free"] ?? 0) * page;
  const ram = (memory?.ramPages ?? 0) * page;
  if (memory === null || free < MANY || free < ram * 0.02) return null;
  if (gfpMask === 0) return { type: "page-fault", free };
  // Memory that this allocation cannot use: contiguous areas lent to movable pages only, and high memory.
  const low = Object.entries(memory.zones).filter(([name]) => !/HighMem|Movable|Device/.test(name));
  const usable = low.reduce((sum, [, zone]) => sum + Math.max(0, (zone["free"] ?? 0) - (zone["free_cma"] ?? 0)), 0);
  const highmem = (memory.highmemPages ?? 0) > 0 && gfpMask !== null && (gfpMask & 2) === 0;
  const cma = (memory.pages["free_cma"] ?? 0) * page;
  const movable = gfpMask === null || (gfpMask & 8) !== 0;
  if (low.length > 0 && !movable && (highmem || cma > free / 2) && usable < free / 10)
    return { type: "zone", free, usable, highmem };
  if (order === null || order <= 0) return null;
  const wanted = page * 2 ** order;
  const blocks = Object.values(memory.freeBlocks).flatMap((sizes) =>
    Object.entries(sizes).map(([size, count]) => ({ size: Number(size), count })),
  );
  const fitting = blocks.filter(({ size }) => size >= wanted).reduce((sum, { size, count }) => sum + size * count, 0);
  if (blocks.length > 0 && fitting > free / 10) return null;
  const largest = Math.max(0, ...blocks.filter(({ count }) => count > 0).map(({ size }) => size));
  return { type: "fragmentation", wanted, free, largest: largest === 0 ? null : largest };
}
