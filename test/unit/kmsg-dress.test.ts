import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  createLogReader,
  findOomKills,
  type KmsgRecord,
  type OomKill,
  type OomScan,
  scanKernelLog,
} from "../../src/kmsg/index.ts";

// The corpus' logs taken apart into records and put together again as other programs would have logged them: what is told
// must not change with the dress.

const corpus = new URL("../fixtures/kernel-logs/", import.meta.url);

interface Source {
  name: string;
  records: KmsgRecord[];
  scan: OomScan;
}

/** Records of a log with times and levels, which stripped logs lack, made up where they are missing. */
function sourceOf(path: string): Source {
  const reader = createLogReader();
  const bytes = readFileSync(new URL(path, corpus));
  const read = [...reader.push(bytes), ...reader.end()].filter(
    (record) => (record.facility ?? 0) === 0 && record.text.trim() !== "",
  );
  const timed = read.every((record) => record.timeUs !== null);
  const records = read.map((record, i): KmsgRecord => ({
    seq: null,
    timeUs: timed ? record.timeUs : 1_000_000_000 + i * 25,
    facility: null,
    level: levelOf(record.text),
    caller: null,
    text: record.text.trimEnd(),
    line: i + 1,
  }));
  return { name: path, records, scan: findOomKills(records) };
}

