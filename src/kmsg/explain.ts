import { cgroupOwner, ownerWords } from "./container.ts";
import { printable } from "../printable.ts";
import type { OomDetails, OomKill, OomTask } from "./types.ts";

/**
 * Plain-words explanation of a kill, one sentence per element: who, for whose limit, why this one, what used the
 * memory, what can be done. More with `details`. Says nothing that the records do not show; names are escaped.
 */
export function explainKill(kill: OomKill): string[] {
  const details = kill.details ?? null;
  return [
    whatHappened(kill),
    ...whoseLimit(kill, details),
    ...trigger(kill, details),
    ...victimSize(kill),
    ...whyThisOne(kill, details),
    ...group(kill, details),
    ...whatUsedIt(kill, details),
    ...advice(kill, details),
    ...gaps(kill),
  ];
}

function victimName(kill: OomKill): string {
  return `process ${kill.victim.pid} (${printable(kill.victim.comm)})`;
}

function path(value: string): string {
  return printable(value);
}

function whatHappened(kill: OomKill): string {
  const victim = victimName(kill);
  switch (kill.kind) {
    case "memcg":
      return `The kernel killed ${victim} because ${kill.oomMemcg === null ? "a memory cgroup (a container's limit, say)" : `the memory cgroup ${path(kill.oomMemcg)}`} was at its limit and too little could be reclaimed; the machine as a whole need not have been short of memory.`;
    case "global":
      return kill.trigger === "sysrq"
        ? `The kernel killed ${victim} because somebody asked for an OOM kill by hand (SysRq-f, or a tool that uses it): this says nothing about a shortage of memory.`
        : `The kernel killed ${victim} because the machine had run out of memory${kill.constraint === null ? " (or the part of it that a cpuset or a memory policy allows: kernels up to 5.0 do not tell these apart)" : ""}; no cgroup's limit was involved.`;
    case "cpuset":
      return `The kernel killed ${victim} because the memory nodes that a cpuset allows had run out of memory; other nodes may have had plenty.`;
    case "mempolicy":
      return `The kernel killed ${victim} because the memory nodes that a NUMA memory policy (mbind, set_mempolicy, numactl) allows had run out of memory; other nodes may have had plenty.`;
    case "unknown":
      return kill.prefix === "global"
        ? `The kernel killed ${victim} because memory ran out outside any memory cgroup's limit: on the whole machine, or on the nodes that a cpuset or a memory policy allows; the record that tells which is not in the log.`
        : `The kernel killed ${victim}; the log does not show whether a cgroup's limit or the machine's memory was the reason.`;
  }
}

function whoseLimit(kill: OomKill, details: OomDetails | null): string[] {
  const said: string[] = [];
  if (kill.oomMemcg !== null && kill.taskMemcg !== null && kill.oomMemcg !== kill.taskMemcg) {
    said.push(
      `The limit that was hit is not the victim's own: it belongs to ${path(kill.oomMemcg)}, above the victim's cgroup ${path(kill.taskMemcg)}, and counts everything below it.`,
    );
  } else if (kill.oomMemcg === null && kill.taskMemcg !== null) {
    said.push(
      kill.taskMemcg === "/"
        ? "The victim ran in the root cgroup, which has no limit."
        : `The victim ran in the cgroup ${path(kill.taskMemcg)}, whose own limit was not the reason.`,
    );
  }
  const owner = kill.taskMemcg === null ? null : cgroupOwner(kill.taskMemcg);
  if (owner !== null && (owner.container !== null || owner.pod !== null))
    said.push(`By its path, the victim's cgroup is that of ${printable(ownerWords(owner) ?? "")}.`);
  if (kill.kind === "cpuset" && details?.memsAllowed != null)
    said.push(
      `The process that needed memory may use node ${path(details.memsAllowed)} only${details.cpuset === null ? "" : ` (cpuset ${path(details.cpuset)})`}; the victim may run elsewhere.`,
    );
  if (kill.kind === "mempolicy" && details?.nodemask != null)
    said.push(`The policy allows node ${path(details.nodemask)} only.`);
  const memory = details?.memcg?.memory;
  if (memory?.usage != null && memory.limit !== null) {
    const failed = memory.failcnt === null ? "" : `, and charges had failed ${memory.failcnt} times`;
    said.push(
      memory.limit === "max"
        ? `The cgroup used ${size(memory.usage)}; its own memory limit is unset.`
        : `The cgroup used ${size(memory.usage)} of the ${size(memory.limit)} it may use${failed}.`,
    );
  }
  const swap = details?.memcg?.swap;
  if (swap?.usage != null && swap.limit !== null) {
    if (swap.limit === 0)
      said.push("It may not use swap (its swap limit is 0), so anonymous memory had nowhere to go.");
    else if (swap.usage > 0)
      said.push(
        `It had ${size(swap.usage)} in swap${swap.limit === "max" ? "" : ` of the ${size(swap.limit)} allowed`}.`,
      );
  }
  const both = details?.memcg?.memsw;
  if (both?.usage != null && typeof both.limit === "number")
    said.push(`Memory and swap together were at ${size(both.usage)} of ${size(both.limit)}.`);
  return said;
}

