import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  createLogReader,
  findOomKills,
  type KmsgRecord,
  type OomKill,
  parseKmsgRecord,
  scanKernelLog,
} from "../../src/kmsg/index.ts";

const own = new URL("../fixtures/kernel-logs/own/", import.meta.url);
const raw = readFileSync(new URL("kmsg-6.18-v1-memcg.raw", own), "utf8");
const records = raw
  .split("\n")
  .map((line) => parseKmsgRecord(line))
  .filter((record): record is KmsgRecord => record !== null);

/** What must be the same in every format. */
const essence = ({ kind, constraint, trigger, oomMemcg, taskMemcg, group, victim, prefix, missing }: OomKill) => ({
  kind,
  constraint,
  trigger,
  oomMemcg,
  taskMemcg,
  group,
  victim,
  prefix,
  missing,
});
const expected = essence(scanKernelLog(raw).kills[0]!);

const seconds = (record: KmsgRecord): string => (record.timeUs! / 1e6).toFixed(6).padStart(12);
const lines = (make: (record: KmsgRecord) => string): string => records.map((record) => `${make(record)}\n`).join("");
const entry = (record: KmsgRecord) => ({
  __CURSOR: "s=1;i=2",
  __REALTIME_TIMESTAMP: "1764027751000000",
  _SOURCE_MONOTONIC_TIMESTAMP: String(record.timeUs),
  _TRANSPORT: "kernel",
  PRIORITY: String(record.level),
  SYSLOG_FACILITY: "0",
  SYSLOG_IDENTIFIER: "kernel",
  MESSAGE: record.text,
});

/** Cuts long lines at blanks, as mail programs do; the rest of a line has no prefix. */
function wrap(line: string, width: number): string {
  if (line.length <= width) return line;
  const at = line.lastIndexOf(" ", width);
  if (at < 20) return line;
  return `${line.slice(0, at)}\n${wrap(line.slice(at + 1), width)}`;
}

const binary = Buffer.concat(
  records.map((record) => {
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(Buffer.byteLength(record.text)));
    return Buffer.concat([
      Buffer.from("__CURSOR=s=1\n_TRANSPORT=kernel\nSYSLOG_FACILITY=0\nMESSAGE\n"),
      size,
      Buffer.from(`${record.text}\nPRIORITY=${record.level}\n\n`),
    ]);
  }),
);

