import type { ChosenLine, HeaderLine, KilledLine, SelectedLine } from "./grammar.ts";
import { readHeader } from "./match.ts";
import type { MemcgCounter, OomDetails, OomScore, OomTask } from "./types.ts";

/** Lines of a report, kept until its kill is known. */
export interface ReportText {
  lines: string[];
  size: number;
  omitted: number;
}

/** What the scanner knows of the report besides its lines. */
export interface ReportFacts {
  header: HeaderLine | null;
  selected: SelectedLine | null;
  chosen: ChosenLine | null;
}

export function newReportText(): ReportText {
  return { lines: [], size: 0, omitted: 0 };
}

const MAX_LINES = 50_000;
const MAX_SIZE = 8_000_000;

/** Keeps a line of a report, within bounds. */
export function addContext(report: ReportText, text: string): void {
  if (report.lines.length >= MAX_LINES || report.size + text.length > MAX_SIZE) {
    report.omitted++;
    return;
  }
  report.size += text.length;
  report.lines.push(text);
}

/** `oom_reaper: reaped process N (c), now anon-rss:..kB, file-rss:..kB, shmem-rss:..kB` (mm/oom_kill.c oom_reap_task_mm(), 4.6+). */
export function readReaper(
  text: string,
): { pid: number; anonRss: number | null; fileRss: number | null; shmemRss: number | null } | null {
  const start = /^oom_reaper: reaped process :?(\d{1,10}) \(/.exec(text.slice(0, 48));
  const end = /\), now anon-rss:(\d{1,16})kB, file-rss:(\d{1,16})kB(?:, shmem-rss:(\d{1,16})kB)?\s*$/.exec(
    text.slice(-160),
  );
  if (start === null || end === null) return null;
  return { pid: Number(start[1]), anonRss: kib(end[1]), fileRss: kib(end[2]), shmemRss: kib(end[3]) };
}

/** Reads what a report says besides the kill. `text` is null where the log has only the kill. */
export function readDetails(text: ReportText | null, facts: ReportFacts | null, killed: KilledLine): OomDetails {
  const header = facts?.header ?? null;
  const fields = header === null ? null : readHeader(header);
  const selected = facts?.selected ?? null;
  const chosen = facts?.chosen ?? null;
  const details: OomDetails = {
    invoker:
      header === null
        ? null
        : { comm: header.comm, pid: null, uid: null, cpu: null, oomScoreAdj: fields?.oomScoreAdj ?? null },
    kernel: null,
    gfpMask: fields?.gfpMask ?? null,
    gfpFlags: fields?.gfpFlags == null ? null : fields.gfpFlags.split("|").filter((flag) => flag !== ""),
    order: header?.order ?? null,
    cpuset: selected?.cpuset ?? null,
    memsAllowed: selected?.memsAllowed ?? null,
    nodemask: selected?.nodemask ?? fields?.nodemask ?? null,
    stack: [],
    memcg: null,
    memory: null,
    tasks: null,
    omitted: text?.omitted ?? 0,
    slab: {},
    chosen: chosen !== null && chosen.pid !== killed.pid ? { pid: chosen.pid, comm: chosen.comm } : null,
    allocatingTask: killed.allocating || chosen?.allocating === true,
    score: {
      printed: chosen?.score ?? null,
      computed: null,
      rssPages: null,
      swapPages: null,
      pgtablePages: null,
      oomScoreAdj: null,
      totalPages: null,
      pageSize: null,
      assumes: null,
    },
    reaper: null,
    groupPath: null,
    groupMembers: [],
  };
  if (text !== null) readLines(text.lines, details);
  details.score = readScore(
    details,
    killed,
    selected !== null ? selected.constraint === "CONSTRAINT_MEMCG" : details.memcg !== null,
    selected?.constraint === "CONSTRAINT_CPUSET" || selected?.constraint === "CONSTRAINT_MEMORY_POLICY",
  );
  return details;
}

