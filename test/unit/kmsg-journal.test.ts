import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  createLogReader,
  createLogScanner,
  type KmsgRecord,
  type OomScan,
  scanKernelLog,
} from "../../src/kmsg/index.ts";

const KILL =
  "Out of memory: Killed process 1 (init) total-vm:33760kB, anon-rss:32676kB, file-rss:4kB, shmem-rss:648kB, UID:0 pgtables:100kB oom_score_adj:0";
const REAL = KILL.replace("process 1 (init)", "process 77 (real)");

type Fields = Record<string, string | Uint8Array>;

/** A field as journalctl writes it: binary where it holds a newline, or bytes. */
function field(name: string, value: string | Uint8Array): Buffer {
  if (typeof value === "string" && !value.includes("\n")) return Buffer.from(`${name}=${value}\n`);
  const data = Buffer.from(value as string);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(data.length));
  return Buffer.concat([Buffer.from(`${name}\n`), size, data, Buffer.from("\n")]);
}
const entry = (fields: Fields): Buffer =>
  Buffer.concat([...Object.entries(fields).map(([name, value]) => field(name, value)), Buffer.from("\n")]);
const cursor = { __CURSOR: "s=abc;i=1;b=2;m=3;t=4;x=5", __REALTIME_TIMESTAMP: "1764000000000000", _BOOT_ID: "0123" };
const userland = (message: string | Uint8Array, more: Fields = {}): Fields => ({
  ...cursor,
  _TRANSPORT: "journal",
  PRIORITY: "6",
  MESSAGE: message,
  SYSLOG_IDENTIFIER: "app",
  _COMM: "app",
  ...more,
});
const kernel = (message: string | Uint8Array): Fields => ({
  ...cursor,
  _TRANSPORT: "kernel",
  SYSLOG_FACILITY: "0",
  SYSLOG_IDENTIFIER: "kernel",
  PRIORITY: "3",
  MESSAGE: message,
  _SOURCE_MONOTONIC_TIMESTAMP: "3000000",
});

const FORGED = `__CURSOR=s=abc;i=2;b=2;m=3;t=4;x=5\n_TRANSPORT=kernel\nSYSLOG_FACILITY=0\nMESSAGE=${KILL}\n\n`;
/** A message long enough that the length's low byte has its high bit set. */
const high = (text: string): string => text + "x".repeat((0x180 - (Buffer.byteLength(text) & 0xff)) & 0xff);
const attacks: Record<string, string | Uint8Array> = {
  "another entry": `hello\n\n${FORGED}`,
  "another entry, its length no ASCII": high(`hello\n\n${FORGED}`),
  "another entry behind a character of two bytes": `hellö\n\n${FORGED}`,
  "another entry behind what is no UTF-8": Buffer.concat([
    Buffer.alloc(120, 0xff),
    Buffer.from(`\n\n${FORGED}${FORGED}`),
  ]),
  "the entry's own fields": `hello\n_TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\nMESSAGE=${KILL}`,
  "binary fields": Buffer.concat([Buffer.from("hello\n\n"), entry(kernel(`${KILL}\n`)), entry(kernel(KILL))]),
  "the line that begins an entry of -o verbose": `hello\nTue 2026-11-24 12:00:00 UTC [s=abc;i=1f;b=2;m=3]\n    _TRANSPORT=kernel\n    MESSAGE=${KILL}`,
  "an entry without a transport": `hello\n\nMESSAGE=${KILL}\n\nMESSAGE=${KILL}\n\n`,
};

const names = (scan: OomScan): string[] => scan.kills.map((kill) => kill.victim.comm);
/** The same log as bytes, and as text of either kind. */
const shapes = (log: Buffer): Record<string, string | Uint8Array> => ({
  bytes: log,
  "UTF-8": log.toString("utf8"),
  latin1: log.toString("latin1"),
  "windows-1252": new TextDecoder("latin1").decode(log),
  "bytes of UTF-16": Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(log.toString("utf8"), "utf16le")]),
});
const records = (chunks: (string | Uint8Array)[]): KmsgRecord[] => {
  const reader = createLogReader();
  return [...chunks.flatMap((chunk) => reader.push(chunk)), ...reader.end()];
};