const formats: Record<string, string | Uint8Array> = {
  dmesg: lines((record) => `[${seconds(record)}] ${record.text}`),
  "dmesg with caller ids": lines((record) => `[${seconds(record)}] [ T8361] ${record.text}`),
  "dmesg with caller ids, no blank": lines((record) => `[${seconds(record)}][ T8361] ${record.text}`),
  "journalctl -o short": lines((record) => `Nov 24 23:42:31 node-1 kernel: ${record.text}`),
  "journalctl -o short, German months": lines((record) => `Mär 24 23:42:31 node-1 kernel: ${record.text}`),
  "journalctl -o short-precise": lines((record) => `Nov 24 23:42:31.123456 node-1 kernel: ${record.text}`),
  "journalctl -o short-iso": lines((record) => `2026-11-24T23:42:31+0000 node-1 kernel: ${record.text}`),
  "journalctl -o short-iso-precise": lines(
    (record) => `2026-11-24T23:42:31.123456+01:00 node-1 kernel: ${record.text}`,
  ),
  "journalctl -o short-full": lines((record) => `Tue 2026-11-24 23:42:31 UTC node-1 kernel: ${record.text}`),
  "journalctl -o short-monotonic": lines((record) => `[${seconds(record)}] node-1 kernel: ${record.text}`),
  "journalctl -o short-unix": lines((record) => `1764027751.123456 node-1 kernel: ${record.text}`),
  "journalctl -o cat": lines((record) => record.text),
  "journalctl -o with-unit": lines((record) => `Tue 2026-11-24 23:42:31 UTC node-1 kernel[0]: ${record.text}`),
  "journalctl -o json": lines((record) => JSON.stringify(entry(record))),
  "journalctl -o json, bytes": lines((record) =>
    JSON.stringify({ ...entry(record), MESSAGE: [...new TextEncoder().encode(record.text)] }),
  ),
  "journalctl -o json-pretty": lines((record) => JSON.stringify(entry(record), null, "\t")),
  "journalctl -o json in one array": JSON.stringify(records.map(entry)),
  "journalctl -o export": lines(
    (record) =>
      `${Object.entries(entry(record))
        .map(([key, value]) => `${key}=${value}`)
        .join("\n")}\n`,
  ),
  "journalctl -o export, binary message": binary,
  "journalctl -o export, binary message, decoded": binary.toString("utf8"),
  "journalctl -o export, binary message, decoded as latin1": binary.toString("latin1"),
  "journalctl -o verbose": lines(
    (record) =>
      `Tue 2026-11-24 23:42:31.123456 UTC [s=abc;i=1f;b=2;m=3;t=4;x=5]\n${Object.entries(entry(record))
        .slice(1)
        .map(([key, value]) => `    ${key}=${value}`)
        .join("\n")}`,
  ),
  syslog: lines((record) => `Nov 24 23:42:31 node-1 kernel: [${seconds(record)}] ${record.text}`),
  "syslog without a host": lines((record) => `Nov 24 23:42:31 kernel: [${seconds(record)}] ${record.text}`),
  "syslog, RFC 3164": lines((record) => `<${record.level}>Nov 24 23:42:31 node-1 kernel: ${record.text}`),
  "syslog, RFC 5424": lines(
    (record) => `<${record.level}>1 2026-11-24T23:42:31.123456Z node-1 kernel - - - ${record.text}`,
  ),
  "OpenWrt logread": lines(
    (record) => `Tue Nov 24 23:42:31 2026 kern.warn kernel: [${seconds(record)}] ${record.text}`,
  ),
  "talosctl dmesg": lines((record) => `kern: warning: [2026-11-24T23:42:31.123456Z]: ${record.text}`),
  netconsole: lines((record) => `2026-11-24 23:42:31 192.168.17.23:6665 [${seconds(record)}] ${record.text}`),
  "extended netconsole": lines((record) => `${record.level},${record.seq},${record.timeUs},-;${record.text}`),
  "kubectl logs of a node problem daemon": lines(
    (record) => `2026-11-24T23:42:31.123456789Z stdout F [${seconds(record)}] ${record.text}`,
  ),
  "docker's json-file": lines((record) =>
    JSON.stringify({ log: `[${seconds(record)}] ${record.text}\n`, stream: "stdout", time: "2026-11-24T23:42:31Z" }),
  ),
  "Cloud Logging": JSON.stringify(
    records.map((record) => ({ insertId: "x", jsonPayload: entry(record), resource: { type: "k8s_node" } })),
    null,
    2,
  ),
  "grep -n": lines((record) => `${record.seq}:[${seconds(record)}] ${record.text}`),
  "grep -H": lines((record) => `/var/log/kern.log:Nov 24 23:42:31 node-1 kernel: [${seconds(record)}] ${record.text}`),
  "quoted mail": lines((record) => `> > [${seconds(record)}] ${record.text}`),
  "quoted and wrapped mail": lines((record) =>
    wrap(`[${seconds(record)}] ${record.text}`, 76)
      .split("\n")
      .map((line) => `> ${line}`)
      .join("\n"),
  ),
  "a terminal 120 columns wide, copied": lines((record) =>
    `[${seconds(record)}] ${record.text}`.replace(/.{120}(?=.)/g, "$&\n"),
  ),
  CRLF: lines((record) => `[${seconds(record)}] ${record.text}\r`),
  "a serial console with CR CR LF": lines((record) => `[${seconds(record)}] ${record.text}\r\r`),
  "ANSI colours": lines((record) => `\u001b[32m[${seconds(record)}] \u001b[0m\u001b[33m${record.text}\u001b[0m`),
  "wall messages of syslogd": lines((record) => `Nov 24 23:42:31 node-1 kernel:[${seconds(record)}] ${record.text}`),
  "a tag without a blank": lines((record) => `Nov 24 23:42:31 node-1 kernel:${record.text}`),
  "a serial console with a prompt": lines((record) => `node-1 login: [${seconds(record)}] ${record.text}`),
  "blank lines between": lines((record) => `[${seconds(record)}] ${record.text}\n`),
  "pasted with indentation": lines((record) => `    [${seconds(record)}] ${record.text}`),
  "UTF-16 of a Windows shell": Buffer.from(
    `\ufeff${lines((record) => `[${seconds(record)}] ${record.text}`)}`,
    "utf16le",
  ),
  "UTF-8 with a byte order mark": `\ufeff${lines((record) => `[${seconds(record)}] ${record.text}`)}`,
  "other programs' lines between": lines(
    (record) =>
      `[${seconds(record)}] ${record.text}\nlogin: \nKilled by signal 9\nNov 24 23:42:31 node-1 sshd[12]: Connection closed`,
  ),
};

