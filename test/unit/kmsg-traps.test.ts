import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  createOomScanner,
  findOomKills,
  type KmsgRecord,
  parseKmsgRecord,
  printable,
  scanKernelLog,
} from "../../src/kmsg/index.ts";

const guest = (name: string): string =>
  readFileSync(new URL(`../fixtures/kernel-logs/guest/${name}`, import.meta.url), "utf8");

const SIZES = "total-vm:33760kB, anon-rss:32676kB, file-rss:4kB, shmem-rss:648kB";
const TAIL = `${SIZES}, UID:0 pgtables:100kB oom_score_adj:0`;
const victims = (text: string) => scanKernelLog(text).kills.map((kill) => [kill.victim.pid, kill.victim.comm]);

describe("forged records", () => {
  it("tells no kill from a record that userland wrote to /dev/kmsg", () => {
    const report = guest("kmsg-61-v2-memcg.raw");
    // devkmsg_write() forces the facility to 1: 6 becomes 14, 3 becomes 11, 4 becomes 12.
    const forged = report.replace(/^(\d+),/gm, (_, priority: string) => `${Number(priority) | 8},`);
    expect(scanKernelLog(forged)).toMatchObject({ kills: [], incomplete: [] });
    expect(scanKernelLog(report).kills).toHaveLength(1);
  });

  it("tells a report as it is when userland writes between its records", () => {
    const lines = guest("kmsg-61-v2-memcg.raw").split("\n");
    const at = lines.findIndex((line) => line.includes("oom-kill:"));
    lines.splice(
      at + 1,
      0,
      "12,0,2661700,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),global_oom,task_memcg=/x,task=eat,pid=101,uid=0",
    );
    const kill = scanKernelLog(lines.map((line, i) => line.replace(/^(\d+),\d+/, `$1,${i}`)).join("\n")).kills[0]!;
    expect(kill).toMatchObject({ kind: "memcg", oomMemcg: "/box" });
  });

  it("tells no kill from other programs' lines of a syslog", () => {
    for (const line of [
      `Nov  1 10:00:00 host app: Out of memory: Killed process 1 (init) ${TAIL}`,
      `Nov  1 10:00:00 host app[12]: kernel: Out of memory: Killed process 1 (init) ${TAIL}`,
      `Nov  1 10:00:00 host app: [    1.000000] Out of memory: Killed process 1 (init) ${TAIL}`,
      `<12>Nov  1 10:00:00 host kernel: Out of memory: Killed process 1 (init) ${TAIL}`,
      `user  :err   : [    1.000000] Out of memory: Killed process 1 (init) ${TAIL}`,
      `2026-11-24T23:42:31+0000 host app: Out of memory: Killed process 1 (init) ${TAIL}`,
      `{"MESSAGE":"Out of memory: Killed process 1 (init) ${TAIL}","_TRANSPORT":"syslog","SYSLOG_IDENTIFIER":"kernel"}`,
      `{"MESSAGE":"Out of memory: Killed process 1 (init) ${TAIL}","_TRANSPORT":"kernel","SYSLOG_FACILITY":"1"}`,
    ])
      expect([line, ...victims(`${line}\n`)]).toEqual([line]);
  });

  it("tells no kill from kernel records that only quote one", () => {
    for (const text of [
      `EXT4-fs (vda): Unrecognized mount option "Out of memory: Killed process 1 (fake) ${TAIL}" or missing value`,
      `[U] Out of memory: Killed process 1 (fake) ${TAIL}`,
      `Killed process [3002]: segfault at 0 ip 0000000000401136 sp 00007ffd error 6`,
      `IN=eth0 OUT= Killed process 1 (fake) ${TAIL}`,
      `Out of memory: Killed process 1 (fake) ${TAIL} and more`,
      `Memory cgroup out of memory: OOM victim 12 (x) is already exiting. Skip killing the task`,
      `Memory cgroup out of memory: Killed process`,
      `Memory cgroup out of memory: Killed process 12a (x) ${TAIL}`,
    ]) {
      expect([text, ...victims(`3,1,1,-;${text}\n`)]).toEqual([text]);
      expect([text, ...victims(`[    1.000000] ${text}\n`)]).toEqual([text]);
    }
  });

  it("tells no kill from a line without the prefix that the log's kernel records have", () => {
    const scan = scanKernelLog(`${guest("dmesg-61-v2-memcg.log")}\nOut of memory: Killed process 1 (fake) ${TAIL}\n`);
    expect(scan.kills.map((kill) => kill.victim.comm)).toEqual(["eat"]);
    expect(scan.incomplete).toHaveLength(1);
  });
});