describe("the journal's export format", () => {
  for (const [name, message] of Object.entries(attacks)) {
    it(`tells no kill from a program's message that holds ${name}`, () => {
      for (const fields of [
        userland(message),
        userland("short", { EXTRA: message }),
        { ...userland(""), A: message },
      ]) {
        const log = Buffer.concat([entry(kernel("Linux version 6.1")), entry(fields), entry(userland("last"))]);
        for (const [shape, input] of Object.entries(shapes(log))) {
          expect([shape, ...names(scanKernelLog(input))]).toEqual([shape]);
          expect(records([input]).filter((record) => record.text.includes("Killed"))).toEqual([]);
        }
      }
    });

    it(`tells the kernel's kill behind a message that holds ${name}, from bytes`, () => {
      const log = Buffer.concat([entry(userland(message)), entry(kernel(REAL)), entry(userland(message))]);
      expect(names(scanKernelLog(log))).toEqual(["real"]);
      expect(scanKernelLog(log).incomplete).toEqual([]);
    });
  }

  it("tells no kill from a line of a program's that looks like the head of -o verbose", () => {
    const log = Buffer.concat([
      entry(userland(KILL, { A: "x [s=1;i=2", SYSLOG_IDENTIFIER: "kernel", "": "" })),
      entry({ ...cursor, MESSAGE: KILL, A: "x [s=1;i=2", _TRANSPORT: "journal" }),
    ]);
    expect(names(scanKernelLog(log))).toEqual([]);
  });

  it("reads a message of several lines whole", () => {
    const text = `Memory cgroup stats for /a:\nanon 1\n\nMESSAGE=x\n_TRANSPORT=journal\nfile 2`;
    const log = Buffer.concat([entry(kernel(text)), entry(kernel(REAL))]);
    expect(records([log])).toMatchObject([
      { text, line: 1, facility: 0, level: 3, timeUs: 3_000_000 },
      { text: REAL, line: 17 },
    ]);
    const long = high(text.replaceAll(/\n\n[^]*?\n(?=file)/g, "\n"));
    for (const [shape, input] of Object.entries(shapes(Buffer.concat([entry(kernel(long)), entry(kernel(REAL))])))) {
      expect([shape, ...records([input]).map((record) => record.text)]).toEqual([shape, long, REAL]);
      expect([shape, ...names(scanKernelLog(input))]).toEqual([shape, "real"]);
    }
  });

  it("goes on in text behind a binary field whose end is certain", () => {
    for (const message of ["two\nlines", "zwei\nZeilen, schön", `a\n\n${FORGED.slice(0, 90)}`]) {
      const log = Buffer.concat([entry(userland(message)), entry(userland("next")), entry(kernel(REAL))]);
      for (const [shape, input] of Object.entries(shapes(log)))
        expect([shape, ...names(scanKernelLog(input))]).toEqual([shape, "real"]);
    }
  });

  it("says where text has lost the length of a binary field", () => {
    const log = Buffer.concat([entry(userland(high("hello\n"))), entry(kernel(REAL))]);
    expect(scanKernelLog(log.toString("utf8"))).toMatchObject({
      kills: [],
      incomplete: [{ line: 6, reason: expect.stringContaining("MESSAGE is lost where bytes became text") }],
    });
  });

  it("says where a binary field does not end as its length says", () => {
    const log = Buffer.concat([entry(kernel(REAL)), entry(userland("hello\nyou")), entry(kernel(REAL))]);
    log[log.indexOf("MESSAGE\n") + 8]!++;
    expect(scanKernelLog(log)).toMatchObject({
      kills: [{ victim: { comm: "real" } }],
      incomplete: [{ line: 16, reason: expect.stringContaining("does not end where its length says") }],
    });
  });

  it("tells no kill from an entry that is cut off before it says whose it is", () => {
    const log = entry({ ...cursor, MESSAGE: KILL, EXTRA: "a\nb", _TRANSPORT: "journal" });
    for (const end of [log.indexOf("EXTRA\n") + 6, log.indexOf("EXTRA\n") + 9, log.indexOf("EXTRA\n") + 15])
      expect(names(scanKernelLog(log.subarray(0, end)))).toEqual([]);
    const whole = entry(kernel(`${REAL}\n`));
    expect(names(scanKernelLog(whole.subarray(0, whole.indexOf("oom_score_adj:0") + 15)))).toEqual(["real"]);
  });

  it("holds no more of a field than it reads, however long it is", () => {
    const size = Buffer.alloc(8);
    const chunk = Buffer.from(`\n\n${FORGED}`.repeat(400));
    size.writeBigUInt64LE(BigInt(chunk.length * 100));
    const scanner = createLogScanner();
    const head = entry(userland("hello")).subarray(0, -1);
    const chunks = [
      head,
      Buffer.from("CORE\n"),
      size,
      ...Array.from({ length: 100 }, () => chunk),
      Buffer.from("\n\n"),
    ];
    const kills = chunks.flatMap((part) => scanner.push(part));
    kills.push(...scanner.push(entry(kernel(REAL))), ...scanner.end().kills);
    expect(kills.map((kill) => kill.victim.comm)).toEqual(["real"]);
  });

  it("is read the same wherever the chunks are cut, as bytes and as text, and no forged kill is told", () => {
    const part = fc.constantFrom(
      ...Object.values(attacks).map((message) => entry(userland(message))),
      entry(kernel(REAL)),
      entry(kernel(`Memory cgroup stats for /a:\nanon 1\nfile 2`)),
      entry(kernel(high(`Memory cgroup stats for /a:\nanon 1\nfile 2`))),
      entry(userland("zwei\nschöne")),
    );
    const cut = <T extends string | Uint8Array>(log: T, cuts: number[]): T[] => {
      const places = [0, ...cuts.map((at) => at % (log.length + 1)).toSorted((a, b) => a - b), log.length];
      return places.slice(1).map((to, i) => log.slice(places[i], to) as T);
    };
    fc.assert(
      fc.property(fc.array(part, { maxLength: 5 }), fc.array(fc.nat(), { maxLength: 12 }), (parts, cuts) => {
        const log = Buffer.concat([entry(kernel("Linux version 6.1")), ...parts]);
        for (const input of [log, log.toString("utf8"), log.toString("latin1")]) {
          const want = scanKernelLog(input);
          expect(names(want)).not.toContain("init");
          expect(scanKernelLog(cut(input, cuts))).toEqual(want);
          expect(records(cut(input, cuts))).toEqual(records([input]));
        }
        // One buffer, used again for each chunk.
        const scanner = createLogScanner();
        const kills = [];
        const buffer = Buffer.alloc(1 + ((cuts[0] ?? 0) % 300));
        for (let at = 0, size = 0; at < log.length; at += size) {
          size = log.copy(buffer, 0, at);
          kills.push(...scanner.push(buffer.subarray(0, size)));
        }
        const end = scanner.end();
        expect({ ...end, kills: [...kills, ...end.kills] }).toEqual(scanKernelLog(log));
      }),
      { numRuns: 200 },
    );
  });
});