describe("formats made from one report of this machine's kernel", () => {
  for (const [name, text] of Object.entries(formats)) {
    it(`reads ${name}`, () => {
      const scan = scanKernelLog(text);
      const same = name.includes("120 columns") ? { ...expected, missing: scan.kills[0]?.missing ?? null } : expected;
      expect(scan.kills.map(essence)).toEqual([same]);
      expect(scan.incomplete).toEqual([]);
    });
  }

  it("reads the same from dmesg in all its layouts", () => {
    const found = readdirSync(own)
      .filter((file) => file.startsWith("dmesg"))
      .map((file) => scanKernelLog(readFileSync(new URL(file, own))).kills.map((kill) => essence(kill)));
    expect(found.length).toBeGreaterThan(12);
    for (const kills of found) expect(kills).toEqual(found[0]);
    expect(found[0]).toContainEqual(expected);
  });

  it("takes the kill from a line cut at 80 columns as far as it goes", () => {
    const scan = scanKernelLog(lines((record) => `[${seconds(record)}] ${record.text}`.slice(0, 96)));
    expect(scan.kills).toHaveLength(1);
    expect(scan.kills[0]).toMatchObject({
      kind: "memcg",
      constraint: "CONSTRAINT_MEMCG",
      oomMemcg: null,
      victim: {
        pid: expected.victim.pid,
        comm: "stress",
        totalVm: expected.victim.totalVm,
        anonRss: null,
        fileRss: null,
      },
      missing: ["oom-kill", "sizes"],
    });
  });

  it("tells a kill whose name was cut off as incomplete, not as a kill", () => {
    const scan = scanKernelLog(lines((record) => `[${seconds(record)}] ${record.text}`.slice(0, 66)));
    expect(scan.kills).toEqual([]);
    expect(scan.incomplete).toHaveLength(1);
    expect(scan.incomplete[0]!.reason).toContain("cut off");
  });

  it("tells several boots in one file apart", () => {
    const text = lines((record) => `[${seconds(record)}] ${record.text}`);
    const cut = text.slice(0, text.indexOf("oom-kill:") - 16);
    const scan = scanKernelLog(
      `${cut}[    0.000000] Linux version 6.18.44\n[    1.000000] Memory cgroup out of memory: Killed process 77 (next) total-vm:8kB, anon-rss:4kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:4kB oom_score_adj:0\n${text}`,
    );
    expect(scan.kills.map((kill) => [kill.victim.comm, kill.missing])).toEqual([
      ["next", ["header", "oom-kill"]],
      ["stress", []],
    ]);
    expect(scan.incomplete).toHaveLength(1);
  });
});

describe("records", () => {
  it("parses a record of /dev/kmsg with caller, escapes and a dictionary", () => {
    expect(
      parseKmsgRecord("3,1234,5678901,-,caller=T42;caf\\xc3\\xa9 \\x5cend\\x0a2\n SUBSYSTEM=pci\n DEVICE=+pci:1\n", 9),
    ).toEqual({ seq: 1234, timeUs: 5678901, facility: 0, level: 3, caller: "T42", text: "café \\end\n2", line: 9 });
    expect(parseKmsgRecord("12,1,2,-;user text")).toMatchObject({ facility: 1, level: 4 });
    for (const none of ["", "\n", "hello", "3,1", "[ 1.0] x", " SUBSYSTEM=pci"])
      expect(parseKmsgRecord(none)).toBeNull();
  });

  it("keeps time, level, facility and caller of each format", () => {
    const read = (text: string): KmsgRecord[] => {
      const reader = createLogReader();
      return [...reader.push(text), ...reader.end()];
    };
    expect(read("kern  :err   : [   12.345678] [    C3] x\n")).toEqual([
      { seq: null, timeUs: 12_345_678, facility: 0, level: 3, caller: "C3", text: "x", line: 1 },
    ]);
    expect(read("<4>[    1.000002] x\n")).toMatchObject([{ timeUs: 1_000_002, facility: 0, level: 4, text: "x" }]);
    expect(read("[月  1月 26 01:49:41 2026] x y\n[dim. 19 avril 10:00:00 2020] z\n")).toMatchObject([
      { timeUs: null, text: "x y" },
      { text: "z" },
    ]);
    expect(read("Nov  1 10:00:00 h sshd[1]: Accepted\nNov  1 10:00:00 h kernel: a#012b\n")).toMatchObject([
      { text: "a\nb", line: 2 },
    ]);
    expect(read('{"pri":3,"time":1.5,"caller":"T1","msg":"m"}\n')).toEqual([
      { seq: null, timeUs: 1_500_000, facility: 0, level: 3, caller: "T1", text: "m", line: 1 },
    ]);
  });

  it("numbers kills by the first line of their report", () => {
    const kill = findOomKills(records.map((record, i) => ({ ...record, line: i + 1 }))).kills[0]!;
    expect(kill.line).toBe(1);
    expect(kill.lines.at(-1)).toBe(records.findIndex((record) => record.text.includes("Killed process")) + 1);
    expect(kill.seq).toBe(records.find((record) => record.text.includes("Killed process"))!.seq);
  });
});