function trigger(kill: OomKill, details: OomDetails | null): string[] {
  if (kill.trigger === "limit-write") {
    const who = details?.invoker == null ? "Somebody" : printable(details.invoker.comm);
    return [
      `${who} lowered memory.max below what the cgroup used: the kill came from that write, not from an allocation.`,
    ];
  }
  const invoker = details?.invoker;
  if (kill.trigger === "allocation" && invoker != null && invoker.pid !== null && invoker.pid !== kill.victim.pid) {
    return [
      `The allocation that found no memory was made by process ${invoker.pid} (${printable(invoker.comm)}): it set the OOM killer off, which then chose the victim.`,
    ];
  }
  return [];
}

function victimSize(kill: OomKill): string[] {
  const { anonRss, fileRss, shmemRss, totalVm } = kill.victim;
  if (anonRss === null) return [];
  const parts =
    anonRss > 0 || ((fileRss ?? 0) === 0 && (shmemRss ?? 0) === 0)
      ? [`${size(anonRss)} of anonymous memory (heap, stacks)`]
      : [];
  if (fileRss !== null && fileRss > 0) parts.push(`${size(fileRss)} of files`);
  if (shmemRss !== null && shmemRss > 0) parts.push(`${size(shmemRss)} of shared memory`);
  const space = totalVm === null ? "" : `; its address space of ${size(totalVm)} does not count`;
  return [`When it was killed it held ${list(parts)}${space}.`];
}

