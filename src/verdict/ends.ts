/** Ends of processes that somebody else's signal made: neither the kernel's OOM killer nor the run. Pure. */
import type { PlannedProcess } from "../plan.ts";
import { type EventOf, eventsOf } from "../record.ts";
import type { Kill } from "../verdict.ts";
import { type Facts, ourSignal, reportsOf } from "./facts.ts";
import type { OomKills } from "./kills.ts";
import { isWithin, type KillerEvidence, type KillerMark, oomKillerOf, type Sender } from "./oom-killer.ts";

/** What another OOM killer did to a process of the scenario. */
export interface OtherEnd {
  sender: Sender;
  exit: EventOf<"process-exit"> | undefined;
  /** The process has ended because of it; else it lost a child, or did not heed the signal. */
  ended: boolean;
}

/** Processes by name that a userspace OOM killer ended, certainly or likely. */
export type OtherEnds = ReadonlyMap<string, OtherEnd>;

/** `kills`: what the kernel's OOM killer did; `doubts`: what it may have done besides. */
export function otherEndsOf(facts: Facts, { kills, doubts }: OomKills): OtherEnds {
  const evidence = killerEvidence(facts);
  const ends = new Map<string, OtherEnd>();
  for (const process of facts.plan.processes) {
    const { name } = process;
    const exit = facts.exits.get(name);
    const ours = endedByUs(facts, exit);
    const byKernel = kills.some((kill) => kill.process === name);
    const explained = ours !== undefined || (byKernel && exit?.signal === "SIGKILL");
    const own = pidOf(facts, name);
    const sender = oomKillerOf(
      {
        pid: facts.privatePids ? null : own,
        children: new Set(
          facts.privatePids
            ? []
            : [...facts.pids].flatMap(([pid, owner]) => (owner === name && pid !== own ? [pid] : [])),
        ),
        cgroups: pathsOf(facts, process),
        signal: explained ? null : (exit?.signal ?? null),
        childSignal: byKernel ? null : childSignal(facts, name, exit),
      },
      evidence,
    );
    if (sender === null) continue;
    if (sender.confidence === "likely" && (doubts.length > 0 || hasUnknownVictim(kills))) continue;
    const ended =
      exit !== undefined && !explained && (exit.signal !== null || !sender.child || (exit.code !== 0 && !byKernel));
    ends.set(name, { sender, exit, ended });
  }
  return ends;
}

/** The end in words, with the killer's own. */
export function otherEndWords(facts: Facts, { sender, exit, ended }: OtherEnd): string {
  const { by, words, confidence, child } = sender;
  if (confidence === "likely")
    return `ended by a ${exit?.signal} that no kernel record or counter explains; ${by} runs on this machine and may have sent it${journalWords(facts)}`;
  const what = !child ? (ended ? "ended" : "signalled") : ended ? "ended, by its child's end," : "robbed of a child";
  return `${what} by ${by} ("${words}")`;
}

/** A signal from outside that nothing explains, with what is known of who may have sent it. */
export function unexplainedWords(facts: Facts, kills: readonly Kill[], signal: string): string {
  if (signal === "SIGKILL" && hasUnknownVictim(kills)) return "a SIGKILL, which may be the kernel's OOM killer's";
  const running = [...new Set(killerEvidence(facts).running.map(({ name }) => name))];
  const who =
    running.length > 0
      ? `; ${running.join(" and ")} ${running.length > 1 ? "run" : "runs"} on this machine${journalWords(facts)}`
      : facts.privatePids
        ? "; an OOM killer outside this container cannot be seen from here: `journalctl -u systemd-oomd -u earlyoom` on its host"
        : "";
  return `a ${signal} that no kernel record or counter explains${who}`;
}

/** Whether the kernel killed a process that is not known to be one of the scenario's or another. */
const hasUnknownVictim = (kills: readonly Kill[]): boolean => kills.some(({ process }) => process === null);