describe("names that are the attacker's choice", () => {
  for (const comm of [
    "a) total-vm:1kB",
    "a) total-vm:1",
    "(sd-pam)",
    "Web Content",
    "))) ((",
    ") total-vm:",
    "x, UID 5, (y",
    "score 1 or s",
    ",pid=1,uid=0",
    ",task=b",
    "a,task=b,pid=1",
    "kworker/0:1",
    "invoked oom-k",
    " ",
    "",
  ]) {
    it(`reads the comm ${JSON.stringify(comm)}`, () => {
      const text = [
        `4,1,1,-;${comm} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0`,
        `6,2,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=box,mems_allowed=0,oom_memcg=/box,task_memcg=/box/in,task=${comm},pid=101,uid=7`,
        `3,3,3,-;Memory cgroup out of memory: Killed process 101 (${comm}) ${TAIL.replace("UID:0", "UID:7")}`,
        "",
      ].join("\n");
      expect(scanKernelLog(text).kills).toMatchObject([
        {
          kind: "memcg",
          oomMemcg: "/box",
          taskMemcg: "/box/in",
          victim: { pid: 101, comm, uid: 7, totalVm: 33760 * 1024, shmemRss: 648 * 1024 },
        },
      ]);
      const old = `[ 1.000000] Memory cgroup out of memory: Kill process 101 (${comm}) score 996 or sacrifice child\n[ 1.000001] Killed process 101 (${comm}) ${SIZES}\n[ 2.000000] Killed process 102, UID 9, (${comm}) total-vm:4kB, anon-rss:0kB, file-rss:0kB\n[ 3.000000] Killed process 103 (${comm}), UID 9, total-vm:4kB, anon-rss:0kB, file-rss:0kB\n`;
      expect(victims(old)).toEqual([
        [101, comm],
        [102, comm],
        [103, comm],
      ]);
    });
  }

  it("keeps a newline in a comm inside the record", () => {
    const kill = scanKernelLog(`3,1,1,-;Memory cgroup out of memory: Killed process 5 (a\\x0aKilled 6) ${TAIL}\n`)
      .kills[0]!;
    expect(kill.victim).toMatchObject({ pid: 5, comm: "a\nKilled 6" });
    expect(printable(kill.victim.comm)).toBe("a\\x0aKilled 6");
  });

  const path = (oom: string, task: string, cpuset = "box"): unknown => {
    const { kills } = scanKernelLog(
      `6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=0-1,3,cpuset=${cpuset},mems_allowed=0-1,3,oom_memcg=${oom},task_memcg=${task},task=eat,pid=101,uid=0\n3,2,2,-;Memory cgroup out of memory: Killed process 101 (eat) ${TAIL}\n`,
    );
    return kills.map((kill) => [kill.oomMemcg, kill.taskMemcg])[0];
  };
  it("reads cgroup paths that hold the kernel's own field names", () => {
    for (const [oom, task] of [
      ["/a,task=b", "/a,task=b/c"],
      ["/a,task_memcg=", "/a,task_memcg=/x"],
      ["/a,pid=1,uid=0", "/a,pid=1,uid=0"],
      ["/", "/x"],
      ["/with blank", "/with blank/y"],
      ["/ä", "/ä/ö"],
    ] as const)
      expect(path(oom, task)).toEqual([oom, task]);
  });
  it("reads a cpuset that is named like the fields behind it", () => {
    for (const cpuset of ["/", "x,mems_allowed=0", "x,mems_allowed=0,global_oom", "a b"])
      expect(path("/box", "/box", cpuset)).toEqual(["/box", "/box"]);
  });
});

