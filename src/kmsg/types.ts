/** One kernel log record. */
export interface KmsgRecord {
  /** Sequence number, from /dev/kmsg. */
  seq: number | null;
  /** Time since boot in microseconds, where the format has it. */
  timeUs: number | null;
  /** syslog facility, 0 = kernel; null where the format drops it. */
  facility: number | null;
  /** syslog level, 0 (emergency) to 7 (debug). */
  level: number | null;
  /** printk caller id, "T123" (task) or "C0" (CPU). */
  caller: string | null;
  /** The message, unescaped, without prefixes; may hold newlines when the record did. */
  text: string;
  /** First line of the record in the input, from 1. */
  line: number;
  /** Date and time of day as the log wrote them, where it did. */
  date?: string;
  /** True where the line had no prefix at all: a record of a stripped log, a wrapped line, or another program's output. */
  bare?: boolean;
}

/** The kernel's constraint in short; `unknown` where the log does not say. */
export type OomKind = "memcg" | "global" | "cpuset" | "mempolicy" | "unknown";

/** How the OOM killer came to run. `limit-write`: somebody lowered memory.max. */
export type OomTrigger = "allocation" | "limit-write" | "sysrq" | "unknown";

/** The process that `Killed process` names. Sizes in bytes; null where the line does not say. */
export interface OomVictim {
  /** As the initial pid namespace knows it; since 5.1 it may be a thread id, see `OomKill.tgid`. */
  pid: number;
  comm: string;
  uid: number | null;
  totalVm: number | null;
  anonRss: number | null;
  fileRss: number | null;
  shmemRss: number | null;
  pgtables: number | null;
  oomScoreAdj: number | null;
}

/** One OOM kill: one victim. */
export interface OomKill {
  /** From `constraint=`, else from what the format can say, see docs/kernel-log.md. */
  kind: OomKind;
  /** "CONSTRAINT_MEMCG" as the kernel wrote it, else null. */
  constraint: string | null;
  trigger: OomTrigger;
  /** Path of the memory cgroup whose limit was hit. */
  oomMemcg: string | null;
  /** Path of the victim's own memory cgroup. */
  taskMemcg: string | null;
  /** Killed together with its cgroup because of memory.oom.group. Of the victim that was selected first it turns true when that record arrives. */
  group: boolean;
  victim: OomVictim;
  /** "Memory cgroup out of memory" (memcg) or "Out of memory" (global: node-level); null where the kill has neither. */
  prefix: "memcg" | "global" | null;
  /** First line of the report in the input, from 1. */
  line: number;
  /** Sequence number of the `Killed process` record. */
  seq: number | null;
  /** Time of the `Killed process` record. */
  timeUs: number | null;
  /** Date and time of day of that record, as the log wrote them; null where it did not. */
  date: string | null;
  /** The TGID that `oom-kill:` names, where it differs from the killed TID. */
  tgid: number | null;
  /** Lines of the records that the kill was told from, ascending. */
  lines: number[];
  /** What the log does not show of this report: "header" (invoked oom-killer), "oom-kill" (or "Task in" before 5.0), "stack", "sizes" (cut kill line). */
  missing: string[];
  details?: OomDetails;
}

/** Memory counters of a cgroup, bytes. `limit` is "max" where there is none. */
export interface MemcgCounter {
  usage: number | null;
  limit: number | "max" | null;
  failcnt: number | null;
}

/** A row of the task table. Sizes in pages of the kernel, except `pgtables` (bytes); null where the table has no such column. */
export interface OomTask {
  pid: number;
  uid: number | null;
  tgid: number | null;
  totalVmPages: number | null;
  rssPages: number | null;
  rssAnonPages: number | null;
  rssFilePages: number | null;
  rssShmemPages: number | null;
  /** Page tables in bytes (4.15+), null before. */
  pgtables: number | null;
  /** Page-table pages (nr_ptes + nr_pmds + nr_puds), before 4.15. */
  pgtablePages: number | null;
  swapPages: number | null;
  oomScoreAdj: number | null;
  name: string;
}

