/** What a scenario is once it has been read: every name checked, every quantity a number. Sizes in bytes, times in ms. */
import type { KubeletConfig, Runtime } from "../kubernetes/config.ts";
import type { PodSpec } from "../kubernetes/pod.ts";

/** One scenario of a file. */
export interface Scenario {
  /** As written, or the file's base name. */
  name: string;
  /** The file as the user named it; `-` for stdin. */
  file: string;
  /** The line its document starts on, from 1. */
  line: number;
  description?: string;
  tags: string[];
  machine: MachineNeeds;
  /** Parents always before their children; parents that the file does not list are in it, without files. */
  cgroups: CgroupSpec[];
  processes: ProcessSpec[];
  steps: Step[];
  expect: Expectations;
  /** null: the default. */
  timeoutMs: number | null;
  /** The node and its Pods; absent: the scenario has none. */
  kubernetes?: KubernetesSpec;
}

/** Pods on a node, as a kubelet lays them out. */
export interface KubernetesSpec {
  node: NodeSpec;
  pods: PodSpec[];
  /** What presses as stated, named `pod/container`; all other containers have an idle process. */
  pressure: ProcessSpec[];
  /** Containers about which nothing is stated: each is pressed past what it may have, in a run of its own. */
  turns: string[];
  /** The one of them that is pressed; null: this is no such run. */
  turn: string | null;
  /** Fields and objects that do not concern memory, each once. */
  ignored: string[];
  /** The API server's warnings. */
  warnings: string[];
}

export interface NodeSpec {
  /** MemTotal as the kubelet sees it; null: the machine's own. */
  memory: number | null;
  /** The kubelet's SwapCapacity; null: the machine's own. */
  swap: number | null;
  kubelet: KubeletConfig;
  runtime: Runtime;
}

/** Where something stands in its file; both count from 1, columns in UTF-16 units as editors do. */
export interface Position {
  line: number;
  column: number;
}

export interface CgroupSpec extends Position {
  /** Relative path: `nginx` or `parent/child`. */
  name: string;
  /** In the order written. */
  files: CgroupFileWrite[];
}

export interface CgroupFileWrite extends Position {
  file: string;
  /** What the kernel takes in that file: bytes as a decimal string, `max` (`-1` in a v1 file), or the text as written. */
  value: string;
  /** As the scenario has it: `200Mi`. */
  raw: string;
}

export interface ProcessSpec extends Position {
  name: string;
  /** null: no limit above it but the machine's. */
  cgroup: string | null;
  workload: Workload;
  oomScoreAdj: number | null;
  user: { uid: number; gid: number } | null;
  /** CPU numbers, ascending. */
  cpus: number[] | null;
  mempolicy: Mempolicy | null;
  /** Names without `RLIMIT_`; -1 is unlimited. */
  rlimits: { resource: string; value: number }[];
  /** `step`: a `start` step names it. */
  start: "auto" | "step";
  /** It starts when these have ended with status 0: the init containers before it. */
  after?: string[];
  /** The process of a container in which nothing presses. */
  idle?: true;
}

export interface Mempolicy {
  mode: "bind" | "preferred" | "interleave";
  /** NUMA node numbers, ascending. */
  nodes: number[];
}

export type Workload =
  | { kind: "stress"; stress: StressWorkload }
  | { kind: "node"; node: NodeWorkload }
  | CommandWorkload;

export interface CommandWorkload {
  kind: "command";
  /** Program and arguments; with `shell` one string for `/bin/sh -c`. */
  command: string[];
  shell: boolean;
  env: Record<string, string>;
  /** As written: relative to the scenario's file. */
  cwd: string | null;
}

/** Bytes, or percent of the limit above the process (of RAM where there is none). */
export type Size = { bytes: number } | { percent: number };

export type MemoryKind =
  | "anon"
  | "shared"
  | "file"
  | "fileWrite"
  | "shmem"
  | "tmpfs"
  | "shm"
  | "mlock"
  | "hugetlb"
  | "stack"
  | "brk"
  | "pipes"
  | "sockets"
  | "kernelStacks";

