import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { explainKill, type OomDetails, type OomKill, printable, scanKernelLog } from "../../src/kmsg/index.ts";

const kills = (path: string): OomKill[] =>
  scanKernelLog(readFileSync(new URL(`../fixtures/kernel-logs/${path}`, import.meta.url)), { details: true }).kills;
const details = (path: string): OomDetails => kills(path)[0]!.details!;

describe("details", () => {
  it("read a memcg report of 7.2 on cgroup v2", () => {
    const found = details("guest/kmsg-72-v2-memcg.raw");
    expect({
      ...found,
      memcg: { ...found.memcg, stats: { anon: found.memcg!.stats["anon"], pgfault: found.memcg!.stats["pgfault"] } },
    }).toMatchInlineSnapshot(`
      {
        "allocatingTask": false,
        "chosen": null,
        "cpuset": "box",
        "gfpFlags": [
          "GFP_KERNEL",
        ],
        "gfpMask": 3264,
        "groupMembers": [],
        "groupPath": null,
        "invoker": {
          "comm": "eat",
          "cpu": 0,
          "oomScoreAdj": 0,
          "pid": 112,
          "uid": 0,
        },
        "kernel": "7.2.13+deb14-cloud-amd64",
        "memcg": {
          "kmem": null,
          "memory": {
            "failcnt": 18,
            "limit": 33554432,
            "usage": 33554432,
          },
          "memsw": null,
          "stats": {
            "anon": 33484800,
            "pgfault": 8175,
          },
          "swap": {
            "failcnt": 0,
            "limit": "max",
            "usage": 0,
          },
        },
        "memory": null,
        "memsAllowed": "0",
        "nodemask": null,
        "omitted": 0,
        "order": 0,
        "reaper": null,
        "score": {
          "assumes": "no swap: the report does not say how much there is, and nothing in it is swapped out",
          "computed": 1022,
          "oomScoreAdj": 0,
          "pageSize": 4096,
          "pgtablePages": 25,
          "printed": null,
          "rssPages": 8349,
          "swapPages": 0,
          "totalPages": 8192,
        },
        "slab": {},
        "stack": [
          "dump_stack_lvl",
          "dump_header",
          "oom_kill_process.cold",
          "out_of_memory",
          "mem_cgroup_out_of_memory",
          "try_charge_memcg",
          "charge_memcg",
          "__mem_cgroup_charge",
          "do_anonymous_page",
          "__handle_mm_fault",
          "handle_mm_fault",
          "do_user_addr_fault",
          "exc_page_fault",
          "asm_exc_page_fault",
        ],
        "tasks": [
          {
            "name": "eat",
            "oomScoreAdj": 0,
            "pgtablePages": null,
            "pgtables": 102400,
            "pid": 112,
            "rssAnonPages": 8186,
            "rssFilePages": 1,
            "rssPages": 8349,
            "rssShmemPages": 162,
            "swapPages": 0,
            "tgid": 112,
            "totalVmPages": 8442,
            "uid": 0,
          },
        ],
      }
    `);
  });

  it("read a node-level report with its memory state", () => {
    const found = details("guest/dmesg-72-v2-global.log");
    expect(found.memory).toMatchObject({
      pages: { active_anon: 44462 },
      totalSwap: 0,
      ramPages: 65406,
      reservedPages: 13124,
    });
    expect(found.memory!.zones["Node 0 DMA"]).toMatchObject({ present: 15992 * 1024 });
    expect(found.tasks!.map((task) => task.name)).toEqual(["bystander", "eat"]);
  });

  it("read cgroup v1's counters and a table of a 4.8 kernel", () => {
    expect(details("field/03-cadvisor-4.8-docker-two-memcg.log")).toMatchObject({
      gfpMask: 0x24000c0,
      gfpFlags: ["GFP_KERNEL"],
      kernel: "4.8.0-gentoo",
      invoker: { comm: "gunpowder-memho", pid: 1381, cpu: 0 },
      memcg: {
        memory: { usage: 20480 * 1024, limit: 20480 * 1024, failcnt: 1204 },
        memsw: { usage: 40940 * 1024, limit: 40960 * 1024, failcnt: 6 },
        kmem: { usage: 220 * 1024, limit: "max" },
        swap: null,
        stats: { rss: 20260 * 1024 },
      },
      tasks: [{ pid: 1381, pgtablePages: 38, pgtables: null, swapPages: 5489, name: "gunpowder-memho" }],
      score: { printed: 1046, computed: 1046 },
      reaper: { anonRss: 0, line: 44 },
    });
  });

  it("read stats that `dmesg -T` prints as one indented record", () => {
    expect(details("field/07-oomanalyser-5.15-proxmox-memcg.log").memcg).toMatchObject({
      swap: { usage: 0, limit: 0, failcnt: 0 },
      stats: { anon: 31154200576, active_file: expect.any(Number) },
    });
  });

  it("read a wrapped table, and one whose report's head was cut off", () => {
    expect(details("field/23-lkml-mempolicy-offline-mailwrapped.log").tasks).toMatchObject([
      { pid: 718, name: "systemd-journal", rssFilePages: 29342, oomScoreAdj: -250 },
      { pid: 274743, name: "consume_activit" },
    ]);
  });

  it("are null where the log has only the kill", () => {
    expect(details("field/35b-npd480-cos-5.4-memcg.log")).toMatchObject({
      invoker: null,
      gfpMask: null,
      memcg: null,
      memory: null,
      tasks: null,
      reaper: null,
      score: { printed: null, computed: null, oomScoreAdj: 994 },
    });
  });
});

