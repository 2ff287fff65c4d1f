/**
 * The program of the `node` workload: presses memory from inside a Node process, and speaks as the native worker does
 * (docs/stress.md): NDJSON on descriptor 3, one byte on descriptor 4 to go on, its end to stop.
 */
import { readFileSync, readSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { loadAddon, type MemoryRegion } from "./native.ts";

interface Job {
  memory: { kind: "addon" | "buffers" | "heap"; bytes: number }[];
  rate: number | null;
  delayMs: number;
  hold: number | "forever";
}

const reportFd = 3;
const syncFd = 4;
const chunk = 1 << 20;
/** What is pressed stays reachable here until the end. */
const kept: unknown[] = [];

const tell = (report: Record<string, unknown>): void => {
  writeSync(
    reportFd,
    `${JSON.stringify({ ...report, pid: process.pid, t: Math.round(Number(process.hrtime.bigint()) / 1000) })}\n`,
  );
};

function memory(): { rss: number; hwm: number } {
  const status = readFileSync("/proc/self/status", "latin1");
  const kB = (key: string): number => Number(new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0) * 1024;
  return { rss: kB("VmRSS"), hwm: kB("VmHWM") };
}

/** Takes and touches the next bytes of one kind. */
function presser(kind: Job["memory"][number]["kind"], size: number): (bytes: number) => void {
  if (kind === "addon") {
    const region: MemoryRegion = loadAddon().allocate(size, { reserve: false });
    kept.push(region);
    return (bytes) => void region.touch(bytes);
  }
  if (kind === "buffers") {
    return (bytes) => {
      kept.push(Buffer.alloc(bytes, 1));
    };
  }
  // Elements of 8 bytes on V8's own heap; doubles stay unboxed, so the size is what was asked for.
  return (bytes) => {
    const array: number[] = [];
    for (let index = 0; index < bytes / 8; index++) array.push(index + 0.5);
    kept.push(array);
  };
}

async function press(job: Job): Promise<void> {
  const total = job.memory.reduce((sum, { bytes }) => sum + bytes, 0);
  const began = performance.now();
  let touched = 0;
  let told = began;
  let slow = false;
  for (const { kind, bytes } of job.memory) {
    const next = presser(kind, bytes);
    // A rate is kept in steps of about 10 ms against absolute deadlines.
    const step = job.rate === null ? chunk : Math.max(4096, Math.min(chunk, Math.round(job.rate / 100)));
    for (let done = 0; done < bytes; done += step) {
      const size = Math.min(step, bytes - done);
      next(size);
      touched += size;
      if (job.rate !== null) {
        const due = began + (touched / job.rate) * 1000;
        const ahead = due - performance.now();
        if (ahead > 1) await sleep(ahead);
        else slow ||= ahead < -250;
      }
      if (performance.now() - told >= 100) {
        told = performance.now();
        tell({ type: "progress", kind, touched, rss: memory().rss });
      }
    }
    tell({ type: "progress", kind, touched, rss: memory().rss });
  }
  tell({ type: "touched", touched: total, ...memory(), slow });
}

/** Waits for a byte, or the end, of the sync descriptor. */
function waitForSync(): boolean {
  return readSync(syncFd, Buffer.alloc(1), 0, 1, null) === 1;
}

async function main(): Promise<number> {
  const job = JSON.parse(process.argv[2] ?? "{}") as Job;
  const total = job.memory.reduce((sum, { bytes }) => sum + bytes, 0);
  tell({ type: "start", worker: 0, bytes: total });
  if (job.delayMs > 0) await sleep(job.delayMs);
  try {
    await press(job);
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    tell({ type: "error", op: syscall ?? "allocate", errno: code, message });
    return 1;
  }
  waitForSync();
  if (job.hold === "forever") while (waitForSync()) continue;
  else if (job.hold > 0) await sleep(job.hold);
  tell({ type: "end", touched: total, ...memory(), code: 0 });
  return 0;
}

void main().then((code) => process.exit(code));
