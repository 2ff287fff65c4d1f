/** Things worth knowing of a run that decide nothing. Pure. */
import { eventsOf } from "../record.ts";
import type { Causes } from "./causes.ts";
import { type OtherEnds, otherEndWords, unexplainedWords } from "./ends.ts";
import { orderNotes } from "./evictions.ts";
import { closedLogWords, type Facts, isLogClosed, lastWordsOf, reportsOf } from "./facts.ts";
import type { OomKills } from "./kills.ts";
import { turnNote } from "./turn.ts";

/** What became of the container that was pressed comes first. */
export function notesOf(facts: Facts, found: OomKills, ends: { others: OtherEnds; causes: Causes }): string[] {
  const { plan, events } = facts;
  const started = new Set(eventsOf(events, "process-start").map(({ process }) => process));
  const turn = turnNote(plan, found.kills, started, eventsOf(events, "panic").length > 0);
  return [
    ...(turn === null ? [] : [turn]),
    ...slowNotes(facts),
    ...machineNotes(facts),
    ...closedLogNotes(facts, found),
    ...overcommitNotes(facts),
    ...(found.suppressed > 0
      ? [`the kernel's rate limit took the head of ${found.suppressed} OOM report(s) (callbacks suppressed)`]
      : []),
    ...limitNotes(facts),
    ...endNotes(facts, found, ends),
    ...(plan.kubelet
      ? orderNotes(
          events,
          found.kills.map(({ process, evidence }) => ({ process, line: Math.min(...evidence) })),
        )
      : []),
    ...(plan.pods?.notes ?? []),
    ...nodeNotes(facts),
  ];
}

function slowNotes(facts: Facts): string[] {
  return facts.plan.processes
    .filter(
      ({ name, bytes }) =>
        bytes !== null && reportsOf(facts, name).some(({ report }) => report.type === "touched" && report.slow),
    )
    .map(({ name }) => `${name} was slower than its stated rate`);
}

function machineNotes({ plan, events, sent }: Facts): string[] {
  const notes: string[] = [];
  const timeout = eventsOf(events, "timeout")[0];
  if (plan.vm?.hybrid === true) notes.push("both cgroup versions are mounted (hybrid)");
  if (timeout)
    notes.push(
      sent.some(({ why }) => why === "timeout")
        ? `it was ended by its timeout of ${timeout.ms} ms`
        : `its timeout of ${timeout.ms} ms was over, and nothing had to be ended`,
    );
  for (const event of eventsOf(events, "write"))
    if (event.note)
      notes.push(`${event.file} of ${event.cgroup || "the run's cgroup"}: ${event.value} written, ${event.note}`);
  return notes;
}

/** Without the kernel's log: what the verdict rests on, and what opens it. */
function closedLogNotes(facts: Facts, { kills, counted }: OomKills): string[] {
  if (!isLogClosed(facts)) return [];
  const rests =
    kills.length > 0
      ? "each OOM kill rests on two witnesses, the counters and the exit status"
      : counted === 0
        ? "that no OOM kill happened rests on the counters"
        : "the counters and the exit statuses alone do not show which OOM kills happened";
  const told = eventsOf(facts.events, "vmstat").flatMap(({ oomKill }) => (oomKill === null ? [] : [oomKill]));
  const others = (told.at(-1) ?? 0) - (told[0] ?? 0) - (counted ?? 0);
  return [
    `${rests}, as ${closedLogWords(facts)}`,
    ...(others > 0
      ? [`${others} more OOM kill(s) on this machine in the meantime are known by their number only (/proc/vmstat)`]
      : []),
  ];
}

/** Workers that were refused memory though they asked for none to be reserved: vm.overcommit_memory=2 reserves all. */
function overcommitNotes(facts: Facts): string[] {
  const { plan, capabilities } = facts;
  if (capabilities?.overcommitMemory !== 2) return [];
  return plan.processes.flatMap(({ name, program, argv, rlimits }) => {
    if (program !== "node" && !argv.includes("--no-reserve")) return [];
    // These limits refuse with ENOMEM too.
    if (rlimits.some(({ resource }) => resource === "AS" || resource === "DATA")) return [];
    const refused = reportsOf(facts, name).find(
      ({ report }) => report.type === "error" && report.errno === "ENOMEM" && /^(?:mmap|brk|shmget)$/.test(report.op),
    );
    const allow =
      plan.machine === "vm" ? "machine: { sysctl: { vm.overcommit_memory: 0 } }" : "sysctl vm.overcommit_memory=0";
    return refused === undefined
      ? []
      : [
          `${name} got ENOMEM with vm.overcommit_memory=2, where the kernel refuses to map what it cannot reserve: \`${allow}\` allows it`,
        ];
  });
}

/** Limits that somebody else changed while the run was on. */
function limitNotes({ events, final }: Facts): string[] {
  const notes: string[] = [];
  for (const [cgroup, { counters }] of final) {
    const written = eventsOf(events, "write").findLast(
      (event) => event.cgroup === cgroup && event.errno === null && /^memory\.(max|limit_in_bytes)$/.test(event.file),
    );
    const now = counters["memory.max"];
    if (written?.read && now !== undefined && /^\d+$/.test(written.read) && String(now) !== written.read)
      notes.push(
        `the limit of ${cgroup} was ${written.read} as written and ${now} at the end: somebody else changed it`,
      );
  }
  return notes;
}

/** Ends of processes that neither a kill of the log nor the scenario accounts for. */
function endNotes(
  facts: Facts,
  { kills }: OomKills,
  { others, causes }: { others: OtherEnds; causes: Causes },
): string[] {
  const notes: string[] = [];
  for (const { name, program } of facts.plan.processes) {
    const exit = facts.exits.get(name);
    const other = others.get(name);
    if (other) notes.push(`${name} was ${otherEndWords(facts, other)}`);
    else if ((exit?.signal === "SIGKILL" || exit?.signal === "SIGTERM") && causes.get(name)?.cause === "unknown")
      notes.push(`${name} was ended by ${unexplainedWords(facts, kills, exit.signal)}`);
    if (program !== "command" || !exit?.code || facts.plan.expect.exit.some(({ process }) => process === name))
      continue;
    const words = lastWordsOf(facts, name);
    notes.push(`${name} ended with status ${exit.code}${words === "" ? "" : `: ${words}`}`);
  }
  return notes;
}

function nodeNotes({ events }: Facts): string[] {
  const node = eventsOf(events, "node")[0];
  if (!node) return [];
  return [
    `the VM's MemTotal is ${node.memTotal}, ${node.stated === null ? "planned with" : "stated"} ${node.planned}: the kubelet's files were computed from the VM's`,
  ];
}
