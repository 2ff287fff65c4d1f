/**
 * Which userspace OOM killer ended a process: from its signal, the killers' own lines and their marks on cgroups. Pure, and
 * knows no record: facts in, the sender out.
 */

/** A line that a userspace OOM killer wrote. `us`: CLOCK_REALTIME, or any other clock that all lines share. */
export interface KillerWords {
  killer: string;
  us: number;
  text: string;
  line: number;
}

/** A mark that a killer has set on a cgroup, or has counted up, in the time in question. `line`s: where it is told. */
export interface KillerMark {
  path: string;
  name: string;
  before: number;
  after: number;
  lines: readonly number[];
}

/** What is known of the machine's userspace OOM killers. */
export interface KillerEvidence {
  /** Those that run; `unit`: the systemd unit that one runs in. */
  running: readonly { name: string; unit: string | null }[];
  words: readonly KillerWords[];
  marks: readonly KillerMark[];
  /** Whether every line that a systemd unit of theirs wrote is in `words`. */
  isJournalWhole: boolean;
  /** The lines that say who runs and how far the journal was read. */
  lines: readonly number[];
}

/** A process, as far as its end is concerned. */
export interface EndedProcess {
  /** Its own pid, as the killer's pid namespace numbers it; null where that is not known. */
  pid: number | null;
  /** Those of its children and workers. */
  children: ReadonlySet<number>;
  /** The cgroups it was in, as paths below the hierarchy's mount point. */
  cgroups: readonly string[];
  /** The signal that ended it; null: it ended by itself, or lives. */
  signal: string | null;
  /** A signal of this kind ended a child of it, as far as its status says. */
  childSignal: string | null;
}

/** Who ended it. */
export interface Sender {
  by: string;
  /** Its own words; null where it left none. */
  words: string | null;
  /** `proven`: it says so itself, of this process or its cgroup, and the end agrees. `likely`: it runs, and nothing speaks against it. */
  confidence: "proven" | "likely";
  /** It was a child or a worker that it ended, not the process itself. */
  child: boolean;
  evidence: number[];
}

/** A kill of one process that a killer says it made. */
interface Statement {
  by: string;
  pid: number;
  text: string;
  lines: number[];
}

/** Null: no userspace OOM killer is known to have ended it, nor likely to. */
export function oomKillerOf(ended: EndedProcess, evidence: KillerEvidence): Sender | null {
  return byPid(ended, evidence) ?? byCgroup(ended, evidence) ?? byElimination(ended, evidence);
}

/** earlyoom and nohang name the pid. */
function byPid({ pid, children }: EndedProcess, { words }: KillerEvidence): Sender | null {
  const all = statementsOf(words);
  const own = all.find((statement) => statement.pid === pid);
  const found = own ?? all.find((statement) => children.has(statement.pid));
  if (!found) return null;
  return { by: found.by, words: found.text, confidence: "proven", child: found !== own, evidence: found.lines };
}

/** systemd-oomd and oomd end all of a cgroup by SIGKILL, name it, and mark it. */
function byCgroup(
  { cgroups, signal, childSignal }: EndedProcess,
  { words, marks, running }: KillerEvidence,
): Sender | null {
  if (signal !== "SIGKILL" && childSignal !== "SIGKILL") return null;
  const child = signal !== "SIGKILL";
  const said = words.find(({ killer, text }) => cgroups.some((cgroup) => names(killer, text, cgroup)));
  const marked = marks.filter(({ path }) => cgroups.some((cgroup) => isWithin(cgroup, path) || isWithin(path, cgroup)));
  const [mark] = marked;
  if (said)
    return {
      by: said.killer,
      words: said.text,
      confidence: "proven",
      child,
      evidence: [said.line, ...(mark?.lines ?? [])],
    };
  if (!mark) return null;
  const isOomd =
    marked.some(({ name }) => name.startsWith("trusted.")) ||
    (running.some(({ name }) => name === "oomd") && !running.some(({ name }) => name === "systemd-oomd"));
  return {
    by: isOomd ? "oomd" : "systemd-oomd",
    words: `${mark.name} of ${mark.path} went from ${mark.before} to ${mark.after}`,
    confidence: "proven",
    child,
    evidence: [...mark.lines],
  };
}

