import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createLogReader, findOomKills, type OomKill, type OomScan, scanKernelLog } from "../../src/kmsg/index.ts";

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

const truth = JSON.parse(readFileSync(new URL("field/truth.json", corpus), "utf8")) as Record<string, { events: Event[]; kernel: string }>;

function scanField(name: string, details = false): OomScan {
  return scanKernelLog(readFileSync(new URL(`field/${name}.log`, corpus)), { details });
}

/** The truth's kind, except where 5.1+ text names no constraint: there design.md 8 wants `unknown`, the truth says the node-level prefix. */
function kindOf(event: Event): string {
  const split = event.score !== undefined || event.chosen_pid !== undefined;
  return event.kind === "global" && event.constraint === null && !split && event.sysrq !== true ? "unknown" : event.kind;
}

describe("the field corpus", () => {
  for (const [name, { events }] of Object.entries(truth)) {
    it(`tells every kill of ${name} and no other`, () => {
      const scan = scanField(name);
      const kills = events.filter((event) => event.garbled !== true && event.selected_only !== true);
      const kib = (value: number | null): number | null => (value === null ? null : value * 1024);
      expect(
        scan.kills.map((kill) => ({
          kind: kill.kind, pid: kill.victim.pid, comm: kill.victim.comm, constraint: kill.constraint, oomMemcg: kill.oomMemcg, taskMemcg: kill.taskMemcg,
          totalVm: kill.victim.totalVm, anonRss: kill.victim.anonRss, fileRss: kill.victim.fileRss, shmemRss: kill.victim.shmemRss,
        })),
      ).toEqual(
        kills.map((event) => ({
          kind: kindOf(event), pid: event.pid, comm: event.comm, constraint: event.constraint, oomMemcg: event.oom_memcg, taskMemcg: event.task_memcg,
          totalVm: kib(event.total_vm_kb), anonRss: kib(event.anon_rss_kb), fileRss: kib(event.file_rss_kb), shmemRss: kib(event.shmem_rss_kb),
        })),
      );
      for (const [i, event] of kills.entries()) {
        const kill = scan.kills[i]!;
        if (event.oom_score_adj !== undefined) expect(kill.victim.oomScoreAdj).toBe(event.oom_score_adj);
        if (event.uid !== undefined) expect(kill.victim.uid).toBe(event.uid);
        if (event.sysrq === true) expect(kill.trigger).toBe("sysrq");
        if (event.kind === "global") expect(kill.prefix).toBe("global");
        expect(kill.group).toBe(event.oom_group !== undefined);
      }
      for (const event of events.filter((each) => !kills.includes(each))) expect(scan.incomplete.map(({ reason }) => reason).join()).toContain(String(event.pid));
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
      expect({ ...detailed, kills: detailed.kills.map(({ details: _, ...kill }) => kill) }).toEqual(fast);
    }
  });
});

/** What provoked a guest log, from its name. */
const PROVOKED: Record<string, (kill: OomKill) => void> = {
  memcg: (kill) => expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/box", taskMemcg: "/box", trigger: "allocation", victim: { comm: "eat" } }),
  hier: (kill) => expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/pod", taskMemcg: "/pod/ctr2" }),
  global: (kill) => expect(kill).toMatchObject({ kind: "global", oomMemcg: null, taskMemcg: "/nolimit" }),
  globalroot: (kill) => expect(kill).toMatchObject({ kind: "global", oomMemcg: null, taskMemcg: "/" }),
  swapglobal: (kill) => expect(kill).toMatchObject({ kind: "global", taskMemcg: "/sw" }),
  swapdisk: (kill) => expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/sw" }),
  swapzram: (kill) => expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/sw" }),
  memsw: (kill) => expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/sw" }),
  disable: (kill) => expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/dis" }),
  shmem: (kill) => expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/shm", victim: { comm: "dd" } }),
  cpuset: (kill) => expect(kill).toMatchObject({ kind: "cpuset", constraint: "CONSTRAINT_CPUSET", prefix: "global", oomMemcg: null, taskMemcg: "/cs" }),
  mempolicy: (kill) => expect(kill).toMatchObject({ kind: "mempolicy", constraint: "CONSTRAINT_MEMORY_POLICY", taskMemcg: "/mp" }),
  mbind: (kill) => expect(kill).toMatchObject({ kind: "mempolicy", taskMemcg: "/mp", victim: { comm: "hogmbind" } }),
  allocating: (kill) => expect(kill).toMatchObject({ kind: "global", victim: { comm: "smallalloc" } }),
  sysrq: (kill) => expect(kill).toMatchObject({ kind: "global", trigger: "sysrq", victim: { comm: "victim" } }),
};

describe("guest logs of two kernels", () => {
  for (const file of readdirSync(new URL("guest/", corpus))) {
    const [source, kernel, version, provoked] = file.replace(/\.\w+$/, "").split("-") as [string, string, string, string];
    const scan = scanKernelLog(readFileSync(new URL(`guest/${file}`, corpus)));
    if (provoked === "group") {
      it(`tells one kill a victim of an oom.group kill: ${file}`, () => {
        expect(scan.kills.map((kill) => kill.victim.comm).sort()).toEqual(["hog", "sib1", "sib2"]);
        for (const kill of scan.kills) expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/grp", group: true });
      });
    } else if (provoked === "panic") {
      it(`tells a panic and no kill: ${file}`, () => {
        expect(scan).toMatchObject({ kills: [], incomplete: [], panics: [{ text: "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled" }] });
      });
    } else if (provoked === "unkillable") {
      it(`tells reports without a victim: ${file}`, () => {
        expect(scan.kills).toEqual([]);
        expect(scan.noVictim).toHaveLength(11);
      });
    } else if (provoked === "kmem" || (kernel === "72" && version === "v1")) {
      it(`tells no kill where none was: ${file}`, () => expect(scan).toMatchObject({ kills: [], incomplete: [] }));
    } else {
      it(`tells what provoked it: ${file} (${source})`, () => {
        expect(scan.kills).toHaveLength(1);
        expect(scan.incomplete).toEqual([]);
        expect(scan.kills[0]!.missing).toEqual([]);
        PROVOKED[provoked]!(scan.kills[0]!);
      });
    }
  }
});