export interface StressWorkload {
  /** In the order written. */
  memory: { kind: MemoryKind; size: Size }[];
  touch: "page" | "every";
  /** Bytes between two touches; null: a page. */
  stride: number | null;
  content: "zero" | "pattern" | "random";
  populate: boolean;
  /** null: as the system does. */
  hugePages: boolean | null;
  /** The kernel may refuse what it maps; false: MAP_NORESERVE. */
  reserve: boolean;
  /** Bytes a second; null: as fast as it goes. */
  rate: number | null;
  steps: { size: number; everyMs: number } | null;
  delayMs: number;
  /** How long it keeps its memory once touched, in ms; `forever`: until the others have ended. */
  hold: number | "forever";
  /** ms between two touches of all of it while it holds. */
  retouchMs: number | null;
  /** How many times it takes and frees its memory. */
  repeat: number;
  workers: number;
  threads: number;
  /** Further processes that share the worker's memory (CLONE_VM). */
  shareVm: number;
  exitMainThread: boolean;
  /** Where its files are made, as written: relative to the scenario's file. */
  dir: string | null;
}

export interface NodeWorkload {
  /** In the order written. */
  memory: { kind: "addon" | "buffers" | "heap"; size: Size }[];
  rate: number | null;
  delayMs: number;
  hold: number | "forever";
  /** Bytes, whole MiB. */
  maxOldSpaceSize: number | null;
}

/** What the scenario needs of the machine; null: no such need. */
export interface MachineNeeds {
  memory: number | null;
  /** Size 0: it must have none. */
  swap: { size: number; kind: "disk" | "zram" } | null;
  cpus: number | null;
  /** The size of each NUMA node. */
  numa: number[] | null;
  /** A version (`6.1`), `latest`, or a path. */
  kernel: string | null;
  cgroup: 1 | 2 | null;
  sysctl: Record<string, string>;
  thp: string | null;
  zswap: boolean | null;
  /** Of the cgroup2 mount. */
  mountOptions: string[];
  /** Bytes that must be free on whatever machine it runs on. */
  available: number | null;
}

export type Step = Position &
  (
    | { do: "start"; processes: string[] }
    | { do: "sleep"; ms: number }
    | { do: "wait"; until: Condition; timeoutMs: number }
    /** `errno`: the failure that must come, such as EBUSY; null: the write must succeed. */
    | { do: "write"; cgroup: string; file: string; value: string; errno: string | null }
    /** One of process and cgroup is null. */
    | { do: "kill"; process: string | null; cgroup: string | null; signal: string }
    | { do: "move"; process: string; cgroup: string }
    | { do: "reclaim"; cgroup: string; size: number }
    | { do: "swapoff" }
    | { do: "swapon" }
    | { do: "sysrq"; key: string }
    | { do: "dropCaches"; value: number }
  );

export type Condition =
  /** `touched`: bytes; null: all that its workload states. */
  | { of: "process"; process: string; state: "exited" | "touched"; touched: number | null }
  | { of: "counters"; cgroup: string; counters: { key: string; compare: Comparison }[] };

export interface Comparison {
  op: "==" | "!=" | ">" | ">=" | "<" | "<=";
  value: number;
  /** As written: `<=30Mi`. */
  text: string;
}

/** What must be true after the run; null: not stated, so not checked. */
export interface Expectations {
  oom: "memcg" | "global" | "cpuset" | "mempolicy" | "none" | null;
  limit: string | null;
  victims: string[] | null;
  survivors: string[] | null;
  exit: { process: string; exit: number | string }[];
  /** A range is two entries with the same key. */
  counters: { cgroup: string; key: string; compare: Comparison }[];
  /** JavaScript regular expressions, without slashes. */
  log: { pattern: string }[];
  trigger: "allocation" | "limit-write" | "sysrq" | null;
  panic: boolean | null;
  withinMs: number | null;
  /** What ended the first process: the kernel's kill, or the kubelet's decision to evict its Pod. */
  first?: "oom" | "eviction" | null;
  /** Exactly the Pods that the kubelet evicts; []: none. */
  evicted?: string[] | null;
  /** Key path below `expect` (`oom`, `exit.nginx`, `counters.nginx.memory.peak`) -> its place, for reports. */
  where: Record<string, Position>;
}
