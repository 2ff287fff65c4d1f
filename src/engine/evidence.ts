/** The collectors: the kernel log as it is written, and the machine-wide count of OOM kills. */
import { closeSync, constants, openSync, readFileSync } from "node:fs";
import { type KmsgRecord, parseKmsgRecord } from "../kmsg/index.ts";
import { type Addon, loadAddon } from "../native.ts";
import type { RunEventBody } from "../record.ts";

/** What the kernel has logged since the last call. */
export interface KernelLog {
  drain(): RunEventBody[];
  close(): void;
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

function withoutLine({ seq, timeUs, facility, level, caller, text }: KmsgRecord): Omit<KmsgRecord, "line"> {
  return { seq, timeUs, facility, level, caller, text };
}

/** /proc/vmstat oom_kill: every OOM kill of this kernel, of any kind; null before 4.13. */
export function oomKillsOfMachine(): number | null {
  const found = /^oom_kill (\d+)$/m.exec(readFileSync("/proc/vmstat", "latin1"));
  return found ? Number(found[1]) : null;
}