/** printk levels of the OOM killer's records: mm/oom_kill.c, pr_err, pr_warn and pr_info. */
function levelOf(text: string): number {
  if (/^(?:oom-kill:|oom_reaper:|Tasks? in |\[ *\d+\]|\[ *pid)/.test(text)) return 6;
  return / ?Kill(?:ed)? process \d/.test(text) ? 3 : 4;
}

const files = ["field", "guest"].flatMap((folder) =>
  readdirSync(new URL(`${folder}/`, corpus))
    .filter((file) => file !== "truth.json" && !file.includes("unkillable"))
    .map((file) => `${folder}/${file}`),
);
const sources = files.map((file) => sourceOf(file)).filter(({ records }) => records.length > 0);

/** What must be the same in every dress: all of a kill but where and when its records came. */
const essence = (kill: OomKill): Partial<OomKill> => Object.fromEntries(same.map((key) => [key, kill[key]]));
const same = [
  "kind",
  "constraint",
  "trigger",
  "oomMemcg",
  "taskMemcg",
  "group",
  "victim",
  "prefix",
  "tgid",
  "missing",
] as const;

const stamp = (record: KmsgRecord): string => ((record.timeUs ?? 0) / 1e6).toFixed(6).padStart(12);
const all = (records: KmsgRecord[], render: (record: KmsgRecord, i: number) => string): string =>
  records.map((record, i) => `${render(record, i)}\n`).join("");
/** A record of several lines: each has the prefix (syslog(2), dmesg -r). */
const each = (record: KmsgRecord, prefix: string): string =>
  record.text
    .split("\n")
    .map((line) => `${prefix}${line}`)
    .join("\n");
/** A record of several lines: the first has the prefix, the others are indented below it (dmesg, journalctl). */
const hung = (record: KmsgRecord, prefix: string): string =>
  `${prefix}${record.text.replaceAll("\n", `\n${" ".repeat(prefix.length)}`)}`;
/** rsyslog's way with control characters. */
const octal = (text: string): string =>
  Array.from(text, (char) => (char < " " ? `#${char.charCodeAt(0).toString(8).padStart(3, "0")}` : char)).join("");
/** /dev/kmsg's way. */
const hex = (text: string): string =>
  Array.from(new TextEncoder().encode(text), (byte) =>
    byte < 32 || byte >= 127 || byte === 92 ? `\\x${byte.toString(16).padStart(2, "0")}` : String.fromCharCode(byte),
  ).join("");
const delta = (records: KmsgRecord[], i: number): string =>
  (((records[i]?.timeUs ?? 0) - (records[i - 1]?.timeUs ?? records[i]?.timeUs ?? 0)) / 1e6).toFixed(6);
const clock = (record: KmsgRecord): string =>
  new Date(Date.UTC(2026, 10, 24, 12) + (record.timeUs ?? 0) / 1000).toISOString();
const short = (record: KmsgRecord): string => `Nov 24 ${clock(record).slice(11, 19)}`;
const journal = (record: KmsgRecord): Record<string, string> => ({
  __CURSOR: `s=abc;i=${record.line.toString(16)}`,
  __REALTIME_TIMESTAMP: String(1_764_000_000_000_000 + (record.timeUs ?? 0)),
  _BOOT_ID: "0123456789abcdef0123456789abcdef",
  _TRANSPORT: "kernel",
  _SOURCE_MONOTONIC_TIMESTAMP: String(record.timeUs),
  PRIORITY: String(record.level),
  SYSLOG_FACILITY: "0",
  SYSLOG_IDENTIFIER: "kernel",
  MESSAGE: record.text,
});
function exported(record: KmsgRecord): Buffer {
  const parts: Buffer[] = [];
  for (const [key, value] of Object.entries(journal(record))) {
    const bytes = Buffer.from(value);
    if (!value.includes("\n")) parts.push(Buffer.from(`${key}=${value}\n`));
    else {
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(BigInt(bytes.length));
      parts.push(Buffer.from(`${key}\n`), size, bytes, Buffer.from("\n"));
    }
  }
  return Buffer.concat([...parts, Buffer.from("\n")]);
}

const months = { German: "Okt", French: "déc.", Spanish: "ago", Portuguese: "dez", Russian: "дек", Czech: "pro" };

const dresses: Record<string, (records: KmsgRecord[]) => string | Uint8Array> = {
  dmesg: (records) => all(records, (record) => hung(record, `[${stamp(record)}] `)),
  "dmesg -t": (records) => all(records, (record) => record.text),
  "dmesg of busybox": (records) => all(records, (record) => each(record, `[${stamp(record)}] `)),
  "dmesg -r": (records) => all(records, (record) => each(record, `<${record.level}>[${stamp(record)}] `)),
  "dmesg -x": (records) =>
    all(records, (record) =>
      hung(
        record,
        `kern  :${["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"][record.level ?? 6]?.padEnd(6)}: [${stamp(record)}] `,
      ),
    ),
  "dmesg -T": (records) => all(records, (record) => hung(record, `[Tue Nov 24 ${clock(record).slice(11, 19)} 2026] `)),
  "dmesg -T in Japanese": (records) =>
    all(records, (record) => hung(record, `[火 11月 24 ${clock(record).slice(11, 19)} 2026] `)),
  "dmesg -T in Portuguese, -x": (records) =>
    all(records, (record) => hung(record, `kern  :err   : [qua jul  8 ${clock(record).slice(11, 19)} 2026] `)),
  "dmesg -T in French": (records) =>
    all(records, (record) => hung(record, `[dim. 19 avril ${clock(record).slice(11, 19)} 2026] `)),
  "dmesg -H": (records) =>
    all(records, (record, i) =>
      hung(
        record,
        i % 40 === 0 ? `[Nov24 12:${String(i % 60).padStart(2, "0")}] ` : `[  +${delta(records, i).padStart(8)}] `,
      ),
    ),
  "dmesg -H in colour": (records) =>
    all(records, (record, i) =>
      i % 40 === 0
        ? `\u001b[32m[Nov24 12:03] \u001b[0m${record.text}`
        : `\u001b[32m[  +${delta(records, i).padStart(8)}] \u001b[0m\u001b[31m${record.text}\u001b[0m`,
    ),
  "dmesg -d": (records) =>
    all(records, (record, i) => hung(record, `[${stamp(record)} <${delta(records, i).padStart(12)}>] `)),
  "dmesg -e": (records) => all(records, (record, i) => hung(record, `[  +${delta(records, i)}] `)),
  "dmesg --time-format delta": (records) =>
    all(records, (record, i) => hung(record, `[<${delta(records, i).padStart(12)}>] `)),
  "dmesg --time-format iso": (records) =>
    all(records, (record) => hung(record, `${clock(record).replace(".", ",").replace("Z", "000+00:00")} `)),
  "dmesg with caller ids of tasks": (records) => all(records, (record) => hung(record, `[${stamp(record)}] [ T1043] `)),
  "dmesg with caller ids of CPUs": (records) => all(records, (record) => hung(record, `[${stamp(record)}][    C1] `)),
  "dmesg -J": (records) =>
    JSON.stringify(
      { dmesg: records.map((record) => ({ pri: record.level, time: Number(stamp(record)), msg: record.text })) },
      null,
      3,
    ),
  "dmesg -J, compact": (records) =>
    JSON.stringify({
      dmesg: records.map((record) => ({
        fac: "kern",
        pri: "err",
        time: Number(stamp(record)),
        caller: "T7",
        msg: record.text,
      })),
    }),
  "/dev/kmsg": (records) =>
    all(records, (record, i) => `${record.level},${1000 + i},${record.timeUs},-;${hex(record.text)}`),
  "/dev/kmsg with callers and devices": (records) =>
    all(
      records,
      (record, i) =>
        `${record.level},${1000 + i},${record.timeUs},-,caller=T77;${hex(record.text)}${i % 9 === 0 ? "\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:01.0" : ""}`,
    ),
  journalctl: (records) => all(records, (record) => hung(record, `${short(record)} node-1 kernel: `)),
  "journalctl with its head and boots": (records) =>
    `-- Logs begin at Mon 2026-11-23 10:00:00 UTC, end at Tue 2026-11-24 12:00:00 UTC. --\n${all(records, (record) => hung(record, `${short(record)} node-1.example.com kernel: `))}-- Reboot --\nNov 24 13:00:00 node-1.example.com kernel: Linux version 6.1\n`,
  "journalctl -o short-precise": (records) =>
    all(records, (record) => hung(record, `Nov 24 ${clock(record).slice(11, 23)}123 node-1 kernel: `)),
  "journalctl -o short-iso": (records) =>
    all(records, (record) => hung(record, `${clock(record).slice(0, 19)}+0100 node-1 kernel: `)),
  "journalctl -o short-iso-precise": (records) =>
    all(records, (record) => hung(record, `${clock(record).slice(0, 23)}000+01:00 node-1 kernel: `)),
  "journalctl -o short-full": (records) =>
    all(records, (record) => hung(record, `Tue 2026-11-24 ${clock(record).slice(11, 19)} CET node-1 kernel: `)),
  "journalctl -o short-monotonic": (records) =>
    all(records, (record) => hung(record, `[${stamp(record)}] node-1 kernel: `)),
  "journalctl -o short-delta": (records) =>
    all(records, (record, i) =>
      hung(record, `[${stamp(record)} <${delta(records, i).padStart(12)} >] node-1 kernel: `),
    ),
  "journalctl -o short-unix": (records) =>
    all(records, (record) => hung(record, `1764000000.${String(100_000 + (record.line % 900_000))} node-1 kernel: `)),
  "journalctl -o cat": (records) => all(records, (record) => record.text),
  "journalctl -o json": (records) => all(records, (record) => JSON.stringify(journal(record))),
  "journalctl -o json, messages as bytes": (records) =>
    all(records, (record) =>
      JSON.stringify({ ...journal(record), MESSAGE: [...new TextEncoder().encode(record.text)] }),
    ),
  "journalctl -o json-sse": (records) => all(records, (record) => `data: ${JSON.stringify(journal(record))}\n`),
  "journalctl -o json-seq": (records) => all(records, (record) => `\u001e${JSON.stringify(journal(record))}`),
  "journalctl -o json-pretty": (records) => all(records, (record) => JSON.stringify(journal(record), null, "\t")),
  "journalctl -o export": (records) => Buffer.concat(records.map((record) => exported(record))),
  "journalctl -o verbose": (records) =>
    all(
      records,
      (record) =>
        `Tue 2026-11-24 12:00:00.123456 UTC [s=abc;i=1f;b=2;m=3;t=4;x=5]\n${Object.entries(journal(record))
          .slice(3)
          .map(([key, value]) => `    ${key}=${value.replaceAll("\n", "\n            ")}`)
          .join("\n")}`,
    ),
  syslog: (records) =>
    all(records, (record) => `${short(record)} node-1 kernel: [${stamp(record)}] ${octal(record.text)}`),
  "syslog, a line each": (records) =>
    all(records, (record) => each(record, `${short(record)} node-1 kernel: [${stamp(record)}] `)),
  "syslog without timestamps": (records) =>
    all(records, (record) => `${short(record)} node-1 kernel: ${octal(record.text)}`),
  "syslog with an address for a host": (records) =>
    all(records, (record) => each(record, `${short(record)} 10.20.30.40 kernel: [${stamp(record)}] `)),
  "syslog with a date and a year": (records) =>
    all(records, (record) => each(record, `Nov 24 2026 ${clock(record).slice(11, 19)} node-1 kernel: `)),
  "syslog of RFC 3339 dates": (records) =>
    all(records, (record) => each(record, `${clock(record).slice(0, 23)}456+02:00 node-1 kernel: [${stamp(record)}] `)),
  "syslog of RFC 3164": (records) =>
    all(records, (record) => each(record, `<${record.level}>${short(record)} node-1 kernel: [${stamp(record)}] `)),
  "syslog of RFC 5424": (records) =>
    all(records, (record) =>
      each(record, `<${record.level}>1 ${clock(record)} node-1 kernel - - - [${stamp(record)}] `),
    ),
  "OpenWrt's logread": (records) =>
    all(records, (record) => each(record, `Tue Nov 24 12:00:00 2026 kern.err kernel: [${stamp(record)}] `)),
  "OpenWrt's older logread": (records) =>
    all(records, (record) => each(record, `Nov 24 12:00:00 OpenWrt kern.warn kernel: [${stamp(record)}] `)),
  Talos: (records) => all(records, (record) => each(record, `kern:    info: [${clock(record)}]: `)),
  "Talos with a node": (records) =>
    all(records, (record) => each(record, `10.5.0.2: kern: warning: [${clock(record)}]: `)),
  netconsole: (records) => all(records, (record) => each(record, `[${stamp(record)}] `)),
  "netconsole behind an address and a date": (records) =>
    all(records, (record) => each(record, `2026-12-17 21:37:05 192.168.17.23:6665 [${stamp(record)}] `)),
  "netconsole, extended": (records) =>
    all(records, (record, i) => `${record.level},${i + 5},${record.timeUs},-;${hex(record.text)}`),
  "netconsole, extended, with a release": (records) =>
    all(records, (record, i) => `6.4.0-rc1,${record.level},${i + 5},${record.timeUs},-;${hex(record.text)}`),
  "a serial console": (records) =>
    all(records, (record) => each(record, `[${stamp(record)}] `)).replaceAll("\n", "\r\r\n"),
  "a serial console behind a prompt": (records) =>
    all(records, (record, i) => each(record, `${i % 7 === 3 ? "root@node-1:~# " : ""}[${stamp(record)}] `)),
  "a serial console, collected with times": (records) =>
    all(records, (record) => each(record, `[2026-11-24 ${clock(record).slice(11, 23)}] [${stamp(record)}] `)),
  "a serial console, collected with ISO times": (records) =>
    all(records, (record) => each(record, `${clock(record)} [${stamp(record)}] `)),
  "a CI job's console": (records) =>
    all(records, (record) => each(record, `2026-11-24T12:00:00.1234567Z [${stamp(record)}] `)),
  "docker's json-file": (records) =>
    all(records, (record) =>
      JSON.stringify({ log: `${each(record, `[${stamp(record)}] `)}\n`, stream: "stdout", time: clock(record) }),
    ),
  "containerd's log": (records) =>
    all(records, (record) => each(record, `${clock(record).replace("Z", "456789Z")} stdout F [${stamp(record)}] `)),
  "kubectl logs --prefix": (records) =>
    all(records, (record) => each(record, `[pod/npd-x7k2p/npd] [${stamp(record)}] `)),
  "a container runtime's log of journal entries": (records) =>
    all(records, (record) => `${clock(record)} stdout F ${JSON.stringify(journal(record))}`),
  "Papertrail, two blanks": (records) =>
    all(records, (record) => each(record, `${short(record)} node-1 kernel:  [${stamp(record)}] `)),
  "busybox syslogd": (records) =>
    all(records, (record) => each(record, `${short(record)} node-1 kern.err kernel: [${stamp(record)}] `)),
  "a lab's console log": (records) =>
    all(records, (record) => each(record, `12:00:00.123456  <${record.level}>[${stamp(record)}] `)),
  "minicom with times": (records) =>
    all(records, (record) => each(record, `[2026-11-24 12:00:00] [${stamp(record)}] `)),
  pstore: (records) =>
    `Oops#1 Part1\n${all(records, (record) => each(record, `<${record.level}>[${stamp(record)}] `))}`,
  "a test runner's copy of syslog": (records) =>
    all(records, (record) =>
      each(record, `2026-11-24T12:00:00.123 INFO:journalctl@mon.a:${short(record)} node-1 kernel: `),
    ),
  "netconsole, extended, long records in pieces": (records) =>
    all(records, (record, i) => {
      const text = hex(record.text);
      if (text.length < 120) return `${record.level},${i + 5},${record.timeUs},-;${text}`;
      const at = text.lastIndexOf(" ", 100) + 1 || 100;
      return [0, at]
        .map(
          (from) =>
            `${record.level},${i + 5},${record.timeUs},-,ncfrag=${from}/${text.length};${text.slice(from, from === 0 ? at : undefined)}`,
        )
        .join("\n");
    }),
  "Cloud Logging": (records) =>
    JSON.stringify(
      records.map((record) => ({
        insertId: "x",
        jsonPayload: journal(record),
        timestamp: clock(record),
        severity: "ERROR",
      })),
      null,
      2,
    ),
  "Android's logcat": (records) =>
    all(records, (record) => each(record, `11-24 ${clock(record).slice(11, 23)}     0     0 E         : `)),
  "grep -n": (records) => all(records, (record) => each(record, `${record.line}:[${stamp(record)}] `)),
  "grep -A": (records) =>
    all(records, (record) => each(record, `${record.line}${record.line % 3 === 0 ? ":" : "-"}[${stamp(record)}] `)),
  "grep -H in syslog": (records) =>
    all(records, (record) => each(record, `/var/log/kern.log.1:${short(record)} node-1 kernel: [${stamp(record)}] `)),
  "grep --color kill": (records) =>
    all(records, (record) => each(record, `[${stamp(record)}] `)).replaceAll(
      /kill/gi,
      (word) => `\u001b[01;31m\u001b[K${word}\u001b[m\u001b[K`,
    ),
  "grep --color 'Killed process'": (records) =>
    all(records, (record) => each(record, `${short(record)} node-1 kernel: `)).replaceAll(
      "Killed process",
      "\u001b[01;31m\u001b[KKilled process\u001b[m\u001b[K",
    ),
  "cat -n": (records) =>
    all(records, (record) => each(record, `${String(record.line).padStart(6)}\t[${stamp(record)}] `)),
  "quoted mail": (records) => all(records, (record) => each(record, `> [${stamp(record)}] `)),
  "mail quoted thrice": (records) => all(records, (record) => each(record, `> >> [${stamp(record)}] `)),
  "quoted mail with a bar": (records) => all(records, (record) => each(record, `| [${stamp(record)}] `)),
  Markdown: (records) => `\`\`\`\n${all(records, (record) => each(record, `[${stamp(record)}] `))}\`\`\`\n`,
  "a list of an issue tracker": (records) => all(records, (record) => each(record, `    [${stamp(record)}] `)),
  "blank lines between": (records) => all(records, (record) => `${each(record, `[${stamp(record)}] `)}\n`),
  CRLF: (records) => all(records, (record) => each(record, `[${stamp(record)}] `)).replaceAll("\n", "\r\n"),
  "trailing blanks": (records) =>
    all(records, (record) => each(record, `[${stamp(record)}] `)).replaceAll("\n", "   \n"),
  "no line end at the end": (records) => all(records, (record) => each(record, `[${stamp(record)}] `)).slice(0, -1),
  "UTF-16": (records) =>
    Buffer.from(`\ufeff${all(records, (record) => each(record, `[${stamp(record)}] `))}`, "utf16le"),
  "a byte order mark": (records) => `\ufeff${all(records, (record) => each(record, `[${stamp(record)}] `))}`,
  "NULs of a crash before it": (records) =>
    `${"\0".repeat(512)}${all(records, (record) => each(record, `[${stamp(record)}] `))}`,
  "other programs' lines between": (records) =>
    all(
      records,
      (record) =>
        `${each(record, `[${stamp(record)}] `)}\nnode-1 login: \n[  OK  ] Started Session 4 of user root.\nKilled\n${short(record)} node-1 sshd[12]: Out of memory: Killed process 1 (init) total-vm:4kB, anon-rss:4kB, file-rss:0kB`,
    ),
  "systemd's lines between, in syslog": (records) =>
    all(
      records,
      (record) =>
        `${each(record, `${short(record)} node-1 kernel: `)}\n${short(record)} node-1 systemd[1]: a.service: A process of this unit has been killed by the OOM killer.`,
    ),
  "kernel lines of other subsystems between": (records) =>
    all(
      records,
      (record) =>
        `${each(record, `[${stamp(record)}] `)}\n[${stamp(record)}] audit: type=1400 audit(1764000000.123:7): apparmor="DENIED"\n[${stamp(record)}] eth0: renamed from veth1234`,
    ),
  ...Object.fromEntries(
    Object.entries(months).map(([language, month]) => [
      `journalctl in ${language}`,
      (records: KmsgRecord[]) =>
        all(records, (record) => hung(record, `${month} 24 ${clock(record).slice(11, 19)} node-1 kernel: `)),
    ]),
  ),
};

describe("a log in another dress", () => {
  for (const [name, dress] of Object.entries(dresses)) {
    it(`tells the same from ${name}`, () => {
      const wrong: string[][] = [];
      for (const { name: source, records, scan } of sources) {
        const told = scanKernelLog(dress(records));
        const same =
          JSON.stringify(told.kills.map((kill) => essence(kill))) ===
          JSON.stringify(scan.kills.map((kill) => essence(kill)));
        const rest = told.incomplete.length === scan.incomplete.length && told.panics.length === scan.panics.length;
        if (!same || !rest)
          wrong.push([
            source,
            JSON.stringify(told.kills.map((kill) => essence(kill))),
            JSON.stringify(scan.kills.map((kill) => essence(kill))),
            JSON.stringify([told.incomplete, scan.incomplete]),
          ]);
      }
      expect(wrong).toEqual([]);
    });
  }
});

const claimsOf = ({
  kind,
  constraint,
  trigger,
  oomMemcg,
  taskMemcg,
  prefix,
  victim,
}: OomKill): Record<string, unknown> => ({
  kind,
  constraint,
  trigger,
  oomMemcg,
  taskMemcg,
  prefix,
  ...victim,
});

/** What a kill of a damaged log tells that the whole log did not: nothing may be, but for less. */
function invented(told: OomKill[], whole: OomKill[]): string[] {
  return told.flatMap((kill) => {
    const claims = whole
      .filter((other) => other.victim.pid === kill.victim.pid)
      .map((other) => {
        const [is, was] = [claimsOf(kill), claimsOf(other)];
        return Object.keys(is).filter((key) => is[key] !== was[key] && is[key] !== null && is[key] !== "unknown");
      });
    const best = claims.toSorted((a, b) => a.length - b.length)[0];
    return best === undefined ? [`pid ${kill.victim.pid}`] : best.map((key) => `${key} of pid ${kill.victim.pid}`);
  });
}

const lined = (records: KmsgRecord[], prefix: (record: KmsgRecord) => string): string[] =>
  records.flatMap((record) => each(record, prefix(record)).split("\n"));
const mail = (line: string, width: number): string => {
  const at = line.length <= width ? -1 : line.lastIndexOf(" ", width);
  return at < 20 ? line : `${line.slice(0, at)}\n${mail(line.slice(at + 1), width)}`;
};
const prefixes: Record<string, (record: KmsgRecord) => string> = {
  dmesg: (record) => `[${stamp(record)}] `,
  syslog: (record) => `${short(record)} node-17 kernel: [${stamp(record)}] `,
  "no prefix": () => "",
};

describe("a damaged log", () => {
  for (const [name, prefix] of Object.entries(prefixes)) {
    it(`tells nothing that the whole one does not when it is cut at either end, with ${name}`, () => {
      const wrong: string[] = [];
      for (const { name: source, records, scan } of sources) {
        const lines = lined(records, prefix);
        const first = lines.findIndex((line) => /oom|Kill|Task/.test(line));
        for (let at = Math.max(0, first - 1); at <= lines.length; at++) {
          for (const part of [lines.slice(0, at), lines.slice(at)]) {
            const told = scanKernelLog(`${part.join("\n")}\n`).kills;
            wrong.push(...invented(told, scan.kills).map((what) => `${source}, line ${at}: ${what}`));
            // A kill is told where, and only where, its own record is.
            const shown = part.filter((line) => /(?:^|[\]:] )Killed process \d/.test(line)).length;
            if (told.length > shown) wrong.push(`${source}, line ${at}: ${told.length} kills of ${shown} records`);
          }
        }
      }
      expect(wrong).toEqual([]);
    });

    for (const width of [80, 100, 120, 132, 160]) {
      it(`tells the same kills when it is wrapped at ${width} columns, with ${name}`, () => {
        const wrong: string[] = [];
        for (const { name: source, records, scan } of sources) {
          const lines = lined(records, prefix);
          const wrapped = {
            terminal: lines.map((line) => line.replaceAll(new RegExp(`.{${width}}(?=.)`, "g"), "$&\n")).join("\n"),
            mail: lines.map((line) => mail(line, width)).join("\n"),
            quoted: lines.map((line) => mail(line, width).replaceAll(/^/gm, "> ")).join("\n"),
          };
          for (const [how, text] of Object.entries(wrapped)) {
            const told = scanKernelLog(`${text}\n`).kills;
            wrong.push(...invented(told, scan.kills).map((what) => `${source}, ${how}: ${what}`));
            const sizes = (kills: OomKill[]) => JSON.stringify(kills.map(({ victim, oomMemcg }) => [victim, oomMemcg]));
            if (sizes(told) !== sizes(scan.kills))
              wrong.push(`${source}, ${how}: ${sizes(told)} for ${sizes(scan.kills)}`);
          }
        }
        expect(wrong).toEqual([]);
      });
    }
  }

  it("keeps the reports of two CPUs apart whose records alternate", () => {
    const whole = sources.filter(({ name, scan }) => name.endsWith(".raw") && scan.kills.length === 1);
    const report = ({ records }: Source): KmsgRecord[] => {
      const from = records.findIndex((record) => record.text.includes("invoked oom-killer"));
      return records.slice(from, records.findIndex((record) => record.text.includes("Killed process")) + 1);
    };
    for (const [i, left] of whole.entries()) {
      const right = whole[(i + 7) % whole.length]!;
      const both = [report(left), report(right)];
      const mixed = Array.from({ length: Math.max(...both.map((records) => records.length)) }, (_, row) =>
        both.map((records, cpu) =>
          records[row] === undefined
            ? ""
            : `${each(records[row], `[  100.${String(100_000 + row)}] [    C${cpu}] `)}\n`,
        ),
      );
      const told = scanKernelLog(mixed.flat().join("")).kills.map((kill) => JSON.stringify(essence(kill)));
      expect(told.toSorted()).toEqual(
        [left, right].map(({ scan }) => JSON.stringify(essence(scan.kills[0]!))).toSorted(),
      );
    }
  });
});
