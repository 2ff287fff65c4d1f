/** The kernel's log as it is written: from /dev/kmsg, or through systemd's journal where /dev/kmsg is closed to this user. */
import { accessSync, closeSync, constants, existsSync, openSync, readFileSync, readSync } from "node:fs";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import { isRootless } from "../cgroup/index.ts";
import { createLogReader, type KmsgRecord, parseKmsgRecord } from "../kmsg/index.ts";
import { type Addon, loadAddon } from "../native.ts";
import type { Capabilities } from "../plan.ts";
import type { RunEventBody } from "../record.ts";

/** What the kernel has logged since the last call. */
export interface KernelLog {
  drain(): RunEventBody[];
  close(): void;
}

/** How long the log's records may trail behind what they are about: `least` is waited in any case, `most` while some are missing. */
export interface Trail {
  least: number;
  most: number;
}

/** The log that a run is recorded from, the event that says so, and how far it trails behind. */
export interface RunLog {
  log: KernelLog | null;
  opened: RunEventBody;
  trail: Trail;
}

/** The kernel sends SIGKILL before it prints `Killed process` (mm/oom_kill.c). */
const kmsgTrail: Trail = { least: 0, most: 300 };
/** journald wakes its readers at most 250 ms after an entry (POST_CHANGE_TIMER_INTERVAL_USEC), and may lag under load. */
const journalTrail: Trail = { least: 400, most: 5_000 };
const noTrail: Trail = { least: 0, most: 0 };

const startMs = 10_000;

/** Opens the log that `caps` says can be read, at its end. A journal that cannot be followed leaves the run without a log. */
export async function openRunLog(addon: Addon, caps: Capabilities): Promise<RunLog> {
  const opened = (source: "kmsg" | "journal" | null, problem: string | null): RunEventBody => ({
    type: "kernel-log",
    source,
    problem,
    hint: source === null ? kernelLogHint(caps) : null,
  });
  if (caps.kernelLog === "kmsg") return { log: openKernelLog(addon), opened: opened("kmsg", null), trail: kmsgTrail };
  if (caps.kernelLog === "journal") {
    try {
      return { log: await followJournal(addon), opened: opened("journal", caps.kmsgProblem), trail: journalTrail };
    } catch (error) {
      const problem = `${caps.kmsgProblem ?? "/dev/kmsg is closed"}, and ${(error as Error).message}`;
      return { log: null, opened: opened(null, problem), trail: noTrail };
    }
  }
  return { log: null, opened: opened(null, caps.kmsgProblem), trail: noTrail };
}

/** Opens /dev/kmsg at its end: only what is logged from now on is read, or all that the ring still has (Documentation/ABI/testing/dev-kmsg). */
export function openKernelLog(addon: Addon = loadAddon(), from: "now" | "boot" = "now"): KernelLog {
  const fd = openSync("/dev/kmsg", constants.O_RDONLY | constants.O_NONBLOCK);
  if (from === "now") addon.seekEnd(fd);
  let last: number | null = null;
  return {
    drain() {
      const events: RunEventBody[] = [];
      for (;;) {
        const { records, lost } = addon.readKmsg(fd, 1000);
        if (lost) events.push({ type: "kmsg-lost", afterSeq: last });
        for (const raw of records) {
          const record = parseKmsgRecord(raw);
          if (record === null) continue;
          if (!lost && last !== null && record.seq !== null && record.seq > last + 1)
            events.push({ type: "kmsg-lost", afterSeq: last });
          last = record.seq ?? last;
          events.push({ type: "kmsg", ...withoutLine(record) });
        }
        if (records.length < 1000 && !lost) return events;
      }
    },
    close: () => closeSync(fd),
  };
}

/** journald's own message that it missed kernel records (sd-messages.h SD_MESSAGE_JOURNAL_MISSED). */
const missedId = "e9bf28e6e834481bb6f48f548ad13606";

const journalArguments: readonly string[] = [
  "--system",
  "--boot",
  "--follow",
  "--lines=1",
  "--output=json",
  "--all",
  "--quiet",
  "--output-fields=MESSAGE,MESSAGE_ID,PRIORITY,SYSLOG_FACILITY,_SOURCE_MONOTONIC_TIMESTAMP,_TRANSPORT",
  // Fields that begin with "_" are journald's own: no client can set them.
  "_TRANSPORT=kernel",
  "+",
  "_TRANSPORT=driver",
  `MESSAGE_ID=${missedId}`,
];

/**
 * Follows the kernel's records in systemd's journal from its last entry on, which shows that this user may read it.
 * Throws where journalctl cannot be started, ends, or shows nothing.
 */
async function followJournal(addon: Addon, program = "/usr/bin/journalctl"): Promise<KernelLog> {
  const journal = startJournalctl(addon, program);
  const parse = journalParser();
  try {
    const deadline = performance.now() + startMs;
    let found = journal.lines();
    while (found.length === 0) {
      if (journal.hasEnded()) throw new Error("journalctl ended without an entry");
      if (performance.now() > deadline) throw new Error("the journal shows no kernel record of this boot");
      await sleep(5);
      found = journal.lines();
    }
    // The first entry was there before the run.
    const [first = "", ...others] = found;
    if (!first.startsWith("{")) throw new Error(`journalctl says: ${first}`);
    const events = others.flatMap(parse);
    let whole = true;
    return {
      drain() {
        const ended = journal.hasEnded();
        events.push(...journal.lines().flatMap(parse));
        if (ended && whole) {
          whole = false;
          events.push({ type: "kmsg-lost", afterSeq: null, reason: "journalctl ended before the run did" });
        }
        return events.splice(0);
      },
      close: () => journal.close(),
    };
  } catch (error) {
    journal.close();
    throw error;
  }
}

