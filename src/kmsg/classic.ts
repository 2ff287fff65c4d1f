import type { OomKill } from "./types.ts";

/**
 * A kill in the words of kernels 4.6 to 5.0 (mm/oom_kill.c oom_kill_process, oom_reap_task_mm), whatever kernel told it.
 * The score is the report's own where it has one, else computed as those kernels did (`details`); without either the
 * line says so instead of inventing one.
 */
export function classicLines(kill: OomKill): string[] {
  const { victim, details } = kill;
  const message = kill.prefix === "memcg" || kill.kind === "memcg" ? "Memory cgroup out of memory" : "Out of memory";
  const score = details?.score?.printed ?? details?.score?.computed ?? null;
  const kB = (bytes: number | null): string => (bytes === null ? "?" : String(Math.round(bytes / 1024)));
  const lines = [
    `${message}: Kill process ${victim.pid} (${victim.comm}) score ${score ?? "?"} or sacrifice child`,
    `Killed process ${victim.pid} (${victim.comm}) total-vm:${kB(victim.totalVm)}kB, anon-rss:${kB(victim.anonRss)}kB, file-rss:${kB(victim.fileRss)}kB, shmem-rss:${kB(victim.shmemRss)}kB`,
  ];
  const reaper = details?.reaper;
  if (reaper) {
    lines.push(
      `oom_reaper: reaped process ${victim.pid} (${victim.comm}), now anon-rss:${kB(reaper.anonRss)}kB, file-rss:${kB(reaper.fileRss)}kB, shmem-rss:${kB(reaper.shmemRss)}kB`,
    );
  }
  return lines;
}
