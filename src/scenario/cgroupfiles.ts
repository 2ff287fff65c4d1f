/** The control files of the kernel's memory, cpuset and core cgroup interfaces: what a scenario may write and compare. */

/**
 * How a value is written.
 * `size`: bytes or max; `flag`: 0 or 1; `integer`: a whole number from 0 (or max, where `max` is true);
 * `list`: CPU or node numbers such as 0-1,3; `words`: one of `words`; `text`: as it stands.
 */
export type FileType = "size" | "flag" | "integer" | "list" | "words" | "text";

export interface CgroupFile {
  /** The cgroup versions that have it: in a scenario v2's names are translated, v1's own make it v1-only. */
  readonly versions: readonly (1 | 2)[];
  readonly type: FileType;
  /** May stand under `cgroups:`; the others can only be written by a step, because they act instead of holding a value. */
  readonly setting: boolean;
  readonly about: string;
  readonly words?: readonly string[];
  readonly range?: readonly [number, number];
  readonly max?: boolean;
}

const v1 = [1] as const;
const v2 = [2] as const;
const both = [1, 2] as const;

type Details = Pick<CgroupFile, "words" | "range" | "max">;
const setting = (
  versions: CgroupFile["versions"],
  type: FileType,
  about: string,
  details: Details = {},
): CgroupFile => ({ versions, type, setting: true, about, ...details });
const action = (
  versions: CgroupFile["versions"],
  type: FileType,
  about: string,
  details: Details = {},
): CgroupFile => ({ versions, type, setting: false, about, ...details });