type Section = "none" | "stats" | "memory" | "table" | "slab";

function readLines(records: string[], details: OomDetails): void {
  let section: Section = "none";
  let columns: string[] = [];
  let half: string | null = null;
  // A record may hold several lines: memory.stat is printed as one from 5.3 on.
  const lines = records.some((record) => record.includes("\n"))
    ? records.flatMap((record) => record.split("\n"))
    : records;
  for (const raw of lines) {
    const line = raw.length > 2048 ? raw.slice(0, 2048).trim() : raw.trim();
    if (line === "") continue;
    if (section === "stats") {
      const stat = /^([a-z_0-9]{2,48}) (\d{1,20})$/.exec(line);
      if (stat !== null && details.memcg !== null) {
        details.memcg.stats[stat[1]!] = Number(stat[2]);
        continue;
      }
      section = "none";
    }
    // Wrapped rows: the name, or the last columns, stand on the next line.
    if (half !== null) {
      const joined: string = `${half} ${line}`;
      half = null;
      if (line[0] !== "[") {
        if (columns.length > 0 && columns.at(-1) !== "name") columns = tableColumns(joined) ?? columns;
        else addTask(details, columns, joined);
        continue;
      }
    }
    if (line[0] === "[") {
      const found = tableColumns(line);
      if (found !== null) {
        section = "table";
        columns = found;
        details.tasks ??= [];
        if (columns.at(-1) !== "name") half = line;
        continue;
      }
      if (section === "table" && /^\[ *\d{1,10}\]/.test(line)) {
        if (!addTask(details, columns, line)) half = line;
        continue;
      }
    }
    const frame = !line.includes("+0x")
      ? null
      : /^(?:\[<[0-9a-f]{1,16}>\] )?([A-Za-z_][\w.]{0,120})\+0x[0-9a-f]{1,8}\/0x[0-9a-f]{1,8}/.exec(line);
    if (frame !== null) {
      if (details.stack.length < 64) details.stack.push(frame[1]!);
      continue;
    }
    const first = line.charCodeAt(0);
    if ((first === 67 || first === 80) && /^(?:CPU: \d|Pid: \d)/.test(line)) {
      readInvoker(line, details);
      continue;
    }
    const cpuset =
      details.cpuset !== null || !line.includes(" cpuset=")
        ? null
        : /^.{1,64} cpuset=(.{1,255}) mems_allowed=([\d,-]{1,255})$/.exec(line);
    if (cpuset !== null) {
      details.cpuset = cpuset[1]!;
      details.memsAllowed = cpuset[2]!;
      continue;
    }
    const counter = !line.includes(": usage ")
      ? null
      : /^(memory|memory\+swap|swap|kmem): usage (\d{1,20})kB, limit (\d{1,20})kB, failcnt (\d{1,20})/.exec(line);
    if (counter !== null) {
      const memcg = (details.memcg ??= { memory: null, swap: null, memsw: null, kmem: null, stats: {} });
      const value: MemcgCounter = { usage: kib(counter[2]), limit: limitOf(counter[3]!), failcnt: Number(counter[4]) };
      if (counter[1] === "memory") memcg.memory = value;
      else if (counter[1] === "memory+swap") memcg.memsw = value;
      else if (counter[1] === "swap") memcg.swap = value;
      else memcg.kmem = value;
      continue;
    }
    if (first === 77 && /^Memory cgroup stats(?: for |: )/.test(line)) {
      const memcg = (details.memcg ??= { memory: null, swap: null, memsw: null, kmem: null, stats: {} });
      // 3.9 to 5.2: a line for the cgroup over its limit and one for each below it.
      const counted: Record<string, number> = {};
      for (const pair of line.matchAll(/([a-z_]{2,32}):(\d{1,16})KB/g)) counted[pair[1]!] = Number(pair[2]) * 1024;
      addStats(memcg.stats, counted, memcg.memory?.usage ?? null);
      section = Object.keys(memcg.stats).length === 0 ? "stats" : "none";
      continue;
    }
    if (line === "Mem-Info:" || line === "Mem-info:") {
      section = "memory";
      details.memory ??= {
        pages: {},
        nodes: {},
        zones: {},
        pagecachePages: null,
        swapCachePages: null,
        freeSwap: null,
        totalSwap: null,
        ramPages: null,
        reservedPages: null,
        highmemPages: null,
        hugetlb: null,
        freeBlocks: {},
      };
      continue;
    }
    if (line === "Unreclaimable slab info:") {
      section = "slab";
      continue;
    }
    if (section === "slab") {
      const cache = /^(\S{1,64}) {1,60}(\d{1,12})KB {1,20}(\d{1,12})KB$/.exec(line);
      if (cache !== null) {
        if (Object.keys(details.slab).length < 1000)
          details.slab[cache[1]!] = { used: Number(cache[2]) * 1024, total: Number(cache[3]) * 1024 };
        continue;
      }
      if (!line.startsWith("Name ")) section = "none";
    }
    if (section === "memory" && details.memory !== null) readMemory(line, details.memory);
  }
}