function whyThisOne(kill: OomKill, details: OomDetails | null): string[] {
  const said: string[] = [];
  // Of a group all die with the one that was selected.
  if (kill.group && kill.constraint === null && details?.score.printed == null && details?.chosen == null)
    return ["It died with its group, not for its own score."];
  const adj = kill.victim.oomScoreAdj ?? details?.score.oomScoreAdj ?? null;
  if (details?.allocatingTask === true)
    said.push(
      "It was chosen because it was the one allocating (vm.oom_kill_allocating_task is set), not for its size.",
    );
  else if (details !== null) {
    const { score } = details;
    const points = score.printed ?? score.computed;
    if (points !== null) {
      const source =
        score.printed !== null ? "The kernel scored it" : "Worked out on the scale of old kernels it scores";
      const total =
        score.totalPages !== null && score.pageSize !== null
          ? `, where 1000 stands for ${size(score.totalPages * score.pageSize)}`
          : "";
      said.push(
        `${source} ${points}${total}${adj === null || adj === 0 ? "" : `, of which oom_score_adj is ${adj}`}: the highest score dies.`,
      );
    }
    const larger = biggest(details).filter(
      (task) => task.pid !== kill.victim.pid && footprint(task) > victimFootprint(kill, details),
    );
    const spared = larger.filter((task) => task.oomScoreAdj === -1000);
    if (spared.length > 0)
      said.push(`Larger but exempt (oom_score_adj -1000): ${list(spared.slice(0, 3).map((task) => named(task)))}.`);
    else if (larger.length > 0 && adj !== null && larger[0]!.oomScoreAdj !== null && larger[0]!.oomScoreAdj < adj) {
      said.push(
        `${capital(named(larger[0]!))} was larger, but its oom_score_adj of ${larger[0]!.oomScoreAdj} against the victim's ${adj} spared it.`,
      );
    }
    if (details.chosen !== null)
      said.push(
        `The kernel chose process ${details.chosen.pid} (${printable(details.chosen.comm)}) and killed this one in its place: a child of it or one of its threads, as kernels up to 5.0 do.`,
      );
  }
  if (adj !== null && adj > 0 && details === null)
    said.push(`Its oom_score_adj of ${adj} made it a likelier victim than its size alone.`);
  if (adj !== null && adj < 0) said.push(`Its oom_score_adj of ${adj} shielded it, yet nothing else scored higher.`);
  if (kill.tgid !== null) said.push(`${kill.victim.pid} is a thread: the process is ${kill.tgid}.`);
  return said;
}

function group(kill: OomKill, details: OomDetails | null): string[] {
  if (!kill.group) return [];
  const members = details?.groupMembers.length ?? 0;
  const place = details?.groupPath == null ? "its cgroup" : path(details.groupPath);
  return [
    `memory.oom.group is set on ${place}: the kernel killed all processes in it together${members > 0 ? `, ${members} besides this one` : ""}.`,
  ];
}

/** What the cgroup's or the machine's memory went to. */
function whatUsedIt(kill: OomKill, details: OomDetails | null): string[] {
  if (details === null) return [];
  const said: string[] = [];
  const stats = details.memcg?.stats;
  const pages = details.memory?.pages;
  const pageSize = details.score.pageSize;
  if (stats !== undefined && Object.keys(stats).length > 0) {
    const parts = usage(
      stats["anon"] ?? stats["rss"],
      stats["file"] ?? stats["cache"],
      stats["shmem"],
      stats["kernel"] ?? kernelOf(stats, details),
    );
    if (parts.length > 0) said.push(`In the cgroup, ${list(parts)}.`);
  } else if (kill.kind !== "memcg" && pages !== undefined && pageSize !== null && pages["active_anon"] !== undefined) {
    const bytes = (...names: string[]): number | undefined => {
      const values = names.map((name) => pages[name]).filter((value) => value !== undefined);
      return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0) * pageSize;
    };
    const parts = usage(
      bytes("active_anon", "inactive_anon"),
      bytes("active_file", "inactive_file"),
      bytes("shmem"),
      bytes("slab_reclaimable", "slab_unreclaimable", "pagetables"),
    );
    if (parts.length > 0) said.push(`On the machine, ${list(parts)}.`);
  }
  const top = biggest(details)
    .slice(0, 3)
    .filter((task) => footprint(task) > 0);
  if (top.length > 1 && pageSize !== null)
    said.push(
      `The largest processes in the report: ${list(top.map((task) => `${named(task)} with ${size(footprint(task) * pageSize)}`))}.`,
    );
  const swap = details.memory;
  if (swap?.totalSwap != null && kill.kind !== "memcg") {
    if (swap.totalSwap === 0) said.push("The machine has no swap.");
    else if (swap.freeSwap !== null) said.push(`Of ${size(swap.totalSwap)} swap, ${size(swap.freeSwap)} was free.`);
  }
  return said;
}

function kernelOf(stats: Record<string, number>, details: OomDetails): number | undefined {
  const parts = [stats["slab"], stats["kernel_stack"], stats["pagetables"], stats["percpu"], stats["sock"]].filter(
    (value) => value !== undefined,
  );
  return parts.length > 0 ? parts.reduce((sum, value) => sum + value, 0) : (details.memcg?.kmem?.usage ?? undefined);
}

