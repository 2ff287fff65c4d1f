import { describe, expect, test } from "vitest";
import { traceReader } from "../../src/engine/trace-lines.ts";

const signal = `name: signal_generate
ID: 261
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:int sig;	offset:8;	size:4;	signed:1;

print fmt: "sig=%d errno=%d code=%d comm=%s pid=%d grp=%d res=%d", REC->sig, REC->errno, REC->code, REC->comm, REC->pid, REC->group, REC->result
`;
/** Kernels before 6.8. */
const pidAlone = `name: mark_victim
ID: 511
format:
	field:int pid;	offset:8;	size:4;	signed:1;

print fmt: "pid=%d", REC->pid
`;
const withSizes = `name: mark_victim
ID: 609
format:
	field:int pid;	offset:8;	size:4;	signed:1;

print fmt: "pid=%d comm=%s total-vm=%lukB anon-rss=%lukB file-rss:%lukB shmem-rss:%lukB uid=%u pgtables=%lukB oom_score_adj=%hd", REC->pid, __get_str(comm), REC->total_vm, REC->anon_rss, REC->file_rss, REC->shmem_rss, REC->uid, REC->pgtables, REC->oom_score_adj
`;
const old = () => traceReader({ signal, victim: pidAlone });
const recent = () => traceReader({ signal, victim: withSizes });

describe("a trace's lines", () => {
  test("of kernel 6.18: a process's SIGKILL, the kernel's, and the victim with its sizes", () => {
    const read = recent();
    expect(
      read(`            kill-1256    [000] dN.1.  2069.999227: signal_generate: sig=9 errno=0 code=0 comm=sleep pid=1244 grp=1 res=0
          stress-1268    [001] d..2.  2073.450893: signal_generate: sig=9 errno=0 code=128 comm=stress pid=1268 grp=1 res=0
          stress-1268    [001] ...1.  2073.450906: mark_victim: pid=1268 comm=stress total-vm=307428kB anon-rss=193920kB file-rss:0kB shmem-rss:0kB uid=0 pgtables=420kB oom_score_adj=-17
`),
    ).toEqual([
      {
        type: "trace-signal",
        timeUs: 2069999227,
        signal: "SIGKILL",
        code: 0,
        pid: 1244,
        comm: "sleep",
        toProcess: true,
        result: 0,
        sender: { pid: 1256, comm: "kill", unit: null },
      },
      expect.objectContaining({ type: "trace-signal", code: 128, pid: 1268 }),
      {
        type: "trace-victim",
        timeUs: 2073450906,
        pid: 1268,
        comm: "stress",
        uid: 0,
        totalVm: 307428 * 1024,
        anonRss: 193920 * 1024,
        fileRss: 0,
        shmemRss: 0,
        pgtables: 420 * 1024,
        oomScoreAdj: -17,
        by: { pid: 1268, comm: "stress" },
      },
    ]);
  });

  test("of kernels 5.10 (four flags) and 6.1 (five), whose victim has a pid alone", () => {
    expect(
      old()(`            bash-401     [000] d...   112.014721: signal_generate: sig=15 errno=0 code=0 comm=app pid=412 grp=1 res=0
           <...>-77      [003] d..1.    81.400000: mark_victim: pid=412
`),
    ).toMatchObject([
      { type: "trace-signal", signal: "SIGTERM", pid: 412, sender: { pid: 401, comm: "bash" } },
      { type: "trace-victim", pid: 412, comm: null, anonRss: null, by: { pid: 77, comm: null } },
    ]);
  });

  test("with record-tgid the thread group stands between", () => {
    expect(
      recent()(
        "           <idle>-0     (-------) [000] dNh3.    10.000001: signal_generate: sig=9 errno=0 code=128 comm=a pid=7 grp=1 res=0\n",
      ),
    ).toMatchObject([{ pid: 7, sender: { pid: 0, comm: "<idle>" } }]);
  });

  test("are cut anywhere by a read", () => {
    const line =
      "            kill-1256    [000] dN.1.  2069.999227: signal_generate: sig=9 errno=0 code=0 comm=sleep pid=1244 grp=1 res=0\n";
    for (let at = 0; at <= line.length; at++) {
      const read = recent();
      expect([...read(line.slice(0, at)), ...read(line.slice(at))], `cut at ${at}`).toMatchObject([{ pid: 1244 }]);
    }
  });

  test.each(["x pid=1 grp=1", "res=0", "a b  c", "[000] d 1.1:", "%s", "kill-1 [0]"])(
    "name tasks as they like: %s",
    (comm) => {
      const read = recent();
      expect(
        read(
          `${comm.padStart(16)}-1256    [000] dN.1.  2069.999227: signal_generate: sig=9 errno=0 code=0 comm=${comm} pid=1244 grp=1 res=0\n`,
        ),
      ).toMatchObject([{ pid: 1244, comm, sender: { pid: 1256, comm } }]);
    },
  );

  test("are put together where a name breaks them", () => {
    const read = recent();
    expect(
      read(`            a
b-1256    [000] dN.1.  2069.999227: signal_generate: sig=9 errno=0 code=0 comm=c
d pid=1244 grp=1 res=0
            kill-1257    [000] dN.1.  2070.999227: signal_generate: sig=9 errno=0 code=0 comm=sleep pid=1245 grp=0 res=0
`),
    ).toMatchObject([
      { pid: 1244, comm: "c\nd", sender: { pid: 1256, comm: "a\nb" } },
      { pid: 1245, toProcess: false },
    ]);
  });

  test("tell of events that the buffer had no room for", () => {
    expect(recent()("CPU:1 [LOST 123 EVENTS]\n")).toEqual([{ type: "trace-lost", events: 123 }]);
  });
});