/** `CPU: 0 UID: 0 PID: 112 Comm: eat Not tainted 7.2.13 #1` (lib/dump_stack.c dump_stack_print_info()), `Pid: 2376, comm: mal-80 Not tainted 3.7.0+ #4`. */
function readInvoker(line: string, details: OomDetails): void {
  const match = /^(?:CPU: (\d{1,5}) (?:UID: (\d{1,10}) )?PID: (\d{1,10}) Comm: |Pid: (\d{1,10}), comm: )/.exec(line);
  if (match === null) return;
  const release = / (?:Not tainted|Tainted: .{0,80}?) {0,12}(\d{1,2}\.\d{1,3}\S{0,64})(?= |$)/.exec(
    line.slice(match[0].length - 1),
  );
  details.kernel ??= release?.[1] ?? null;
  if (details.invoker === null || details.invoker.pid !== null) return;
  details.invoker.cpu = match[1] === undefined ? null : Number(match[1]);
  details.invoker.uid = match[2] === undefined ? null : Number(match[2]);
  details.invoker.pid = Number(match[3] ?? match[4]);
}

/** Adds a descendant's counters, each without what lies below it; where a line counts all below it, the first is the sum. */
function addStats(stats: Record<string, number>, counted: Record<string, number>, usage: number | null): void {
  const charged = ({ cache = 0, rss = 0 }: Record<string, number>): number => cache + rss;
  if (usage !== null && charged(stats) > 0 && charged(stats) + charged(counted) > usage) return;
  for (const [name, bytes] of Object.entries(counted)) stats[name] = (stats[name] ?? 0) + bytes;
}

