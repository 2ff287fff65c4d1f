import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { explainKill, type OomScan, scanKernelLog } from "../../src/kmsg/index.ts";

// Small logs after real reports that earlier versions read wrongly.

const corpus = new URL("../fixtures/kernel-logs/", import.meta.url);
const scan = (name: string): OomScan =>
  scanKernelLog(readFileSync(new URL(`cases/${name}.log`, corpus)), { details: true });
const words = (name: string): string => explainKill(scan(name).kills[0]!).join(" ");
const TAIL = "total-vm:8000kB, anon-rss:4000kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:4kB oom_score_adj:0";

describe("what memory was used for", () => {
  it("counts shared memory of the machine once", () => {
    const text = words("f01a-global-shmem-counted-twice");
    expect(text).toContain(
      "On the machine of 4 GiB, shared memory and tmpfs took 1.9 GiB, anonymous memory took 3.9 MiB",
    );
    expect(text).toContain("page cache took 1.9 GiB and 39.1 MiB was free");
  });

  it("sums the descendants of a v1 cgroup", () => {
    const text = words("f01b-v1-stats-of-descendants");
    expect(text).toContain("shared memory and tmpfs took 390 MiB");
    expect(text).toContain("Most of it is shared memory or tmpfs");
  });

  it("reports what no counter explains", () => {
    const log = readFileSync(new URL("cases/f01a-global-shmem-counted-twice.log", corpus), "utf8");
    const text = explainKill(
      scanKernelLog(log.replace("1048576 pages RAM", "4194304 pages RAM"), { details: true }).kills[0]!,
    );
    expect(text.join(" ")).toContain("12.1 GiB is in none of these");
  });

  it("never adds up to more than the cgroup used", () => {
    const log = readFileSync(new URL("cases/f01b-v1-stats-of-descendants.log", corpus), "utf8");
    const kill = scanKernelLog(log.replace("usage 512000kB", "usage 409600kB"), { details: true }).kills[0]!;
    expect(explainKill(kill).join(" ")).toContain(
      "shared memory and tmpfs took 390 MiB and anonymous memory took 10.4 MiB.",
    );
  });

  it("groups processes by name", () => {
    const rows = Array.from(
      { length: 26 },
      (_, i) => `[ 1.0] [ ${i + 50}] 33 ${i + 50} 40000 29000 40960 0 0 php-fpm\n`,
    );
    const log = `[ 1.000000] php-fpm invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n[ 1.0] [  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name\n${rows.join("")}[ 1.000001] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),global_oom,task_memcg=/,task=php-fpm,pid=50,uid=33\n[ 1.000002] Out of memory: Killed process 50 (php-fpm) ${TAIL}\n`;
    expect(explainKill(scanKernelLog(log, { details: true }).kills[0]!).join(" ")).toContain("26 x php-fpm: 2.9 GiB");
  });
});

describe("why memory was short", () => {
  it("takes a page fault's OOM with memory free for none", () => {
    const text = words("f04a-pagefault-oom-with-115-GiB-free");
    expect(text).toContain("the machine had not run out of memory: 115 GiB were free");
    expect(text).not.toMatch(/Give the machine/);
  });

  it("finds fragmentation", () => {
    const text = words("f04b-order-2-with-memory-free");
    expect(text).toContain("371 MiB were free, but 16 KiB in one piece were asked for");
    expect(text).toContain("the free blocks were smaller (8 KiB at most)");
    expect(text).toContain("page cache took 6.7 GiB");
    expect(text).toContain("3.7 GiB was free: swap was not what ran out");
    expect(text).not.toMatch(/Give the machine/);
  });

  it("finds memory that the allocation may not use", () => {
    const text = words("f04c-lowmem-and-cma");
    expect(text).toContain("may not use high memory and what is reserved for CMA: 5.4 MiB were left");
    expect(text).not.toMatch(/Give the machine/);
  });

  it("reports a limit of 0", () => {
    const log = readFileSync(new URL("cases/f01b-v1-stats-of-descendants.log", corpus), "utf8");
    const kill = scanKernelLog(log.replace("limit 512000kB", "limit 0kB"), { details: true }).kills[0]!;
    expect(explainKill(kill).join(" ")).toContain("Its limit is 0");
  });
});