describe("journalctl -o verbose", () => {
  /** As systemd's print_multiline() does: further lines of a value stand below its first character. */
  const verbose = (fields: Fields): string =>
    `Tue 2026-11-24 12:00:00.123456 UTC [s=abc;i=1f;b=2;m=3;t=4;x=5]\n${Object.entries(fields)
      .filter(([name]) => !name.startsWith("__"))
      .map(([name, value]) => `    ${name}=${String(value).replaceAll("\n", `\n${" ".repeat(5 + name.length)}`)}\n`)
      .join("")}`;

  it("tells no kill from a program's message that looks like other entries", () => {
    for (const [name, message] of Object.entries(attacks))
      for (const text of [String(message), String(message).replaceAll("\n", "\n    ")]) {
        const log = [kernel("Linux version 6.1"), userland(text), userland("x", { A: text }), userland("last")];
        expect([name, ...names(scanKernelLog(log.map(verbose).join("")))]).toEqual([name]);
      }
  });

  it("reads a message of several lines whole", () => {
    const text = `Memory cgroup stats for /a:\nanon 1\n  file 2`;
    expect(records([verbose(kernel(text)) + verbose(kernel(REAL))]).map((record) => record.text)).toEqual([text, REAL]);
  });
});

describe("journalctl -o json with messages as bytes", () => {
  const bytes = (fields: Fields): string =>
    `${JSON.stringify({ ...fields, MESSAGE: [...Buffer.from(fields["MESSAGE"] as string)] })}\n`;

  it("tells no kill from a program's message that looks like other entries", () => {
    for (const [name, message] of Object.entries(attacks))
      for (const text of [message, `${JSON.stringify(kernel(KILL))}\n`, `x"}\n${JSON.stringify(kernel(KILL))}`]) {
        const log = [kernel("Linux version 6.1\n"), userland(text), userland("last")];
        expect([name, ...names(scanKernelLog(log.map(bytes).join("")))]).toEqual([name]);
        const pretty = log.map((fields) =>
          JSON.stringify({ ...fields, MESSAGE: String(fields["MESSAGE"]) }, null, "\t"),
        );
        expect([name, ...names(scanKernelLog(pretty.join("\n")))]).toEqual([name]);
      }
  });

  it("tells no kill from an entry whose message is left out, or is several", () => {
    for (const MESSAGE of [null, [KILL, KILL], [[...Buffer.from(KILL)]], []]) {
      const fields = { ...userland(""), MESSAGE, log: KILL, msg: KILL, time: 1 };
      expect(names(scanKernelLog(`${JSON.stringify(fields)}\n`))).toEqual([]);
    }
  });

  it("reads a message of several lines whole, and the beginning of a very long one", () => {
    const text = `Memory cgroup stats for /a:\nanon 1\n\nfile 2 é`;
    const read = records([bytes(kernel(text)) + bytes(kernel(`a\n${"b".repeat(15_000)}`)) + bytes(kernel(REAL))]);
    expect(read.map((record) => record.text)).toEqual([text, `a\n${"b".repeat(15_000)}`, REAL]);
    expect(records([bytes(kernel("a".repeat(20_000)))])).toMatchObject([{ text: "a".repeat(16_384) }]);
  });
});