/** mm/show_mem.c show_free_areas() and friends. */
function readMemory(line: string, memory: NonNullable<OomDetails["memory"]>): void {
  const node = /^Node (\d{1,5}) (?=[a-z_()]{2,32}: ?\d{1,16}kB)/.exec(line);
  if (node !== null) {
    memory.nodes[node[1]!] = sizes(line.slice(node[0].length));
    return;
  }
  const zone = /^((?:Node \d{1,5} )?[A-Za-z0-9]{1,16}) free:\d/.exec(line);
  if (zone !== null) {
    if (Object.keys(memory.zones).length < 1000) memory.zones[zone[1]!] = sizes(line.slice(zone[1]!.length));
    return;
  }
  const swap = /^(Free|Total) swap {1,4}= (\d{1,16})kB$/.exec(line);
  if (swap !== null) {
    if (swap[1] === "Free") memory.freeSwap = kib(swap[2]);
    else memory.totalSwap = kib(swap[2]);
    return;
  }
  const count =
    /^(\d{1,16}) (total pagecache pages|pages in swap cache|pages RAM|pages reserved|reserved pages|pages HighMem\/MovableOnly|pages HighMem)$/.exec(
      line,
    );
  if (count !== null) {
    const pages = Number(count[1]);
    if (count[2] === "total pagecache pages") memory.pagecachePages = pages;
    else if (count[2] === "pages in swap cache") memory.swapCachePages = pages;
    else if (count[2] === "pages RAM") memory.ramPages = pages;
    else if (count[2]!.startsWith("pages HighMem")) memory.highmemPages = pages;
    else memory.reservedPages = pages;
    return;
  }
  const free = /^((?:Node \d{1,5} )?[A-Za-z0-9]{1,16}): (?=\d{1,12}\*\d{1,8}kB )/.exec(line);
  if (free !== null) {
    const blocks: Record<string, number> = {};
    for (const pair of line.matchAll(/(\d{1,12})\*(\d{1,8})kB/g)) blocks[Number(pair[2]) * 1024] = Number(pair[1]);
    if (Object.keys(memory.freeBlocks).length < 1000) memory.freeBlocks[free[1]!] = blocks;
    return;
  }
  const huge = /^(?:Node \d{1,5} )?hugepages_total=(\d{1,12}) .{0,80}hugepages_size=(\d{1,12})kB$/.exec(line);
  if (huge !== null) {
    memory.hugetlb = (memory.hugetlb ?? 0) + Number(huge[1]) * Number(huge[2]) * 1024;
    return;
  }
  if (/^(?:[a-z_]{2,32}:\d{1,16}(?: |$)){1,12}/.test(line))
    for (const pair of line.matchAll(/([a-z_]{2,32}):(\d{1,16})(?= |$)/g)) memory.pages[pair[1]!] = Number(pair[2]);
}

function sizes(text: string): Record<string, number> {
  const found: Record<string, number> = {};
  for (const pair of text.matchAll(/([a-z_()]{2,32}): ?(\d{1,16})kB/gi)) found[pair[1]!] = Number(pair[2]) * 1024;
  return found;
}

/** The columns after `[ pid ]`; null where this is no head of a task table. */
function tableColumns(line: string): string[] | null {
  const head = /^\[ {0,6}pid {0,6}\] {1,8}(uid .{1,400})$/.exec(line);
  return head === null ? null : head[1]!.trim().split(/ +/);
}

/** Adds a row; false where it ends too early. */
function addTask(details: OomDetails, columns: string[], line: string): boolean {
  const numbers = columns.length - 1;
  const row = /^\[ {0,12}(\d{1,10})\] {1,12}((?:-?\d{1,20} {1,24}){3,16})(.*)$/.exec(`${line} `);
  if (row === null) return false;
  const values = row[2]!.trim().split(/ +/);
  let name = row[3]!.trim();
  // A process may be named "12": the columns tell where the name begins.
  if (values.length > numbers) name = `${values.splice(numbers).join(" ")} ${name}`.trim();
  if (values.length < numbers || name === "") return false;
  const value = (...names: string[]): number | null => {
    for (const column of names) {
      const at = columns.indexOf(column);
      if (at !== -1 && at < values.length) return Number(values[at]);
    }
    return null;
  };
  const tables = [value("nr_ptes"), value("nr_pmds"), value("nr_puds")];
  details.tasks?.push({
    pid: Number(row[1]),
    uid: value("uid"),
    tgid: value("tgid"),
    totalVmPages: value("total_vm"),
    rssPages: value("rss"),
    rssAnonPages: value("rss_anon"),
    rssFilePages: value("rss_file"),
    rssShmemPages: value("rss_shmem"),
    pgtables: value("pgtables_bytes"),
    pgtablePages: tables[0] === null ? null : tables.reduce((sum: number, pages) => sum + (pages ?? 0), 0),
    swapPages: value("swapents"),
    oomScoreAdj: value("oom_score_adj"),
    name,
  });
  return true;
}

