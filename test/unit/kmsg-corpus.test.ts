import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createLogReader, findOomKills, type OomScan, scanKernelLog } from "../../src/kmsg/index.ts";

const corpus = new URL("../fixtures/kernel-logs/", import.meta.url);

/** An event of field/truth.json, sizes in kB. */
interface Event {
  kind: string;
  pid: number;
  comm: string | null;
  total_vm_kb: number | null;
  anon_rss_kb: number | null;
  file_rss_kb: number | null;
  shmem_rss_kb: number | null;
  constraint: string | null;
  oom_memcg: string | null;
  task_memcg: string | null;
  oom_score_adj?: number;
  uid?: number;
  score?: number;
  sysrq?: boolean;
  chosen_pid?: number;
  group_member?: boolean;
  oom_group?: string;
  oom_kill_allocating_task?: boolean;
  /** A record that no kernel prints: told as incomplete. */
  garbled?: boolean;
  /** No `Killed process` record: told as incomplete. */
  selected_only?: boolean;
}

const truth = JSON.parse(readFileSync(new URL("field/truth.json", corpus), "utf8")) as Record<
  string,
  { events: Event[]; kernel: string }
>;

function scanField(name: string, details = false): OomScan {
  return scanKernelLog(readFileSync(new URL(`field/${name}.log`, corpus)), { details });
}

/** The truth's kind, except where 5.1+ text names no constraint: there design.md 8 wants `unknown`, the truth says the node-level prefix. */
function kindOf(event: Event): string {
  const split = event.score !== undefined || event.chosen_pid !== undefined;
  return event.kind === "global" && event.constraint === null && !split && event.sysrq !== true
    ? "unknown"
    : event.kind;
}

describe("the field corpus", () => {
  for (const [name, { events }] of Object.entries(truth)) {
    it(`tells every kill of ${name} and no other`, () => {
      const scan = scanField(name);
      const kills = events.filter((event) => event.garbled !== true && event.selected_only !== true);
      const kib = (value: number | null): number | null => (value === null ? null : value * 1024);
      expect(
        scan.kills.map((kill) => ({
          kind: kill.kind,
          pid: kill.victim.pid,
          comm: kill.victim.comm,
          constraint: kill.constraint,
          oomMemcg: kill.oomMemcg,
          taskMemcg: kill.taskMemcg,
          totalVm: kill.victim.totalVm,
          anonRss: kill.victim.anonRss,
          fileRss: kill.victim.fileRss,
          shmemRss: kill.victim.shmemRss,
        })),
      ).toEqual(
        kills.map((event) => ({
          kind: kindOf(event),
          pid: event.pid,
          comm: event.comm,
          constraint: event.constraint,
          oomMemcg: event.oom_memcg,
          taskMemcg: event.task_memcg,
          totalVm: kib(event.total_vm_kb),
          anonRss: kib(event.anon_rss_kb),
          fileRss: kib(event.file_rss_kb),
          shmemRss: kib(event.shmem_rss_kb),
        })),
      );
      // What the truth states of some events only.
      expect(scan.kills).toMatchObject(
        kills.map((event) => ({
          group: event.oom_group !== undefined,
          victim: {
            ...(event.oom_score_adj !== undefined && { oomScoreAdj: event.oom_score_adj }),
            ...(event.uid !== undefined && { uid: event.uid }),
          },
          ...(event.sysrq === true && { trigger: "sysrq" }),
          ...(event.kind === "global" && { prefix: "global" }),
        })),
      );
      const reasons = scan.incomplete.map(({ reason }) => reason).join("\n");
      for (const event of events.filter((each) => !kills.includes(each))) expect(reasons).toContain(String(event.pid));
    });
  }

  it("tells the score that old kernels printed, and works out the same from the table", () => {
    const printed: [string, number][] = [];
    for (const [name, { events }] of Object.entries(truth)) {
      const scan = scanField(name, true);
      for (const event of events) {
        if (event.score === undefined) continue;
        const score = scan.kills.find((kill) => kill.victim.pid === event.pid)?.details?.score;
        expect(score?.printed).toBe(event.score);
        if (score?.computed != null) printed.push([name, score.computed - event.score]);
      }
    }
    expect(printed).toEqual([
      ["03-cadvisor-4.8-docker-two-memcg", 0],
      ["03-cadvisor-4.8-docker-two-memcg", 0],
      ["11-lkml-3.7-memcg-ancestor-limit-before", 0],
      ["13-ubuntu-4.4-docker-memcg-wrapped", 0],
    ]);
  });

  it("tells the same with details as without, and the same from records as from text", () => {
    for (const name of Object.keys(truth)) {
      const bytes = readFileSync(new URL(`field/${name}.log`, corpus));
      const fast = scanKernelLog(bytes);
      const reader = createLogReader();
      const records = [...reader.push(bytes), ...reader.end()];
      expect(findOomKills(records)).toEqual(fast);
      const detailed = scanKernelLog(bytes, { details: true });
      for (const kill of detailed.kills) delete kill.details;
      expect(detailed).toEqual(fast);
    }
  });
});