/** Every file that can be written, by name. */
export const CGROUP_FILES: ReadonlyMap<string, CgroupFile> = new Map<string, CgroupFile>([
  [
    "memory.max",
    setting(v2, "size", "the hard limit: above it, reclaim and then the OOM killer (v1: memory.limit_in_bytes)"),
  ],
  ["memory.high", setting(v2, "size", "the throttle limit: above it, reclaim and sleep, never a kill")],
  ["memory.low", setting(v2, "size", "best-effort protection from reclaim")],
  ["memory.min", setting(v2, "size", "hard protection from reclaim (not from the OOM killer)")],
  [
    "memory.swap.max",
    setting(v2, "size", "the limit of swap (v1: memory.memsw.limit_in_bytes holds memory and swap together)"),
  ],
  ["memory.swap.high", setting(v2, "size", "the throttle limit of swap")],
  ["memory.zswap.max", setting(v2, "size", "the limit of compressed memory in zswap")],
  ["memory.zswap.writeback", setting(v2, "flag", "whether zswap may write back to the swap device")],
  ["memory.oom.group", setting(v2, "flag", "1: the OOM killer takes the whole cgroup")],
  ["memory.reclaim", action(v2, "text", "reclaims so many bytes now (there is a step for it: reclaim)")],
  ["memory.peak", action(v2, "text", "any write resets the peak that this opener sees (6.12)")],
  ["memory.swap.peak", action(v2, "text", "any write resets the peak that this opener sees (6.12)")],
  ["memory.pressure", action(v2, "text", "a PSI trigger: some 150000 1000000")],
  ["cgroup.type", setting(v2, "words", "threaded: a cgroup of threads", { words: ["threaded"] })],
  ["cgroup.subtree_control", setting(v2, "text", "controllers for the children: +memory -cpuset")],
  ["cgroup.max.descendants", setting(v2, "integer", "how many cgroups may stand below", { max: true })],
  ["cgroup.max.depth", setting(v2, "integer", "how deep cgroups may stand below", { max: true })],
  ["cgroup.freeze", setting(v2, "flag", "1: its processes stand still")],
  ["cgroup.kill", action(v2, "words", "1: SIGKILL for all of its processes", { words: ["1"] })],
  ["cgroup.pressure", setting(v2, "flag", "0: no PSI accounting")],
  ["cpuset.cpus", setting(both, "list", "the CPUs its processes may use")],
  ["cpuset.mems", setting(both, "list", "the NUMA nodes its processes may use")],
  ["cpuset.cpus.exclusive", setting(v2, "list", "CPUs for an own partition")],
  [
    "cpuset.cpus.partition",
    setting(v2, "words", "whether its CPUs are its alone", { words: ["member", "root", "isolated"] }),
  ],

  ["memory.limit_in_bytes", setting(v1, "size", "v1: the hard limit")],
  ["memory.memsw.limit_in_bytes", setting(v1, "size", "v1: the hard limit of memory and swap together")],
  ["memory.soft_limit_in_bytes", setting(v1, "size", "v1: what global reclaim pushes it back to")],
  ["memory.kmem.limit_in_bytes", setting(v1, "size", "v1: the limit of kernel memory (gone since 5.16)")],
  ["memory.kmem.tcp.limit_in_bytes", setting(v1, "size", "v1: the limit of TCP buffers")],
  ["memory.oom_control", setting(v1, "flag", "v1: 1 switches the OOM killer off, so that processes wait instead")],
  ["memory.swappiness", setting(v1, "integer", "v1: how readily anonymous memory is swapped", { range: [0, 200] })],
  ["memory.use_hierarchy", setting(v1, "flag", "v1: whether children count against this limit")],
  [
    "memory.move_charge_at_immigrate",
    setting(v1, "integer", "v1: which charges move along with a process", { range: [0, 3] }),
  ],
  ["memory.force_empty", action(v1, "text", "v1: reclaims all it can of an empty cgroup")],
  ["memory.failcnt", action(v1, "text", "v1: 0 resets the count of hits of the limit")],
  ["memory.max_usage_in_bytes", action(v1, "text", "v1: 0 resets the peak")],
  ["memory.memsw.failcnt", action(v1, "text", "v1: 0 resets the count of hits of the memsw limit")],
  ["memory.memsw.max_usage_in_bytes", action(v1, "text", "v1: 0 resets the memsw peak")],
  ["memory.pressure_level", action(v1, "text", "v1: registers for memory pressure")],
  ["cgroup.clone_children", setting(v1, "flag", "v1: children inherit cpuset's settings")],
  ["notify_on_release", setting(v1, "flag", "v1: calls the release agent when it becomes empty")],
  ["cpuset.cpu_exclusive", setting(v1, "flag", "v1: no sibling may use its CPUs")],
  ["cpuset.mem_exclusive", setting(v1, "flag", "v1: no sibling may use its nodes")],
  ["cpuset.mem_hardwall", setting(v1, "flag", "v1: kernel memory keeps to its nodes too")],
  ["cpuset.memory_migrate", setting(v1, "flag", "v1: pages move along when its nodes change")],
  ["cpuset.memory_spread_page", setting(v1, "flag", "v1: spreads the page cache over its nodes")],
  ["cpuset.memory_spread_slab", setting(v1, "flag", "v1: spreads slabs over its nodes")],
  ["cpuset.sched_load_balance", setting(v1, "flag", "v1: whether load is balanced over its CPUs")],
]);

/**
 * What can be compared: a file with one number (`keys` null), or the keys of a file with several.
 * `open`: other keys than those listed exist too, kernels differ.
 */
export interface CounterFile {
  readonly versions: readonly (1 | 2)[];
  readonly keys: readonly string[] | null;
  readonly open?: boolean;
}

const STAT_V2 =
  "anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem zswap zswapped file_mapped file_dirty file_writeback swapcached anon_thp file_thp shmem_thp inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable slab workingset_refault_anon workingset_refault_file workingset_activate_anon workingset_activate_file workingset_restore_anon workingset_restore_file workingset_nodereclaim pgscan pgsteal pgscan_kswapd pgscan_direct pgsteal_kswapd pgsteal_direct pgfault pgmajfault pgrefill pgactivate pgdeactivate pglazyfree pglazyfreed zswpin zswpout zswpwb thp_fault_alloc thp_collapse_alloc hugetlb";