/** The signal of ours that a process ended by or, if it caught that, after. */
export function endedByUs(facts: Facts, exit: EventOf<"process-exit"> | undefined): EventOf<"kill"> | undefined {
  const ours = ourSignal(facts, exit);
  if (ours !== undefined || exit === undefined || exit.signal !== null || exit.code === 0) return ours;
  return facts.sent.find(({ pid, signal, line }) => pid === exit.pid && line < exit.line && !harmless.has(signal));
}

/** Signals that end nobody: signal(7). */
const harmless: ReadonlySet<string> = new Set(["SIGCONT", "SIGSTOP", "SIGTSTP", "SIGCHLD", "SIGURG", "SIGWINCH"]);

/** Why the journal may lack a killer's words, and what to type. */
function journalWords({ events }: Facts): string {
  const journal = eventsOf(events, "journal").at(-1);
  if (!journal) return "";
  if (journal.problem === null) return " (the journal shows no such kill)";
  return ` (its journal could not be read whole: ${journal.problem}${journal.hint === null ? "" : `; ${journal.hint}`})`;
}

function pidOf({ events }: Facts, name: string): number | null {
  return eventsOf(events, "process-start").findLast(({ process }) => process === name)?.pid ?? null;
}

/** The signal that ended a worker or, as the status of a shell says, a child. */
function childSignal(facts: Facts, name: string, exit: EventOf<"process-exit"> | undefined): string | null {
  for (const { report } of reportsOf(facts, name)) {
    if (report.type !== "child-end" || report.signal === null) continue;
    const { child, signal } = report;
    if (!facts.sent.some((sent) => sent.pid === child && sent.signal === signal)) return signal;
  }
  return exit?.code === 137 ? "SIGKILL" : exit?.code === 143 ? "SIGTERM" : null;
}

/** The cgroups of a process, as paths below the mount point. They are known where the marks were looked for. */
function pathsOf({ events, plan, cgroups }: Facts, { name, cgroup }: PlannedProcess): string[] {
  const looked = eventsOf(events, "oomd-marks").at(-1);
  if (!looked) return [];
  const moves = plan.steps.flatMap((step) => (step.do === "move" && step.process === name ? [step.cgroup] : []));
  const top = looked.top === "/" ? "" : looked.top;
  // Where a process without a limit lives on v2.
  return [cgroup ?? "unlimited", ...moves].map((at) => `${top}${cgroups.pathOf(at).slice(plan.top.path.length)}`);
}

function killerEvidence({ run, events }: Facts): KillerEvidence {
  const machine = eventsOf(events, "machine")[0];
  const found = eventsOf(events, "oom-killers").at(-1);
  const journal = eventsOf(events, "journal").at(-1);
  const probed = (machine ?? run).capabilities?.oomKillers ?? [];
  return {
    running: found?.running ?? probed.map((name) => ({ name, unit: null })),
    words: [
      ...eventsOf(events, "oom-killer-log"),
      // oomd writes to the kernel's log, where the facility says that it came from userspace.
      ...eventsOf(events, "kmsg").flatMap(({ facility, text, timeUs, line }) =>
        facility !== 0 && text.startsWith("oomd kill: ") ? [{ killer: "oomd", us: timeUs ?? 0, text, line }] : [],
      ),
    ],
    marks: marksOf(events),
    isJournalWhole: journal?.problem === null,
    lines: [(found ?? machine ?? run).line, ...(journal ? [journal.line] : [])],
  };
}

/** Marks that were counted up during the run. */
function marksOf(events: Facts["events"]): KillerMark[] {
  const looked = eventsOf(events, "oomd-marks");
  const before = looked.find(({ moment }) => moment === "before");
  const end = looked.findLast(({ moment }) => moment === "end");
  if (!end) return [];
  return end.marks.flatMap(({ path, name, count }) => {
    // Of a cgroup above the run's own that nobody looked at before, an old mark proves nothing.
    if (!before && !isWithin(path, end.top)) return [];
    const earlier = before?.marks.find((mark) => mark.path === path && mark.name === name)?.count ?? 0;
    const lines = before ? [before.line, end.line] : [end.line];
    return count > earlier ? [{ path, name, before: earlier, after: count, lines }] : [];
  });
}