/** One that runs and could have sent it, where its silence does not speak against it. */
function byElimination({ signal }: EndedProcess, evidence: KillerEvidence): Sender | null {
  if (signal !== "SIGTERM" && signal !== "SIGKILL") return null;
  const able = evidence.running.filter(
    ({ name, unit }) => !(evidence.isJournalWhole && unit !== null) && (signal === "SIGKILL" || !endsCgroups.has(name)),
  );
  if (able.length === 0) return null;
  return {
    by: [...new Set(able.map(({ name }) => name))].join(" or "),
    words: null,
    confidence: "likely",
    child: false,
    evidence: [...evidence.lines],
  };
}

/** Killers that send nothing but SIGKILL, to whole cgroups. */
const endsCgroups: ReadonlySet<string> = new Set(["systemd-oomd", "oomd"]);

/** Kills by pid. */
const statementsOf = (words: readonly KillerWords[]): Statement[] => [
  ...earlyoomStatements(words.filter(({ killer }) => killer === "earlyoom")),
  ...nohangStatements(words.filter(({ killer }) => killer === "nohang")),
];

/**
 * `sending SIGTERM to process 535 uid 0 "python3": ...`, later perhaps `escalating to SIGKILL after 6.297 seconds`.
 * earlyoom 1.8 prints the victim's command line raw, newlines and all: what claims to be a further kill at the very same
 * moment is the victim's text.
 */
function earlyoomStatements(words: readonly KillerWords[]): Statement[] {
  const all: Statement[] = [];
  let last = -1;
  for (const { text, us, line } of words) {
    const pid = /^sending SIG(?:TERM|KILL) to process (\d+) uid \d+ "/.exec(text)?.[1];
    const open = all.at(-1);
    if (pid !== undefined) {
      if (us !== last) all.push({ by: "earlyoom", pid: Number(pid), text, lines: [line] });
      last = us;
    } else if (open && us !== last && text.startsWith("escalating to SIGKILL after ")) {
      open.text += `; ${text}`;
      open.lines.push(line);
    } else if (text.startsWith("dryrun, ")) all.pop();
  }
  return all;
}

/** `Victim status (found in 3ms):`, `  PID:       535, name: ...`, then `  Sending SIGTERM to the victim`; forged ones as earlyoom's. */
function nohangStatements(words: readonly KillerWords[]): Statement[] {
  const all: Statement[] = [];
  let last = -1;
  let victim: { pid: number; line: number } | null = null;
  for (const [index, { text, us, line }] of words.entries()) {
    const status = text.startsWith("Victim status ") && us !== last ? words[index + 1] : undefined;
    const pid = status === undefined ? undefined : /^\s+PID:\s+(\d+), name: /.exec(status.text)?.[1];
    if (pid !== undefined && status) {
      victim = { pid: Number(pid), line: status.line };
      last = us;
    }
    const sending = /^\s+(Sending SIG(?:TERM|KILL) to the victim)$/.exec(text)?.[1];
    if (sending === undefined || victim === null) continue;
    all.push({ by: "nohang", pid: victim.pid, text: `${sending} (pid ${victim.pid})`, lines: [victim.line, line] });
    victim = null;
  }
  return all;
}

/** Whether a line says that the killer ended all in this cgroup, in one above it or in one below. */
function names(killer: string, text: string, cgroup: string): boolean {
  if (killer === "systemd-oomd") {
    // `Marked PATH for killing due to ...`: systemd 258, which ends it a little later.
    const rest = /^(?:Killed|Marked) (?=\/)/.test(text) ? text.slice("Killed ".length) : null;
    if (rest === null) return false;
    const end = / (?:for killing )?due to memory /;
    return (
      ancestors(cgroup).some((path) => rest.startsWith(path) && end.exec(rest.slice(path.length))?.index === 0) ||
      (rest.startsWith(`${cgroup}/`) && end.test(rest))
    );
  }
  if (killer === "oomd") {
    // oomd kill: 9.00 3.00 1.00 system.slice/web.service 104857600 ruleset:[...] ...
    const killed = /^oomd kill: [\d.]+ [\d.]+ [\d.]+ (.+) \d+ ruleset:\[/.exec(text)?.[1];
    const path = killed === undefined ? null : `/${killed.replace(/^\/+/, "")}`;
    return path !== null && (isWithin(cgroup, path) || isWithin(path, cgroup));
  }
  return false;
}

/** A cgroup and all above it but the root. */
function ancestors(cgroup: string): string[] {
  const all: string[] = [];
  for (let path = cgroup; path.length > 1; path = path.slice(0, path.lastIndexOf("/"))) all.push(path);
  return all;
}

/** Whether a cgroup is another or below it, by whole names. */
export const isWithin = (cgroup: string, other: string): boolean =>
  other !== "/" && (cgroup === other || cgroup.startsWith(`${other}/`));