const STAT_V1 =
  "cache rss rss_huge shmem mapped_file dirty writeback swap swapcached pgpgin pgpgout pgfault pgmajfault inactive_anon active_anon inactive_file active_file unevictable hierarchical_memory_limit hierarchical_memsw_limit total_cache total_rss total_rss_huge total_shmem total_mapped_file total_dirty total_writeback total_swap total_swapcached total_pgpgin total_pgpgout total_pgfault total_pgmajfault total_inactive_anon total_active_anon total_inactive_file total_active_file total_unevictable";
const EVENTS = ["low", "high", "max", "oom", "oom_kill", "oom_group_kill", "sock_throttled"];
const PRESSURE = [
  "some.avg10",
  "some.avg60",
  "some.avg300",
  "some.total",
  "full.avg10",
  "full.avg60",
  "full.avg300",
  "full.total",
];
const number = (versions: CounterFile["versions"]): CounterFile => ({ versions, keys: null });

/** Every file whose content `expect.counters` and `wait` can compare, by name. */
export const COUNTER_FILES: ReadonlyMap<string, CounterFile> = new Map<string, CounterFile>([
  ["memory.current", number(v2)],
  ["memory.peak", number(v2)],
  ["memory.events", { versions: v2, keys: EVENTS }],
  ["memory.events.local", { versions: v2, keys: EVENTS }],
  ["memory.stat", { versions: both, keys: [...new Set([...STAT_V2.split(" "), ...STAT_V1.split(" ")])], open: true }],
  ["memory.swap.current", number(v2)],
  ["memory.swap.peak", number(v2)],
  ["memory.swap.events", { versions: v2, keys: ["high", "max", "fail"] }],
  ["memory.zswap.current", number(v2)],
  ["memory.pressure", { versions: v2, keys: PRESSURE }],
  ["cgroup.events", { versions: v2, keys: ["populated", "frozen"] }],
  // The number of processes in it: a list of numbers is no counter, how many there are is.
  ["cgroup.procs", number(both)],
  ["cgroup.stat", { versions: v2, keys: ["nr_descendants", "nr_dying_descendants"], open: true }],
  ["memory.usage_in_bytes", number(v1)],
  ["memory.max_usage_in_bytes", number(v1)],
  ["memory.failcnt", number(v1)],
  ["memory.memsw.usage_in_bytes", number(v1)],
  ["memory.memsw.max_usage_in_bytes", number(v1)],
  ["memory.memsw.failcnt", number(v1)],
  ["memory.kmem.usage_in_bytes", number(v1)],
  ["memory.kmem.max_usage_in_bytes", number(v1)],
  ["memory.kmem.failcnt", number(v1)],
  ["memory.kmem.tcp.usage_in_bytes", number(v1)],
  ["memory.oom_control", { versions: v1, keys: ["oom_kill_disable", "under_oom", "oom_kill"] }],
  // A limit reads back as it was rounded.
  ...[...CGROUP_FILES].flatMap(([name, file]): [string, CounterFile][] =>
    file.setting &&
    name !== "memory.oom_control" &&
    (file.type === "size" || file.type === "flag" || file.type === "integer")
      ? [[name, number(file.versions)]]
      : [],
  ),
]);

/** Splits `memory.events.local.oom_kill` into its file and key; null where no file is named so. */
export function splitCounter(name: string): { file: string; key: string | null; known: CounterFile } | null {
  let end = name.length;
  while (end > 0) {
    const file = name.slice(0, end);
    const known = COUNTER_FILES.get(file);
    const key = end === name.length ? null : name.slice(end + 1);
    if (known !== undefined && (key === null) === (known.keys === null)) {
      const good =
        key === null || known.keys?.includes(key) === true || (known.open === true && /^[a-z][a-z0-9_]*$/.test(key));
      if (good) return { file, key, known };
    }
    end = name.lastIndexOf(".", end - 1);
  }
  return null;
}

/** All counter names in full, for suggestions. */
export function counterNames(): string[] {
  return [...COUNTER_FILES].flatMap(([file, { keys }]) =>
    keys === null ? [file] : keys.map((key) => `${file}.${key}`),
  );
}