describe("kind and limit", () => {
  it("are a memcg's where 5.0 prints CONSTRAINT_NONE beside a cgroup", () => {
    expect(scan("f02a-constraint-none-with-oom-memcg-5.0")).toMatchObject({
      kills: [
        { kind: "memcg", constraint: "CONSTRAINT_NONE", oomMemcg: "/foo", taskMemcg: "/foo", victim: { pid: 7997 } },
      ],
      incomplete: [],
    });
  });

  it("are read from a vendor's record without a constraint", () => {
    expect(scan("f02b-vendor-oom-kill-without-constraint")).toMatchObject({
      kills: [
        {
          kind: "memcg",
          constraint: null,
          oomMemcg: "/kubepods/burstable/pod6c4333b3-a663-11ea-b39f-000000000001",
          taskMemcg: "/kubepods/burstable/pod6c4333b3-a663-11ea-b39f-000000000001/c1",
          victim: { pid: 12788 },
        },
      ],
      incomplete: [],
    });
  });

  it("stay open where a policy names a constraint of its own", () => {
    const found = scan("bpf-policy-unknown-constraint");
    expect(found).toMatchObject({
      kills: [{ kind: "unknown", constraint: "CONSTRAINT_BPF_PSI_MEM", oomMemcg: "/tenant", victim: { pid: 501 } }],
      incomplete: [],
    });
    expect(explainKill(found.kills[0]!).join(" ")).not.toMatch(/at its limit|Raise/);
  });

  it("are not taken from other words without a report that names the process", () => {
    expect(scanKernelLog(`[ 1.000000] Some module: Killed process 5 (x) ${TAIL}\n`)).toMatchObject({
      kills: [],
      incomplete: [{ line: 1 }],
    });
  });

  it("are read from OpenVZ's records", () => {
    expect(
      scanKernelLog(
        "[1982048.529636] Out of memory in UB 317592: OOM killed process 2946 (npm) score 0 vm:1506164kB, rss:237752kB, swap:120052kB\n[1982049.529636] Out of memory: OOM killed process 2947 (npm) score 0 vm:8kB, rss:4kB, swap:0kB\n",
      ).kills,
    ).toMatchObject([
      { kind: "memcg", oomMemcg: null, victim: { pid: 2946, comm: "npm", totalVm: 1506164 * 1024, anonRss: null } },
      { kind: "global", victim: { pid: 2947 } },
    ]);
  });

  it("are put in people's words", () => {
    expect(words("f10-qos-from-the-pods-slice")).toContain(
      "the limit of Pod 11111111-2222-3333-4444-555555555555 (burstable): all its containers together",
    );
  });
});

describe("a log in another order", () => {
  it("has one entry a victim where a group's title was filtered away", () => {
    const { kills } = scan("f03-group-kill-title-filtered-out");
    expect(kills.map(({ victim }) => victim.pid)).toEqual([268654, 235173]);
    expect(kills[0]!.lines).toEqual([1, 2, 4]);
  });

  it("is read with the newest first", () => {
    expect(scan("f05-newest-first")).toMatchObject({
      kills: [
        {
          kind: "global",
          constraint: "CONSTRAINT_NONE",
          taskMemcg: "/system.slice/docker-7f399a191dea38b318f7e9419a85423dbde2229c5ef7cc972154f53a3b648b66.scope",
          missing: ["header"],
          line: 3,
          lines: [3, 4],
        },
      ],
      incomplete: [],
    });
  });

  it("does not give a kill another report's header", () => {
    const { kills } = scan("f05b-newest-first-foreign-header");
    expect(kills).toMatchObject([
      { kind: "memcg", oomMemcg: "/p", taskMemcg: "/p/c", missing: ["header"], lines: [2, 3] },
    ]);
    expect(kills[0]!.details?.invoker).toBeNull();
  });

  it("gives the same kills backwards as forwards", () => {
    const wrong: unknown[] = [];
    for (const file of readdirSync(new URL("guest/", corpus)).filter((name) =>
      /^dmesg-\d+-v\d-(?!group|unkillable|panic|sysrq)/.test(name),
    )) {
      const lines = readFileSync(new URL(`guest/${file}`, corpus), "utf8")
        .trimEnd()
        .split("\n");
      const essence = (log: string[]) =>
        scanKernelLog(`${log.join("\n")}\n`).kills.map(({ kind, oomMemcg, taskMemcg, victim, constraint }) => ({
          kind,
          oomMemcg,
          taskMemcg,
          victim,
          constraint,
        }));
      const [there, back] = [essence(lines), essence(lines.toReversed())];
      if (JSON.stringify(there.toReversed()) !== JSON.stringify(back)) wrong.push([file, there, back]);
    }
    expect(wrong).toEqual([]);
  });

  it("keeps bare kill lines before and behind others", () => {
    for (const name of ["f08a-bare-line-first", "f08b-bare-line-last"])
      expect(
        scan(name)
          .kills.map(({ victim }) => victim.pid)
          .toSorted((a, b) => a - b),
      ).toEqual([65541, 68061]);
  });

  it("shows no kernel kill where others killed", () => {
    expect(scan("userspace-killers-only")).toMatchObject({
      kills: [],
      incomplete: [],
      others: [
        { line: 2, by: "systemd-oomd", text: expect.stringMatching(/app-ide\.scope due to memory pressure/) },
        {
          line: 5,
          by: "earlyoom",
          text: 'sending SIGTERM to process 7213 uid 1000 "java": badness 1104, VmRSS 9120 MiB',
        },
      ],
    });
  });
});

it("a selection without its kill shows whom, and for whose limit", () => {
  expect(
    scanKernelLog(
      "[ 1.000000] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=java,pid=12,uid=0\n",
    ).incomplete,
  ).toMatchObject([{ line: 1, kind: "memcg", pid: 12, comm: "java", oomMemcg: "/a", taskMemcg: "/a/b" }]);
});
