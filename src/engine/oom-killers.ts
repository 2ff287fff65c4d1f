/**
 * What userspace OOM killers leave behind: their lines in the journal, their marks on cgroups. It is collected only where one
 * of them runs, or where a process was ended by a signal that neither the kernel's OOM killer nor the run sent.
 */
import { relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Addon } from "../native.ts";
import { type Capabilities, hierarchyOf } from "../plan.ts";
import type { Emit, RunEventBody } from "../record.ts";
import type { RunCgroups } from "./cgroups.ts";
import { type KillerJournal, readKillerJournal } from "./journal.ts";
import { runningOomKillers } from "./probe.ts";

/** systemd-oomd sets the first two (src/oom/oomd-util.c), oomd all four (src/oomd/plugins/BaseKillPlugin.cpp). */
const markNames = ["user.oomd_ooms", "user.oomd_kill", "trusted.oomd_ooms", "trusted.oomd_kill"];

/** How long a killer's line may trail behind a death, and the pause between two looks for it. */
const trailMs = 2_500;
const pauseMs = 250;

/** 128 + N: how a shell ends as a child of its was ended by signal N. */
const statusSignals: Readonly<Record<number, string>> = { 137: "SIGKILL", 143: "SIGTERM" };

export class OomKillerWitness {
  readonly #addon: Addon;
  readonly #cgroups: RunCgroups;
  readonly #caps: Capabilities;
  readonly #emit: Emit;
  /** A VM's guest has no userspace OOM killer. */
  readonly #isAlone: boolean;
  #since = 0;
  /** Processes that a SIGTERM or a SIGKILL ended. */
  readonly #ended = new Map<number, { signal: string; byStatus: boolean }>();
  readonly #sent = new Set<string>();
  readonly #killed = new Set<number>();

  constructor(
    cgroups: RunCgroups,
    { addon, caps, emit, isAlone }: { addon: Addon; caps: Capabilities; emit: Emit; isAlone: boolean },
  ) {
    this.#cgroups = cgroups;
    this.#addon = addon;
    this.#caps = caps;
    this.#emit = emit;
    this.#isAlone = isAlone;
  }

  /** Notes what the run's own events explain. */
  note(event: RunEventBody): void {
    switch (event.type) {
      case "process-exit":
        this.#noteEnd(event.pid, event);
        break;
      case "worker":
        if (event.report.type === "child-end") this.#noteEnd(event.report.child, event.report);
        break;
      case "kill":
        this.#sent.add(`${event.pid} ${event.signal}`);
        break;
      case "kmsg": {
        const pid = event.facility === 0 ? /(?:^|: )Killed process (\d+) \(/.exec(event.text)?.[1] : undefined;
        if (pid !== undefined) this.#killed.add(Number(pid));
        break;
      }
      default:
    }
  }

  /** Before the first process is started: marks that are there already are of earlier kills. */
  open(): void {
    this.#since = Date.now();
    if (!this.#isAlone && this.#caps.oomKillers.length > 0) this.#tellMarks("before");
  }

  /** While the run's cgroups still are there. */
  async collect(): Promise<void> {
    if (this.#isAlone) return;
    const pids = this.#unexplained();
    if (pids.length === 0 && this.#caps.oomKillers.length === 0) return;
    const running = runningOomKillers();
    this.#emit({ type: "oom-killers", running });
    this.#tellMarks("end");
    const journal = await this.#readJournal(pids, running.length > 0);
    for (const line of journal.lines) this.#emit({ type: "oom-killer-log", ...line });
    this.#emit({ type: "journal", problem: journal.problem, hint: journal.hint });
  }

  /** Reads the journal until a line is there for one of the dead, if a killer runs that may still write it. */
  async #readJournal(pids: readonly number[], isRunning: boolean): Promise<KillerJournal> {
    const deadline = performance.now() + trailMs;
    const { top } = this.#places();
    for (;;) {
      const journal = await readKillerJournal(this.#addon, this.#since);
      const isThere = journal.lines.some(
        ({ text }) => text.includes(` ${top}`) || pids.some((pid) => new RegExp(`\\b${pid}\\b`).test(text)),
      );
      if (pids.length === 0 || !isRunning || isThere || journal.problem !== null || performance.now() >= deadline)
        return journal;
      await sleep(pauseMs);
    }
  }

  #noteEnd(pid: number, { signal, code }: { signal: string | null; code: number | null }): void {
    const byStatus = signal === null;
    const ending = signal ?? statusSignals[code ?? 0];
    if (ending === "SIGTERM" || ending === "SIGKILL") this.#ended.set(pid, { signal: ending, byStatus });
  }

  /** Pids of processes that ended by a signal which nothing in the run explains. */
  #unexplained(): number[] {
    const left = [...this.#ended].filter(
      ([pid, { signal, byStatus }]) =>
        !this.#sent.has(`${pid} ${signal}`) &&
        !this.#killed.has(pid) &&
        !(byStatus && signal === "SIGKILL" && this.#killed.size > 0),
    );
    // In a private pid namespace the kernel's log has other numbers: as many SIGKILLs as it has kills are explained.
    const killed = this.#caps.initPidNamespace ? 0 : this.#killed.size;
    const explained = new Set(left.filter(([, { signal }]) => signal === "SIGKILL").slice(0, killed));
    return left.filter((end) => !explained.has(end)).map(([pid]) => pid);
  }

  /** The run's own cgroup as a path below the mount point, and the directories that can have a mark. */
  #places(): { top: string; directories: Map<string, string> } {
    const mount = hierarchyOf(this.#caps, this.#cgroups.driver.version)?.mount ?? "";
    const pathOf = (directory: string): string => `/${relative(mount, directory)}`;
    const top = pathOf(this.#cgroups.pathOf(""));
    const directories = new Map<string, string>();
    for (let at = top; at !== "/"; at = at.slice(0, at.lastIndexOf("/")) || "/") directories.set(at, `${mount}${at}`);
    for (const name of this.#cgroups.made) {
      const directory = this.#cgroups.pathOf(name);
      if (pathOf(directory) !== "/") directories.set(pathOf(directory), directory);
    }
    return { top, directories };
  }

  #tellMarks(moment: "before" | "end"): void {
    // Both killers are cgroup v2's.
    if (this.#cgroups.driver.version === 1) return;
    const { top, directories } = this.#places();
    const marks = [...directories].flatMap(([path, directory]) =>
      markNames.flatMap((name) => {
        const count = this.#mark(directory, name);
        return count === null ? [] : [{ path, name, count }];
      }),
    );
    this.#emit({ type: "oomd-marks", moment, top, marks });
  }

  #mark(directory: string, name: string): number | null {
    try {
      const value = this.#addon.xattr(directory, name);
      return value !== null && /^\d+$/.test(value) ? Number(value) : null;
    } catch (error) {
      // A cgroup that is gone has no mark any more.
      if ((error as NodeJS.ErrnoException).code === undefined) throw error;
      return null;
    }
  }
}