/**
 * The score on the scale of the kernels that printed it (mm/oom_kill.c oom_badness() up to 5.0, without the 3 % for root up to 4.16):
 * 1000 * (rss + swap entries + page tables) / (limit + swap it may use) + oom_score_adj.
 */
function readScore(details: OomDetails, killed: KilledLine, memcg: boolean, constrained: boolean): OomScore {
  const score: OomScore = { ...details.score, oomScoreAdj: killed.oomScoreAdj };
  const task =
    details.tasks?.find((row) => row.pid === killed.pid) ??
    details.tasks?.find((row) => row.pid === details.chosen?.pid && details.chosen !== null);
  if (task === undefined) return score;
  score.oomScoreAdj ??= task.oomScoreAdj;
  score.rssPages = task.rssPages;
  score.swapPages = task.swapPages;
  score.pageSize = pageSize(task, killed);
  if (task.pgtablePages !== null) score.pgtablePages = task.pgtablePages;
  else if (task.pgtables !== null && score.pageSize !== null)
    score.pgtablePages = Math.round(task.pgtables / score.pageSize);
  // With a cpuset or a memory policy it is the memory of the nodes allowed, which the report does not sum up.
  const total = constrained ? null : totalPages(details, memcg, score);
  score.totalPages = total;
  if (total === null || total === 0 || score.rssPages === null || score.oomScoreAdj === null) return score;
  const points =
    score.rssPages + (score.swapPages ?? 0) + (score.pgtablePages ?? 0) + score.oomScoreAdj * Math.floor(total / 1000);
  score.computed = Math.max(0, Math.floor((Math.max(points, 1) * 1000) / total));
  return score;
}

function pageSize(task: OomTask, killed: KilledLine): number | null {
  if (killed.pid !== task.pid || killed.totalVm === null || task.totalVmPages === null || task.totalVmPages === 0)
    return null;
  const size = killed.totalVm / task.totalVmPages;
  return [4096, 8192, 16_384, 65_536].find((candidate) => candidate === size) ?? null;
}

function totalPages(details: OomDetails, memcg: boolean, score: OomScore): number | null {
  const size = score.pageSize;
  if (!memcg) {
    const memory = details.memory;
    if (memory?.ramPages == null || memory.reservedPages === null || size === null) return null;
    return memory.ramPages - memory.reservedPages + Math.round((memory.totalSwap ?? 0) / size);
  }
  const counters = details.memcg;
  const limit = counters?.memory?.limit;
  if (counters == null || typeof limit !== "number" || size === null) return null;
  const bound =
    counters.swap !== null
      ? counters.swap.limit
      : counters.memsw !== null
        ? typeof counters.memsw.limit === "number"
          ? Math.max(0, counters.memsw.limit - limit)
          : "max"
        : null;
  let swap: number | null = typeof bound === "number" ? bound : null;
  const machine = details.memory?.totalSwap ?? null;
  if (machine !== null) swap = swap === null ? machine : Math.min(swap, machine);
  if (swap === null) {
    const swapped = (counters.swap?.usage ?? 0) > 0 || details.tasks?.some((row) => (row.swapPages ?? 0) > 0) === true;
    if (swapped) return null;
    score.assumes = "no swap: the report does not say how much there is, and nothing in it is swapped out";
    swap = 0;
  } else if (machine === null && swap > 0) score.assumes = "that the machine has as much swap as the cgroup may use";
  return Math.floor((limit + swap) / size);
}

function kib(text: string | undefined): number | null {
  return text === undefined ? null : Number(text) * 1024;
}

/** "No limit" is LONG_MAX in pages, or 2^64 bytes up to 3.18, printed in kB. */
function limitOf(text: string): number | "max" {
  const value = Number(text);
  return value > 2 ** 50 || text === "8589934588" ? "max" : value * 1024;
}