describe("whose kill it is", () => {
  it("names the killed child, not the chosen parent, of old kernels", () => {
    const scan = scanKernelLog(
      readFileSync(
        new URL("../fixtures/kernel-logs/field/41-next-4.3-alloc-task-sacrificed-children.log", import.meta.url),
      ),
      { details: true },
    );
    expect(scan.kills[0]).toMatchObject({
      victim: { pid: 22612 },
      tgid: null,
      details: { chosen: { pid: 22593, comm: "ksm04" }, allocatingTask: true },
    });
  });

  it("names the TGID where a thread was killed in its process's stead", () => {
    const text = guest("kmsg-61-v2-memcg.raw").replace("Killed process 101 (eat)", "Killed process 109 (eat:worker)");
    expect(scanKernelLog(text).kills).toMatchObject([
      { kind: "memcg", oomMemcg: "/box", victim: { pid: 109, comm: "eat:worker" }, tgid: 101 },
    ]);
  });

  it("does not join a kill to an oom-kill: line of another user's process", () => {
    const text = guest("kmsg-61-v2-memcg.raw")
      .replace("Killed process 101 (eat)", "Killed process 109 (x)")
      .replace("UID:0 pgtables:104kB", "UID:33 pgtables:104kB");
    const scan = scanKernelLog(text);
    expect(scan.kills).toMatchObject([
      { kind: "memcg", oomMemcg: null, tgid: null, victim: { pid: 109 }, missing: ["header", "oom-kill"] },
    ]);
    expect(scan.incomplete).toHaveLength(1);
  });

  it("tells 20 kills of a rate-limited burst, and what is not known of those without a report", () => {
    const burst = Array.from(
      { length: 20 },
      (_, i) =>
        `3,${1000 + i},${6_000_000 + i},-;Memory cgroup out of memory: Killed process ${500 + i} (hog) ${TAIL}\n`,
    ).join("");
    const scan = scanKernelLog(
      `${guest("kmsg-61-v2-memcg.raw")}${burst}4,1020,7000000,-;oom_kill_process: 132 callbacks suppressed\n`,
    );
    expect(scan.kills).toHaveLength(21);
    expect(scan.suppressed).toBe(132);
    for (const kill of scan.kills.slice(1))
      expect(kill).toMatchObject({
        kind: "memcg",
        constraint: null,
        oomMemcg: null,
        trigger: "unknown",
        missing: ["header", "oom-kill"],
      });
  });

  it("leaves the kind open where 5.1+ text names no constraint, and where old text names neither", () => {
    expect(scanKernelLog(`[ 1.000000] Out of memory: Killed process 5 (x) ${TAIL}\n`).kills).toMatchObject([
      { kind: "unknown", prefix: "global" },
    ]);
    expect(scanKernelLog(`[ 1.000000] Killed process 5 (x) ${SIZES}\n`).kills).toMatchObject([
      { kind: "unknown", prefix: null },
    ]);
    expect(
      scanKernelLog(`[ 1.000000] Memory cgroup out of memory: Killed process 5 (x) ${TAIL}\n`).kills,
    ).toMatchObject([{ kind: "memcg", prefix: "memcg" }]);
  });

  it("does not take global_oom for CONSTRAINT_NONE", () => {
    expect(scanKernelLog(guest("kmsg-72-v2-cpuset.raw")).kills).toMatchObject([{ kind: "cpuset", prefix: "global" }]);
  });

  it("tells a limit write from an allocation by the stack", () => {
    const text = guest("kmsg-72-v2-memcg.raw").replace(
      " try_charge_memcg+0x3f8/0x660",
      " memory_max_write+0x1a3/0x230",
    );
    expect(scanKernelLog(text).kills).toMatchObject([{ trigger: "limit-write" }]);
    // A frame the unwinder is not sure of proves nothing.
    expect(scanKernelLog(text.replace(" memory_max_write", " ? memory_max_write")).kills).toMatchObject([
      { trigger: "allocation" },
    ]);
  });

  it("tells a SysRq kill whose report the rate limit took from the record before", () => {
    expect(
      scanKernelLog(`6,1,1000,-;sysrq: Manual OOM execution\n3,2,2000,-;Out of memory: Killed process 5 (x) ${TAIL}\n`)
        .kills,
    ).toMatchObject([{ kind: "global", trigger: "sysrq" }]);
  });

  it("keeps interleaved reports of two CPUs apart by their caller ids", () => {
    const a = guest("dmesg-61-v2-memcg.log")
      .split("\n")
      .map((line) => line.replace(/^(\[ +[\d.]+\])/, "$1[  T101]"));
    const b = guest("dmesg-61-v2-cpuset.log")
      .split("\n")
      .map((line) => line.replace(/^(\[ +)([\d.]+)(\])/, "$12.660000$3[  T122]"));
    const from = (lines: string[]): string[] =>
      lines.slice(
        lines.findIndex((line) => line.includes("invoked")),
        lines.findIndex((line) => line.includes("Killed process")) + 1,
      );
    const [left, right] = [from(a), from(b)];
    const mixed: string[] = [];
    for (let i = 0; i < Math.max(left.length, right.length); i++)
      mixed.push(...[left[i], right[i]].filter((line) => line !== undefined));
    const kills = scanKernelLog(mixed.join("\n")).kills;
    expect(kills.map((kill) => [kill.kind, kill.oomMemcg, kill.taskMemcg, kill.victim.comm, kill.missing])).toEqual([
      ["cpuset", null, "/cs", "hog", []],
      ["memcg", "/box", "/box", "eat", []],
    ]);
  });

  it("keeps interleaved reports of an old kernel apart without caller ids", () => {
    const text = [
      "a invoked oom-killer: gfp_mask=0x201da, order=0, oom_score_adj=0",
      "b invoked oom-killer: gfp_mask=0xd0, order=0, oom_score_adj=0",
      "Task in /1037/uid killed as a result of limit of /1037",
      "Out of memory: Kill process 2188 (mysqld) score 60 or sacrifice child",
      "Killed process 2188 (mysqld) total-vm:8kB, anon-rss:4kB, file-rss:0kB",
      "Memory cgroup out of memory: Kill process 99 (php) score 960 or sacrifice child",
      "Killed process 99 (php) total-vm:8kB, anon-rss:4kB, file-rss:0kB",
    ]
      .map((line, i) => `[  818.35629${i}] ${line}\n`)
      .join("");
    expect(scanKernelLog(text).kills.map((kill) => [kill.kind, kill.oomMemcg, kill.victim.pid, kill.line])).toEqual([
      ["global", null, 2188, 1],
      ["memcg", "/1037", 99, 2],
    ]);
  });

  it("tells a report that lost its middle to a ring overrun as incomplete", () => {
    const lines = guest("kmsg-61-v2-memcg.raw").split("\n");
    const from = lines.findIndex((line) => line.includes("invoked")) + 3;
    const to = lines.findIndex((line) => line.includes("Killed process"));
    const scan = scanKernelLog([...lines.slice(0, from), ...lines.slice(to)].join("\n"));
    expect(scan.kills).toMatchObject([{ kind: "memcg", oomMemcg: null, missing: ["header", "oom-kill"] }]);
    expect(scan.incomplete).toMatchObject([{ reason: expect.stringContaining("records of the log were lost") }]);
  });

  it("pieces together an oom-kill: line that was printed in several records", () => {
    const text = guest("kmsg-61-v2-memcg.raw")
      .replace(/^6,380,(\d+),-;(.*oom_memcg=)(.*)$/m, "6,380,$1,c;$2\n6,381,$1,c;$3")
      .replace("3,381,", "3,382,");
    expect(scanKernelLog(text).kills).toMatchObject([
      { kind: "memcg", oomMemcg: "/box", taskMemcg: "/box", missing: [] },
    ]);
  });

  it("counts a victim that the group sweep prints again once", () => {
    const scan = scanKernelLog(guest("kmsg-72-v2-group.raw"), { details: true });
    expect(scan.kills.map((kill) => kill.victim.pid)).toEqual([114, 112, 111]);
    expect(scan.kills[0]).toMatchObject({ group: true, details: { groupPath: "/grp", groupMembers: [112, 111] } });
    expect(scan.kills[0]!.lines).toHaveLength(5);
  });
});

