/** What a command in the foreground of a terminal needs of the process that started it. */
import { readSync } from "node:fs";
import { constants } from "node:os";
import { type Addon, loadAddon, type PollHandle } from "../native.ts";

/** Signals to this process that are meant for the command. */
const forwarded = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;
/** siginfo's si_code of a signal that a terminal sent: to its whole foreground, and so to the command too. */
const fromKernel = 128;

/** Daemons of the command come to us: they are not to count as its processes once they are dead. */
const reapMs = 1_000;

/** Passes on what other processes send to this one; `to`: the command's pid while it runs. */
export function forwardSignals(addon: Addon = loadAddon()): { to(pid: number | null): void; close(): void } {
  const reaper = setInterval(() => addon.reapOrphans(), reapMs);
  const numbers = forwarded.map((name) => constants.signals[name]);
  const [read, write] = addon.pipe();
  const buffer = Buffer.alloc(12);
  let pid: number | null = null;
  /** Came before the command was there. */
  const early: number[] = [];
  const send = (number: number): void => {
    if (pid === null) {
      early.push(number);
      return;
    }
    try {
      process.kill(pid, number);
    } catch {
      // It has just ended.
    }
  };
  const poll: PollHandle = addon.poll(read, "readable", () => {
    if (readSync(read, buffer, 0, buffer.length, null) < buffer.length) return;
    if (buffer.readInt32LE(4) !== fromKernel) send(buffer.readInt32LE(0));
  });
  addon.watchSignals(write, numbers);
  return {
    to(started) {
      pid = started;
      if (started !== null) for (const number of early.splice(0)) send(number);
    },
    close() {
      addon.watchSignals(-1, numbers);
      poll.close();
      clearInterval(reaper);
    },
  };
}