describe("the explanation", () => {
  it("tells whose limit it was, why this process, what used the memory and what to do", () => {
    expect(explainKill(kills("field/07-oomanalyser-5.15-proxmox-memcg.log")[0]!)).toMatchInlineSnapshot(`
      [
        "The kernel killed process 3902942 (php-fpm) because the memory cgroup /lxc/39004 was at its limit and too little could be reclaimed; the machine as a whole need not have been short of memory.",
        "It is the limit of container 39004 (lxc).",
        "The limit that was hit is not the victim's own: it counts everything below it, and the victim ran in ns/system.slice/docker-a59e4e7d3090c04c6ce5a4b7a8bc85228eb9b96ac00b1284643a8c7c11dda661.scope (container a59e4e7d3090 (docker)).",
        "The cgroup used 29.8 GiB of the 29.8 GiB it may use, and charges had failed 83420 times.",
        "It may not use swap (its swap limit is 0), so anonymous memory had nowhere to go.",
        "The allocation that found no memory was made by process 3923954 (php-fpm): it set the OOM killer off, which then chose the victim.",
        "When it was killed it held 12 GiB of anonymous memory (heap, stacks) and 152 MiB of shared memory; its address space of 14.1 GiB does not count.",
        "Worked out on the scale of old kernels it scores 410, where 1000 stands for 29.8 GiB: the highest score dies.",
        "In the cgroup, shared memory and tmpfs took 656 MiB, anonymous memory took 29 GiB, page cache without shared memory took 296 KiB and the kernel on its behalf took 111 MiB.",
        "The processes in the report, by name: 21 x php-fpm: 31.7 GiB, systemd-journal: 121 MiB, alloy: 95.2 MiB, 13 x nginx: 64.5 MiB and dockerd: 42.9 MiB.",
        "Raise that limit, or lower what the cgroups below it may use together.",
      ]
    `);
  });
  it("tells a node-level kill from a container's", () => {
    expect(explainKill(kills("guest/dmesg-72-v2-global.log")[0]!)).toMatchInlineSnapshot(`
      [
        "The kernel killed process 113 (eat) because the machine had run out of memory; no cgroup's limit was involved.",
        "The victim ran in the cgroup /nolimit, whose own limit was not the reason.",
        "When it was killed it held 163 MiB of anonymous memory (heap, stacks), 4 KiB of files and 648 KiB of shared memory; its address space of 164 MiB does not count.",
        "Worked out on the scale of old kernels it scores 801, where 1000 stands for 204 MiB: the highest score dies.",
        "On the machine of 255 MiB, shared memory and tmpfs took 2.9 MiB, anonymous memory took 171 MiB, the kernel (slab, page tables, stacks) took 11.4 MiB and 4.9 MiB was free.",
        "The processes in the report, by name: eat: 163 MiB and bystander: 8.1 MiB.",
        "The machine has no swap.",
        "Give the machine more memory or some swap, or put limits on the largest processes.",
      ]
    `);
  });
  it("does not take a cpuset's nodes for the machine", () => {
    expect(explainKill(kills("field/19-lkml-5.8-cpuset-movable-node.log")[0]!)).toMatchInlineSnapshot(`
      [
        "The kernel killed process 4100 (containerd) because the memory nodes that a cpuset allows had run out of memory; other nodes may have had plenty.",
        "The victim ran in the cgroup /system.slice/containerd.service, whose own limit was not the reason.",
        "The process that needed memory may use node 4 only (cpuset docker-9976a269caec812c134fa317f27487ee36e1129beba7278a463dd53e5fb9997b.scope); the victim may run elsewhere.",
        "The allocation that found no memory was made by process 8291 (runc:[2:INIT]): it set the OOM killer off, which then chose the victim.",
        "When it was killed it held 50 MiB of anonymous memory (heap, stacks) and 25.4 MiB of files; its address space of 3.9 GiB does not count.",
        "On the machine, shared memory and tmpfs took 2.9 MiB, anonymous memory took 1.5 GiB, page cache took 858 MiB, what cannot be reclaimed (locked memory) took 10.6 MiB, the kernel (slab, page tables, stacks) took 665 MiB and 610 GiB was free.",
        "Allow more nodes, or spread the memory: more memory on the other nodes does not help.",
      ]
    `);
  });
  it("says of a SysRq kill that memory was not short, and gives no advice", () => {
    const text = explainKill(kills("guest/kmsg-61-v2-sysrq.raw")[0]!).join(" ");
    expect(text).toContain("nothing about a shortage of memory");
    expect(text).not.toMatch(/Raise|Give the machine/);
  });
  it("points to shared memory where that is what filled the cgroup", () => {
    expect(explainKill(kills("guest/kmsg-72-v2-shmem.raw")[0]!).join(" ")).toContain(
      "Most of it is shared memory or tmpfs",
    );
  });
  it("says what the log does not", () => {
    expect(explainKill(kills("field/49-debian-6.x-global-burst.log")[0]!)).toMatchInlineSnapshot(`
      [
        "The kernel killed process 4333 (victim.py) because memory ran out outside any memory cgroup's limit: on the whole machine, or on the nodes that a cpuset or a memory policy allows; the record that shows which is not in the log.",
        "When it was killed it held 128 KiB of anonymous memory (heap, stacks) and 2 MiB of files; its address space of 19.2 MiB does not count.",
        "Not in the log: the report's header (who set the OOM killer off) and the record that names limit and cgroup.",
      ]
    `);
    expect(explainKill(kills("field/39-netconsole-4.9-kills-only.log")[0]!)[0]).toContain(
      "the log does not show whether",
    );
  });
  it("escapes names", () => {
    const kill = scanKernelLog(
      "3,1,1,-;Out of memory: Killed process 5 (\\x1b[2Jx\\xe2\\x80\\xae) total-vm:8kB, anon-rss:4kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:4kB oom_score_adj:0\n",
    ).kills[0]!;
    expect(kill.victim.comm).toBe("\u001b[2Jx\u202e");
    expect(explainKill(kill)[0]).toContain("\\x1b[2Jx\\u202e");
  });
  it("says of a group's members that they died with it, not for their score", () => {
    const [first, ...members] = kills("field/25-k3s-5.x-oomgroup-18-members.log").map((kill) =>
      explainKill(kill).join(" "),
    );
    expect(first).toContain("shielded it, yet nothing else scored higher");
    expect(members).toHaveLength(9);
    for (const text of members) {
      expect(text).toContain("It died with its group, not for its own score.");
      expect(text).not.toContain("scored");
    }
  });
  it("does not take the machine's memory for what a cpuset or a policy allows", () => {
    for (const log of ["guest/kmsg-61-v1-cpuset.raw", "guest/kmsg-61-v2-mempolicy.raw"]) {
      const kill = kills(log)[0]!;
      expect(kill.details?.score).toMatchObject({ computed: null, totalPages: null });
      expect(explainKill(kill).join(" ")).not.toMatch(/where 1000 stands for|Give the machine/);
    }
  });
  it("leaves open what was short where an old kernel does", () => {
    const text = explainKill(kills("field/33-fedora-4.x-global-comm-with-space.log")[0]!).join(" ");
    expect(text).toContain("kernels up to 5.0 do not tell these apart");
    expect(text).toContain("If the whole machine was short");
  });
});

describe("printable", () => {
  it("leaves plain text of any script alone", () => {
    for (const text of ["", "stress", "Web Content", "月 é 🙂 ß", "a\\x0a"]) expect(printable(text)).toBe(text);
  });
  it("escapes what a terminal obeys or hides", () => {
    expect(printable("\u0000\t\n\u001b]0;x\u0007\u007f\u009b\u200e\u2066\ufeff\ud800")).toBe(
      "\\x00\\x09\\x0a\\x1b]0;x\\x07\\x7f\\x9b\\u200e\\u2066\\ufeff\\ud800",
    );
  });
});