/** Where the victim's score comes from (mm/oom_kill.c oom_badness()). */
export interface OomScore {
  /** As the kernel printed it ("score N", up to 5.0); null since 5.1. */
  printed: number | null;
  /** Computed from the table row and the limit, on the printed scale of old kernels (1000 = the whole limit); null where a part is missing. */
  computed: number | null;
  /** The parts, pages: anonymous + file + shmem memory, swap entries, page tables. */
  rssPages: number | null;
  swapPages: number | null;
  pgtablePages: number | null;
  /** oom_score_adj of the victim: each point is a thousandth of the total. */
  oomScoreAdj: number | null;
  /** What the score is relative to: the memcg's limit or the machine's memory with swap, pages. */
  totalPages: number | null;
  /** Size of a page in bytes, where the report lets it be worked out. */
  pageSize: number | null;
  /** What `computed` takes for granted that the report does not say; null where nothing. */
  assumes: string | null;
}

/** What else the report says. Bytes and integers; null where not observed. */
export interface OomDetails {
  /** Who allocated when the memory ran out; not the victim. */
  invoker: {
    comm: string;
    pid: number | null;
    uid: number | null;
    cpu: number | null;
    oomScoreAdj: number | null;
  } | null;
  /** Kernel release from the `CPU:`/`Pid:` line. */
  kernel: string | null;
  gfpMask: number | null;
  /** As the kernel decoded it (4.6+). */
  gfpFlags: string[] | null;
  order: number | null;
  /** cpuset of the allocating task, last path component. */
  cpuset: string | null;
  memsAllowed: string | null;
  /** "(null)" as the kernel prints it means no mask: null here. */
  nodemask: string | null;
  /** Call trace, function names from the innermost; unreliable ("? ") frames left out. */
  stack: string[];
  /** The cgroup's own counters. */
  memcg: {
    memory: MemcgCounter | null;
    /** cgroup v2. */
    swap: MemcgCounter | null;
    /** cgroup v1: memory+swap. */
    memsw: MemcgCounter | null;
    kmem: MemcgCounter | null;
    /** memory.stat of the cgroup; bytes for sizes, counts for events. */
    stats: Record<string, number>;
  } | null;
  /** Mem-Info. `pages`: the totals, in pages; `nodes` and `zones` in bytes; the rest in bytes. */
  memory: {
    pages: Record<string, number>;
    nodes: Record<string, Record<string, number>>;
    zones: Record<string, Record<string, number>>;
    pagecachePages: number | null;
    swapCachePages: number | null;
    freeSwap: number | null;
    totalSwap: number | null;
    ramPages: number | null;
    reservedPages: number | null;
    /** Of a 32-bit machine: memory that the kernel's own allocations cannot use. */
    highmemPages: number | null;
    /** Reserved huge pages, bytes. */
    hugetlb: number | null;
    /** Of each zone the free blocks, by size in bytes: how many. */
    freeBlocks: Record<string, Record<string, number>>;
  } | null;
  /** The task table; null when the report has none. `omitted` rows did not fit the reader's bounds. */
  tasks: OomTask[] | null;
  omitted: number;
  /** Slab caches that `Unreclaimable slab info` lists, bytes. */
  slab: Record<string, { used: number; total: number }>;
  /** The task that was chosen, where an old kernel killed a child in its place. */
  chosen: { pid: number; comm: string } | null;
  /** vm.oom_kill_allocating_task made the allocating task the victim. */
  allocatingTask: boolean;
  score: OomScore;
  /** `oom_reaper:` line of the victim; bytes left. Null until it arrives, or where it never did. */
  reaper: { anonRss: number | null; fileRss: number | null; shmemRss: number | null; line: number } | null;
  /** cgroup that memory.oom.group emptied. */
  groupPath: string | null;
  /** pids killed with it, where this victim was selected first. */
  groupMembers: number[];
}

/** A report that cannot be told as a kill, or the line from which on the log cannot be read. */
export interface OomIncomplete {
  line: number;
  reason: string;
  /** Where the report says whom it selects: that, and for whose limit. */
  kind?: OomKind;
  pid?: number | null;
  comm?: string | null;
  oomMemcg?: string | null;
  taskMemcg?: string | null;
}

export interface OomScan {
  kills: OomKill[];
  /** Reports of which too little is there to tell a kill. */
  incomplete: OomIncomplete[];
  /** Sum of `oom_kill_process: N callbacks suppressed`: reports whose header and constraint the kernel dropped. */
  suppressed: number;
  /** `no killable processes`: the OOM killer ran and found nobody. */
  noVictim: { line: number; lines: number[] }[];
  /** What programs that kill for memory (systemd-oomd, earlyoom) logged of their own kills, where the log has it. */
  others?: { line: number; by: string; text: string }[];
  /** Panics for want of memory. */
  panics: { line: number; text: string }[];
}

export interface OomScanOptions {
  /** Also gather `OomKill.details`. */
  details?: boolean;
}