/** A running journalctl that dies with us; `lines`: what it has printed since the last call. */
function startJournalctl(addon: Addon, file: string): { lines(): string[]; hasEnded(): boolean; close(): void } {
  const [output, write] = addon.pipe();
  let ended = false;
  let open = true;
  let child: ReturnType<Addon["spawn"]>;
  try {
    child = addon.spawn({
      file,
      args: ["journalctl", ...journalArguments],
      env: Object.entries(process.env).map(([key, value]) => `${key}=${value}`),
      stdio: [-1, write, write],
      setsid: true,
      pdeathsig: 9,
    });
  } catch (error) {
    closeSync(output);
    throw error;
  } finally {
    closeSync(write);
  }
  addon.onExit(child, () => (ended = true));
  const decoder = new StringDecoder("utf8");
  let rest = "";
  return {
    lines() {
      const all = (rest + (open ? decoder.write(readAvailable(output)) : "")).split("\n");
      rest = all.pop() ?? "";
      return all;
    },
    hasEnded: () => ended,
    close() {
      if (!open) return;
      open = false;
      addon.signal(child, 9);
      closeSync(output);
    },
  };
}

/** All that a non-blocking pipe holds now. */
function readAvailable(fd: number): Buffer {
  const parts: Buffer[] = [];
  for (;;) {
    const part = Buffer.alloc(65_536);
    try {
      const size = readSync(fd, part);
      if (size === 0) return Buffer.concat(parts);
      parts.push(part.subarray(0, size));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") return Buffer.concat(parts);
      throw error;
    }
  }
}

/** Parses lines of `journalctl --output=json`: kernel records, by their transport, and what journald itself says it missed. */
export function journalParser(): (line: string) => RunEventBody[] {
  const reader = createLogReader();
  return (line) => {
    let entry: unknown;
    try {
      entry = JSON.parse(line);
    } catch {
      entry = null;
    }
    if (typeof entry !== "object" || entry === null)
      return [{ type: "kmsg-lost", afterSeq: null, reason: "journalctl printed a line that is no entry" }];
    const { _TRANSPORT: transport, MESSAGE_ID: id, MESSAGE: message } = entry as Record<string, unknown>;
    if (transport === "driver" && id === missedId)
      return [{ type: "kmsg-lost", afterSeq: null, reason: `journald: ${String(message)}` }];
    if (transport !== "kernel") return [];
    return reader.push(`${line}\n`).map((record) => ({ type: "kmsg", ...withoutLine(record) }));
  };
}

/** Where this user can read the kernel's log, and why not from /dev/kmsg. */
export function findKernelLog(kmsg = "/dev/kmsg", root = "/"): Pick<Capabilities, "kernelLog" | "kmsgProblem"> {
  const kmsgProblem = problemOf(kmsg);
  return { kernelLog: kmsgProblem === null ? "kmsg" : hasJournal(root) ? "journal" : null, kmsgProblem };
}

function problemOf(kmsg: string): string | null {
  if (!existsSync(kmsg)) return `there is no ${kmsg}`;
  try {
    closeSync(openSync(kmsg, constants.O_RDONLY | constants.O_NONBLOCK));
    return null;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // EPERM is kernel.dmesg_restrict (kernel/printk/printk.c check_syslog_permissions), EACCES the file's mode.
    if (code === "EPERM") return `no permission to read ${kmsg}: kernel.dmesg_restrict is 1`;
    if (code === "EACCES") return `no permission to read ${kmsg}`;
    return `${kmsg} cannot be read: ${message}`;
  }
}

/** Whether this user may read the system's journal: its files belong to systemd-journal, with access lists for adm and wheel. */
function hasJournal(root: string): boolean {
  try {
    const id = readFileSync(`${root}etc/machine-id`, "latin1").trim();
    return ["var/log/journal", "run/log/journal"].some((folder) => {
      try {
        accessSync(`${root}${folder}/${id}/system.journal`, constants.R_OK);
        return true;
      } catch {
        return false;
      }
    });
  } catch {
    return false;
  }
}

/** Where the kernel's log is read, or what stays open without it and what opens it. */
export function kernelLogFindings(caps: Capabilities): { ok: boolean; detail: string; hint: string } {
  const closed = caps.kmsgProblem ?? "/dev/kmsg is closed";
  const details = {
    kmsg: "/dev/kmsg can be read",
    journal: `read through systemd's journal: ${closed}`,
    none: `${closed}, and systemd's journal neither: a kill for a cgroup's limit is proven by the counters and the exit status; which of several limits was hit, other kinds, the trigger and \`log\` stay inconclusive`,
  };
  return {
    ok: caps.kernelLog !== null,
    detail: details[caps.kernelLog ?? "none"],
    hint: `to read it: ${kernelLogHint(caps)}`,
  };
}

/** What to type so that the kernel's log can be read. */
function kernelLogHint({ uid }: Capabilities): string {
  if (!existsSync("/dev/kmsg")) return "run the container with --privileged";
  if (isRootless()) return "run the container as root, or type `sudo sysctl kernel.dmesg_restrict=0` on its host";
  if (uid === 0) return "run oomlab with CAP_SYSLOG (a container: --privileged, or --cap-add SYSLOG)";
  return [
    ...(existsSync("/run/systemd/system") ? ["`sudo usermod -aG systemd-journal $USER` and log in again"] : []),
    "`sudo sysctl kernel.dmesg_restrict=0`",
    "run oomlab as root",
  ].join(", or ");
}

function withoutLine({ seq, timeUs, facility, level, caller, text }: KmsgRecord): Omit<KmsgRecord, "line"> {
  return { seq, timeUs, facility, level, caller, text };
}