/** What the kernel must have done where the log's name tells what provoked it. */
const one = (kill: object) => ({
  kills: [{ missing: [], group: false, ...kill }],
  incomplete: [],
  noVictim: [],
  panics: [],
});
const member = { kind: "memcg", oomMemcg: "/grp", group: true };
const none = { kills: [], incomplete: [], noVictim: [], panics: [] };
const PROVOKED: Record<string, object> = {
  memcg: one({ kind: "memcg", oomMemcg: "/box", taskMemcg: "/box", trigger: "allocation", victim: { comm: "eat" } }),
  hier: one({ kind: "memcg", oomMemcg: "/pod", taskMemcg: "/pod/ctr2" }),
  global: one({ kind: "global", oomMemcg: null, taskMemcg: "/nolimit" }),
  globalroot: one({ kind: "global", oomMemcg: null, taskMemcg: "/" }),
  swapglobal: one({ kind: "global", taskMemcg: "/sw" }),
  swapdisk: one({ kind: "memcg", oomMemcg: "/sw" }),
  swapzram: one({ kind: "memcg", oomMemcg: "/sw" }),
  memsw: one({ kind: "memcg", oomMemcg: "/sw" }),
  disable: one({ kind: "memcg", oomMemcg: "/dis" }),
  shmem: one({ kind: "memcg", oomMemcg: "/shm", victim: { comm: "dd" } }),
  cpuset: one({ kind: "cpuset", constraint: "CONSTRAINT_CPUSET", prefix: "global", oomMemcg: null, taskMemcg: "/cs" }),
  mempolicy: one({ kind: "mempolicy", constraint: "CONSTRAINT_MEMORY_POLICY", taskMemcg: "/mp" }),
  mbind: one({ kind: "mempolicy", taskMemcg: "/mp", victim: { comm: "hogmbind" } }),
  allocating: one({ kind: "global", victim: { comm: "smallalloc" } }),
  sysrq: one({ kind: "global", trigger: "sysrq", victim: { comm: "victim" } }),
  // The sweep prints the first victim again: one kill a victim all the same.
  group: { kills: [{ ...member, victim: { comm: "hog" } }, member, member], incomplete: [] },
  panic: {
    ...none,
    panics: [{ text: "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled" }],
  },
  unkillable: { kills: [], noVictim: Array.from({ length: 11 }, () => ({})) },
  // A limit of kernel memory kills nobody, and the 7.2 guest has no cgroup v1.
  kmem: none,
};

describe("guest logs of two kernels, each named after what provoked it", () => {
  for (const file of readdirSync(new URL("guest/", corpus))) {
    const [, kernel, version, provoked] = file.replace(/\.\w+$/, "").split("-") as [string, string, string, string];
    it(`tells ${file}`, () => {
      const scan = scanKernelLog(readFileSync(new URL(`guest/${file}`, corpus)));
      expect(scan).toMatchObject(kernel === "72" && version === "v1" ? none : PROVOKED[provoked]!);
    });
  }
});