function usage(
  anon: number | undefined,
  file: number | undefined,
  shmem: number | undefined,
  kernel: number | undefined,
): string[] {
  const parts: [string, number | undefined][] = [
    ["anonymous memory", anon],
    ["page cache without shared memory", file === undefined ? undefined : Math.max(0, file - (shmem ?? 0))],
    ["shared memory and tmpfs", shmem],
    ["the kernel on its behalf", kernel],
  ];
  return parts
    .filter((part): part is [string, number] => part[1] !== undefined && part[1] > 0)
    .map(([name, bytes]) => `${name} took ${size(bytes)}`);
}

/** What can be done, as far as the records support it. */
function advice(kill: OomKill, details: OomDetails | null): string[] {
  if (kill.trigger === "sysrq") return [];
  if (kill.trigger === "limit-write")
    return ["Lower a limit only after its cgroup has shrunk (memory.high or memory.reclaim first)."];
  const stats = details?.memcg?.stats ?? {};
  const used = details?.memcg?.memory?.usage ?? null;
  switch (kill.kind) {
    case "memcg": {
      const shmem = stats["shmem"] ?? 0;
      if (used !== null && shmem > used / 2)
        return [
          "Most of it is shared memory or tmpfs, which outlives the killed process: delete files there, bound them, or raise the limit.",
        ];
      const kernel = stats["kernel"] ?? details?.memcg?.kmem?.usage ?? 0;
      if (used !== null && kernel > used / 2)
        return [
          "Most of it is kernel memory (sockets, file handles, dentries, page tables), which killing frees only in part: look for leaks of those.",
        ];
      const limit = kill.oomMemcg === null ? "the limit" : `the limit of ${path(kill.oomMemcg)}`;
      return [
        kill.oomMemcg !== null && kill.taskMemcg !== null && kill.oomMemcg !== kill.taskMemcg
          ? `Raise ${limit}, or lower what the cgroups below it may use together.`
          : `Raise ${limit}, or make what runs in it use less.`,
      ];
    }
    case "global":
      // A kernel that does not name the constraint leaves open what was short.
      if (kill.constraint === null)
        return ["If the whole machine was short: give it more memory, or put limits on the largest processes."];
      return [
        details?.memory?.totalSwap === 0
          ? "Give the machine more memory or some swap, or put limits on the largest processes."
          : "Give the machine more memory, or put limits on the largest processes.",
      ];
    case "cpuset":
    case "mempolicy":
      return ["Allow more nodes, or spread the memory: more memory on the other nodes does not help."];
    case "unknown":
      return [];
  }
}

function gaps(kill: OomKill): string[] {
  if (kill.missing.length === 0) return [];
  const names: Record<string, string> = {
    header: "the report's header (who set the OOM killer off)",
    "oom-kill": "the record that names limit and cgroup",
    stack: "the call trace",
    sizes: "the end of the kill line",
  };
  return [`Not in the log: ${list(kill.missing.map((part) => names[part] ?? part))}.`];
}

function biggest(details: OomDetails): OomTask[] {
  return (details.tasks ?? []).toSorted((a, b) => footprint(b) - footprint(a));
}

/** What counts for the score, pages. */
function footprint(task: OomTask): number {
  return (task.rssPages ?? 0) + (task.swapPages ?? 0);
}

function victimFootprint(kill: OomKill, details: OomDetails): number {
  const row = details.tasks?.find((task) => task.pid === kill.victim.pid);
  return row === undefined ? Number.POSITIVE_INFINITY : footprint(row);
}

function named(task: OomTask): string {
  return `process ${task.pid} (${printable(task.name)})`;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function list(items: string[]): string {
  return items.length < 2 ? (items[0] ?? "") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)!}`;
}

function size(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : Number(value.toFixed(1))} ${units[unit]}`;
}
