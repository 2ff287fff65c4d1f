/** Reading the kernel's log through systemd's journal: what counts as the kernel's, and what as a gap. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findKernelLog, journalParser } from "../../src/engine/kernel-log.ts";

const kill =
  "Memory cgroup out of memory: Killed process 77 (stress) total-vm:2048kB, anon-rss:1024kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:40kB oom_score_adj:0";

const entry = (fields: Record<string, unknown>): string =>
  JSON.stringify({
    __CURSOR: "s=1;i=2",
    PRIORITY: "3",
    SYSLOG_FACILITY: "0",
    _TRANSPORT: "kernel",
    _SOURCE_MONOTONIC_TIMESTAMP: "102114125",
    MESSAGE: kill,
    ...fields,
  });

describe("a line of journalctl --output=json", () => {
  test("of the kernel's transport is a record, with the kernel's own time, facility and level", () => {
    expect(journalParser()(entry({}))).toEqual([
      { type: "kmsg", seq: null, timeUs: 102_114_125, facility: 0, level: 3, caller: null, text: kill },
    ]);
  });

  test("written to /dev/kmsg by a program keeps its facility, so that it is no witness", () => {
    expect(journalParser()(entry({ SYSLOG_FACILITY: "1" }))).toMatchObject([{ type: "kmsg", facility: 1 }]);
  });

  test.each(["syslog", "journal", "stdout", "driver"])(
    "of the transport %s is nothing, whatever it says",
    (transport) => {
      expect(journalParser()(entry({ _TRANSPORT: transport, SYSLOG_IDENTIFIER: "kernel" }))).toEqual([]);
    },
  );

  test("in which journald says that it missed kernel messages is a gap; from anybody else it is nothing", () => {
    const missed = { MESSAGE_ID: "e9bf28e6e834481bb6f48f548ad13606", MESSAGE: "Missed 12 kernel messages" };
    expect(journalParser()(entry({ ...missed, _TRANSPORT: "driver" }))).toEqual([
      { type: "kmsg-lost", afterSeq: null, reason: "journald: Missed 12 kernel messages" },
    ]);
    expect(journalParser()(entry({ ...missed, _TRANSPORT: "journal" }))).toEqual([]);
  });

  test("that is no entry is a gap", () => {
    expect(journalParser()("Failed to iterate through journal: Bad message")).toMatchObject([{ type: "kmsg-lost" }]);
  });

  test("holds bytes where the message is not text", () => {
    const bytes = [...Buffer.from("a\nb")];
    expect(journalParser()(entry({ MESSAGE: bytes }))).toMatchObject([{ text: "a\nb" }]);
  });

  test("is read on its own: one parser reads line after line", () => {
    const parse = journalParser();
    expect([1, 2, 3].flatMap(() => parse(entry({})))).toHaveLength(3);
  });
});

describe("where the kernel's log can be read", () => {
  const root = mkdtempSync(join(tmpdir(), "oomlab-root-"));
  beforeAll(() => {
    mkdirSync(join(root, "etc"));
    writeFileSync(join(root, "etc/machine-id"), "0123\n");
    writeFileSync(join(root, "kmsg"), "");
  });
  afterAll(() => rmSync(root, { recursive: true }));
  const find = (kmsg: string): ReturnType<typeof findKernelLog> => findKernelLog(join(root, kmsg), `${root}/`);

  test("is /dev/kmsg where that can be opened", () => {
    expect(find("kmsg")).toEqual({ kernelLog: "kmsg", kmsgProblem: null });
  });

  test("is nowhere without a journal, and the problem says why", () => {
    expect(find("none")).toEqual({ kernelLog: null, kmsgProblem: `there is no ${join(root, "none")}` });
  });

  test("is the journal where its file can be read", () => {
    mkdirSync(join(root, "var/log/journal/0123"), { recursive: true });
    writeFileSync(join(root, "var/log/journal/0123/system.journal"), "");
    expect(find("none")).toMatchObject({ kernelLog: "journal" });
  });
});