describe("kernels from 2.6.18 on", () => {
  it("reads every spelling of the kill line", () => {
    const spellings: [string, unknown][] = [
      [
        "Out of memory: Killed process 4000 (httpd).",
        { kind: "global", victim: { pid: 4000, comm: "httpd", totalVm: null } },
      ],
      ["No available memory in cpuset: Killed process 4000 (httpd).", { kind: "cpuset", victim: { comm: "httpd" } }],
      [
        "No available memory (MPOL_BIND): Killed process 4000 (httpd).",
        { kind: "mempolicy", victim: { comm: "httpd" } },
      ],
      ["Killed process 4000 (httpd)", { kind: "unknown", victim: { comm: "httpd" } }],
      [
        "Killed process 4000 (httpd) vsz:2048kB, anon-rss:1024kB, file-rss:4kB",
        { victim: { totalVm: 2048 * 1024, anonRss: 1024 * 1024, fileRss: 4096, shmemRss: null } },
      ],
      [
        "Killed process 4000 (httpd) total-vm:2048kB, anon-rss:1024kB, file-rss:4kB",
        { victim: { totalVm: 2048 * 1024, shmemRss: null } },
      ],
      [
        "Killed process 4000 (httpd) total-vm:2048kB, anon-rss:1024kB, file-rss:4kB, shmem-rss:8kB",
        { victim: { shmemRss: 8192, pgtables: null } },
      ],
      [
        "Killed process 4000, UID 48, (httpd) total-vm:2048kB, anon-rss:1024kB, file-rss:4kB",
        { victim: { uid: 48, comm: "httpd" } },
      ],
      [
        "Killed process 4000 (httpd), UID 48, total-vm:2048kB, anon-rss:1024kB, file-rss:4kB, shmem-rss:0kB",
        { victim: { uid: 48, comm: "httpd" } },
      ],
      [
        "Memory cgroup out of memory: Killed process 4000 (httpd) total-vm:2048kB, anon-rss:1024kB, file-rss:4kB, shmem-rss:8kB",
        { kind: "memcg", victim: { uid: null } },
      ],
      [
        "Memory cgroup out of memory: Killed process 4000 (httpd) total-vm:2048kB, anon-rss:1024kB, file-rss:4kB, shmem-rss:8kB, UID:48 pgtables:12kB oom_score_adj:-998",
        { kind: "memcg", victim: { uid: 48, pgtables: 12_288, oomScoreAdj: -998 } },
      ],
      [
        "Memory cgroup out of memory: Killed process 4000 (httpd) total-vm:2048kB, anon-rss:1024kB, file-rss:4kB, shmem-rss:8kB, UID:48 pgtables:12288kB oom_score_adj:0",
        { victim: { pgtables: 12_288 } },
      ],
    ];
    for (const [text, kill] of spellings)
      expect({ text, kills: scanKernelLog(`[    1.000000] ${text}\n`).kills }).toMatchObject({ text, kills: [kill] });
  });

  it("reads the blog's three lines", () => {
    const scan = scanKernelLog(
      "[1869.151779] Memory cgroup out of memory: Kill process 27881 (stress) score 1100 or sacrifice child\n[1869.155654] Killed process 27881 (stress) total-vm:8192780kB, anon-rss:7152284kB, file-rss:4kB, shmem-rss:0kB\n[1869.434078] oom_reaper: reaped process 27881 (stress), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB\n",
      { details: true },
    );
    expect(scan.kills).toMatchObject([
      {
        kind: "memcg",
        constraint: null,
        victim: { pid: 27881, comm: "stress", totalVm: 8192780 * 1024, anonRss: 7152284 * 1024 },
        details: { score: { printed: 1100 }, reaper: { anonRss: 0, line: 3 } },
      },
    ]);
  });

  it("tells the constraint that messages up to 2.6.35 carry", () => {
    const scan = scanKernelLog(
      "[ 1.000000] No available memory in cpuset: kill process 12 (x) score 90 or a child\n[ 1.000001] Killed process 12 (x)\n[ 2.000000] Out of memory: kill process 13 (y) score 91 or a child\n[ 2.000001] Killed process 13 (y)\n",
    );
    expect(scan.kills.map((kill) => [kill.kind, kill.victim.pid])).toEqual([
      ["cpuset", 12],
      ["global", 13],
    ]);
  });
});

describe("the scanner", () => {
  it("gives a kill with the record that completes it", () => {
    const scanner = createOomScanner();
    const records = guest("kmsg-61-v2-memcg.raw")
      .split("\n")
      .map((line, i) => parseKmsgRecord(line, i + 1))
      .filter((record): record is KmsgRecord => record !== null);
    for (const record of records)
      expect(scanner.push(record).map((kill) => kill.victim.pid)).toEqual(
        record.text.includes("Killed process") ? [101] : [],
      );
    expect(scanner.end()).toEqual({ kills: [], incomplete: [], suppressed: 0, noVictim: [], panics: [] });
  });

  it("works on records that all have the same line number, as read(2) gives them", () => {
    const records = guest("kmsg-61-v2-memcg.raw")
      .split("\n")
      .map((line) => parseKmsgRecord(line))
      .filter((record): record is KmsgRecord => record !== null);
    expect(findOomKills(records).kills).toMatchObject([{ kind: "memcg", trigger: "allocation", missing: [] }]);
  });
});
