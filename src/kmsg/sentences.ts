import { printable } from "../printable.ts";
import { limitWords } from "./cgroup-owner.ts";
import {
  type Shortage,
  byName,
  cgroupKernel,
  cgroupParts,
  machineParts,
  pageSizeOf,
  shortageOf,
} from "./memory-use.ts";
import type { OomDetails, OomKill, OomTask } from "./types.ts";

/**
 * Plain-words explanation of a kill, one sentence per element: who, for whose limit, why this one, what used the
 * memory, what can be done. More with `details`. Says nothing that the records do not show; names are escaped.
 */
export function explainKill(kill: OomKill): string[] {
  const details = kill.details ?? null;
  const shortage = details === null || kill.kind !== "global" ? null : shortageOf(details);
  return [
    whatHappened(kill, shortage),
    ...whoseLimit(kill, details),
    ...trigger(kill, details),
    ...victimSize(kill),
    ...whyThisOne(kill, details),
    ...group(kill, details),
    ...whatUsedIt(kill, details),
    ...advice(kill, details, shortage),
    ...gaps(kill),
  ];
}

function victimName(kill: OomKill): string {
  return `process ${kill.victim.pid} (${printable(kill.victim.comm)})`;
}

function whatHappened(kill: OomKill, shortage: Shortage): string {
  const victim = victimName(kill);
  switch (kill.kind) {
    case "memcg":
      return `The kernel killed ${victim} because ${kill.oomMemcg === null ? "a memory cgroup (a container's limit, say)" : `the memory cgroup ${printable(kill.oomMemcg)}`} was at its limit and too little could be reclaimed; the machine as a whole need not have been short of memory.`;
    case "global":
      return kill.trigger === "sysrq"
        ? `The kernel killed ${victim} because an OOM kill was requested by hand (SysRq-f, or a tool that uses it): this says nothing about a shortage of memory.`
        : shortage === null
          ? `The kernel killed ${victim} because the machine had run out of memory${kill.constraint === null ? " (or the part of it that a cpuset or a memory policy allows: kernels up to 5.0 do not tell these apart)" : ""}; no cgroup's limit was involved.`
          : `The kernel killed ${victim}, but the machine had not run out of memory: ${shortageWords(shortage)}.`;
    case "cpuset":
      return `The kernel killed ${victim} because the memory nodes that a cpuset allows had run out of memory; other nodes may have had plenty.`;
    case "mempolicy":
      return `The kernel killed ${victim} because the memory nodes that a NUMA memory policy (mbind, set_mempolicy, numactl) allows had run out of memory; other nodes may have had plenty.`;
    case "unknown":
      if (kill.constraint !== null)
        return `The kernel killed ${victim} for a reason of its own (${printable(kill.constraint)}: an OOM policy's, say); the log does not show that a limit was reached or the machine was short of memory.`;
      return kill.prefix === "global"
        ? `The kernel killed ${victim} because memory ran out outside any memory cgroup's limit: on the whole machine, or on the nodes that a cpuset or a memory policy allows; the record that shows which is not in the log.`
        : `The kernel killed ${victim}; the log does not show whether a cgroup's limit or the machine's memory was the reason.`;
  }
}

function shortageWords(shortage: NonNullable<Shortage>): string {
  const free = size(shortage.free);
  switch (shortage.type) {
    case "page-fault":
      return `${free} were free. A page fault failed for another reason (gfp_mask=0x0: a limit on a cgroup's kernel memory, say), for which kernels up to about 5.15 started the OOM killer`;
    case "fragmentation":
      return `${free} were free, but ${size(shortage.wanted)} in one piece were asked for and ${shortage.largest === null ? "no such block was found" : `the free blocks were smaller (${size(shortage.largest)} at most)`}: memory was fragmented`;
    case "zone":
      return `${free} were free, but the kernel's own allocation may not use ${shortage.highmem ? "high memory and " : ""}what is reserved for CMA: ${size(shortage.usable)} were left of the rest`;
  }
}

function whoseLimit(kill: OomKill, details: OomDetails | null): string[] {
  const said: string[] = [];
  const { oomMemcg, taskMemcg } = kill;
  const limit = oomMemcg === null ? null : limitWords(oomMemcg);
  const owner = taskMemcg === null ? null : limitWords(taskMemcg);
  const of = owner === null || taskMemcg?.endsWith(`/${owner}`) === true ? "" : ` (${printable(owner)})`;
  if (limit !== null && kill.kind === "memcg") said.push(`It is the limit of ${printable(limit)}.`);
  if (oomMemcg !== null && taskMemcg !== null && oomMemcg !== taskMemcg) {
    const below = taskMemcg.startsWith(`${oomMemcg}/`) ? taskMemcg.slice(oomMemcg.length + 1) : taskMemcg;
    said.push(
      `The limit that was hit is not the victim's own: it counts everything below it, and the victim ran in ${printable(below)}${owner === limit ? "" : of}.`,
    );
  } else if (oomMemcg === null && taskMemcg !== null) {
    said.push(
      taskMemcg === "/"
        ? "The victim ran in the root cgroup, which has no limit."
        : `The victim ran in the cgroup ${printable(taskMemcg)}${of}, whose own limit was not the reason.`,
    );
  }
  if (kill.kind === "cpuset" && details?.memsAllowed != null)
    said.push(
      `The process that needed memory may use node ${printable(details.memsAllowed)} only${details.cpuset === null ? "" : ` (cpuset ${printable(details.cpuset)})`}; the victim may run elsewhere.`,
    );
  if (kill.kind === "mempolicy" && details?.nodemask != null)
    said.push(`The policy allows node ${printable(details.nodemask)} only.`);
  const memory = details?.memcg?.memory;
  if (memory?.usage != null && memory.limit !== null) {
    const failed = memory.failcnt === null ? "" : `, and charges had failed ${memory.failcnt} times`;
    if (memory.limit === 0) said.push(`Its limit is 0: nothing can run in it (it used ${size(memory.usage)}).`);
    else
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
    const who = details?.invoker == null ? "A process" : printable(details.invoker.comm);
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
      (task) => task.pid !== kill.victim.pid && scored(task) > victimScored(kill, details),
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
  const place =
    details?.groupPath == null
      ? "its cgroup"
      : details.groupPath === kill.oomMemcg
        ? "that cgroup"
        : printable(details.groupPath);
  return [
    `memory.oom.group is set on ${place}: the kernel killed all processes in it together${members > 0 ? `, ${members} besides this one` : ""}.`,
  ];
}

/** What the cgroup's or the machine's memory went to. */
function whatUsedIt(kill: OomKill, details: OomDetails | null): string[] {
  if (details === null) return [];
  const said: string[] = [];
  const took = cgroupParts(details).map(({ name, bytes }) => `${name} took ${size(bytes)}`);
  if (took.length > 0) said.push(`In the cgroup, ${list(took)}.`);
  else if (kill.kind !== "memcg") {
    const { whole, parts, other } = machineParts(details);
    const used = parts.map(({ name, bytes }) =>
      name === "free memory" ? `${size(bytes)} was free` : `${name} took ${size(bytes)}`,
    );
    if (used.length > 0) said.push(`On the machine${whole === null ? "" : ` of ${size(whole)}`}, ${list(used)}.`);
    if (whole !== null && other > whole / 10 && other >= NOTABLE)
      said.push(`${size(other)} is in none of these: a driver, ZFS's ARC or a leak in the kernel may hold it.`);
  }
  const names = byName(details.tasks ?? []).slice(0, 5);
  if ((details.tasks?.length ?? 0) > 1 && names.length > 0) {
    const page = pageSizeOf(details);
    const rows = names.map(
      ({ name, count, pages }) => `${count === 1 ? "" : `${count} x `}${printable(name)}: ${size(pages * page)}`,
    );
    said.push(`The processes in the report, by name: ${list(rows)}.`);
  }
  const swap = details.memory;
  if (swap?.totalSwap != null && kill.kind !== "memcg") {
    if (swap.totalSwap === 0) said.push("The machine has no swap.");
    else if (swap.freeSwap !== null)
      said.push(
        `Of ${size(swap.totalSwap)} swap, ${size(swap.freeSwap)} was free${swap.freeSwap > swap.totalSwap / 10 ? ": swap was not what ran out" : ""}.`,
      );
  }
  return said;
}

// Less than this is not worth a word of advice.
const NOTABLE = 256 * 1024 * 1024;
const FLOOR = 1024 * 1024;

/** What can be done, as far as the records support it. */
function advice(kill: OomKill, details: OomDetails | null, shortage: Shortage): string[] {
  if (kill.trigger === "sysrq") return [];
  switch (shortage?.type) {
    case "page-fault":
      return [
        "More memory would not have helped: look for limits on kernel memory (memory.kmem) and update the kernel.",
      ];
    case "fragmentation":
      return ["More memory alone does not help: compact it (vm.compact_memory), or raise vm.min_free_kbytes."];
    case "zone":
      return ["More memory does not help where this allocation cannot use it: a 64-bit kernel, or less CMA, does."];
    case undefined:
      break;
  }
  if (kill.trigger === "limit-write")
    return ["Lower a limit only after its cgroup has shrunk (memory.high or memory.reclaim first)."];
  const stats = details?.memcg?.stats ?? {};
  const used = details?.memcg?.memory?.usage ?? null;
  switch (kill.kind) {
    case "memcg": {
      const shmem = stats["shmem"] ?? 0;
      if (used !== null && shmem > used / 2 && shmem >= FLOOR)
        return [
          "Most of it is shared memory or tmpfs, which outlives the killed process: delete files there, bound them, or raise the limit.",
        ];
      const kernel = details === null ? 0 : (cgroupKernel(details) ?? 0);
      if (used !== null && kernel > used / 2 && kernel >= FLOOR)
        return [
          "Most of it is kernel memory (sockets, file handles, dentries, page tables), which killing frees only in part: look for leaks of those.",
        ];
      if (details?.memcg?.memory?.limit === 0) return ["Set a limit above 0."];
      return [
        kill.oomMemcg !== null && kill.taskMemcg !== null && kill.oomMemcg !== kill.taskMemcg
          ? "Raise that limit, or lower what the cgroups below it may use together."
          : "Raise the limit, or make what runs in it use less.",
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
  return (details.tasks ?? []).toSorted((a, b) => scored(b) - scored(a));
}

/** What counts for the score, pages. */
function scored(task: OomTask): number {
  return (task.rssPages ?? 0) + (task.swapPages ?? 0);
}

function victimScored(kill: OomKill, details: OomDetails): number {
  const row = details.tasks?.find((task) => task.pid === kill.victim.pid);
  return row === undefined ? Number.POSITIVE_INFINITY : scored(row);
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
