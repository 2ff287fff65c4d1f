/** What the journal has of the userspace OOM killers' own words (man 7 systemd.journal-fields). */
import { closeSync, readdirSync } from "node:fs";
import { userInfo } from "node:os";
import { MachineError } from "../errors.ts";
import type { Addon } from "../native.ts";
import { oomKillers } from "./probe.ts";
import { findProgram, readAvailable } from "./process.ts";

/** A line that a userspace OOM killer wrote. `us`: CLOCK_REALTIME. */
export interface KillerLine {
  killer: string;
  pid: number | null;
  us: number;
  text: string;
}

export interface KillerJournal {
  lines: KillerLine[];
  /** Why lines may be missing; null if none is. */
  problem: string | null;
  /** What to type. */
  hint: string | null;
}

/** Units of the distributions' packages. Only root starts a system unit, so its name says who writes. */
const units: Readonly<Record<string, string>> = {
  "systemd-oomd.service": "systemd-oomd",
  "earlyoom.service": "earlyoom",
  "oomd.service": "oomd",
  "nohang.service": "nohang",
  "nohang-desktop.service": "nohang",
};

/** Lines about a kill. The others stay out of the record: earlyoom prints command lines of any process. */
const aboutKills =
  /^(?:low memory! |sending SIG[A-Z]+ to process |escalating to SIG|dryrun, |Killed |Marked |oomd kill: |Victim status |\s+PID: |Implementing a corrective action|\s+Sending SIG)/;

const limit = { ms: 3_000, bytes: 4 << 20, lines: 400 };

/** Reads what the userspace OOM killers wrote since a moment (CLOCK_REALTIME, in milliseconds). Never throws. */
export async function readKillerJournal(addon: Addon, sinceMs: number): Promise<KillerJournal> {
  let file: string;
  try {
    file = findProgram("journalctl", "/");
  } catch (error) {
    if (!(error instanceof MachineError)) throw error;
    return { lines: [], problem: "there is no journalctl", hint: "look at the log of the OOM killer itself" };
  }
  const matches = [
    ...Object.keys(units).map((unit) => [`_SYSTEMD_UNIT=${unit}`]),
    ...[...oomKillers].map((name) => [`_COMM=${name}`, "_UID=0"]),
  ].flatMap((match, index) => (index === 0 ? match : ["+", ...match]));
  const { stdout, stderr, code, cut } = await run(addon, file, [
    "journalctl",
    "--system",
    "--no-pager",
    "--output=json",
    "--output-fields=MESSAGE,_SYSTEMD_UNIT,_COMM,_UID,_PID,_TRANSPORT",
    `--since=@${(sinceMs / 1000).toFixed(3)}`,
    ...matches,
  ]);
  const all = killerLines(stdout);
  const lines = all.slice(0, limit.lines);
  const problem =
    cut ??
    (all.length > lines.length
      ? `it has more than ${limit.lines} lines about kills`
      : /insufficient permissions|not seeing messages/.test(stderr)
        ? "no permission to read the system's journal"
        : !hasFiles()
          ? "journald keeps none"
          : code === 0
            ? null
            : `journalctl failed: ${stderr.trim().split("\n")[0] ?? ""}`);
  return { lines, problem, hint: problem?.startsWith("no permission") ? permissionHint() : null };
}

/** Whether journald keeps a journal: without one journalctl succeeds and prints nothing. */
const hasFiles = (): boolean =>
  ["/run/log/journal", "/var/log/journal"].some((folder) => {
    try {
      return readdirSync(folder, { recursive: true, encoding: "utf8" }).some((name) => name.endsWith(".journal"));
    } catch {
      return false;
    }
  });

const permissionHint = (): string =>
  `run oomlab as root, or \`sudo usermod -aG systemd-journal ${userInfo().username}\` and log in again`;

/** What userspace OOM killers say of kills, in the output of `journalctl --output=json`. */
export const killerLines = (json: string): KillerLine[] => json.split("\n").flatMap(killerLine);

/** A line of `journalctl --output=json`; none where it is not a killer's or not about a kill. */
function killerLine(json: string): KillerLine[] {
  if (!json.startsWith("{")) return [];
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(json) as Record<string, unknown>;
  } catch {
    // Cut off where the size was reached.
    return [];
  }
  const field = (name: string): string => (typeof entry[name] === "string" ? entry[name] : "");
  if (!/^(?:stdout|journal|syslog)$/.test(field("_TRANSPORT"))) return [];
  const comm = field("_COMM");
  const killer = units[field("_SYSTEMD_UNIT")] ?? (oomKillers.has(comm) && field("_UID") === "0" ? comm : undefined);
  const { MESSAGE: message } = entry;
  // What is not UTF-8 is printed as a list of bytes.
  const text =
    typeof message === "string"
      ? message
      : Array.isArray(message)
        ? Buffer.from(message as number[]).toString("utf8")
        : "";
  if (killer === undefined || !aboutKills.test(text)) return [];
  const pid = Number(field("_PID"));
  return [
    {
      killer,
      pid: Number.isSafeInteger(pid) && pid > 0 ? pid : null,
      us: Number(field("__REALTIME_TIMESTAMP")),
      // earlyoom 1.8.2 ends with the command line, which is as long as the victim likes.
      text: text.replace(/, cmdline ".*$/s, "").slice(0, 1000),
    },
  ];
}

interface Output {
  stdout: string;
  stderr: string;
  code: number | null;
  /** Why it was ended before its end; null if it was not. */
  cut: string | null;
}

/** Runs a program to its end, or to the limits. By the addon: Node's own children would be reaped as orphans. */
async function run(addon: Addon, file: string, args: string[]): Promise<Output> {
  const [outRead, outWrite] = addon.pipe();
  const [errRead, errWrite] = addon.pipe();
  let child: { pid: number; pidfd: number };
  try {
    child = addon.spawn({
      file,
      args,
      env: Object.entries(process.env).flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${value}`])),
      stdio: [-1, outWrite, errWrite],
      setsid: true,
      pdeathsig: 9,
    });
  } catch (error) {
    for (const fd of [outRead, errRead]) closeSync(fd);
    return { stdout: "", stderr: (error as Error).message, code: null, cut: null };
  } finally {
    for (const fd of [outWrite, errWrite]) closeSync(fd);
  }
  let stdout = "";
  let stderr = "";
  let cut: string | null = null;
  const end = (why: string): void => {
    cut ??= why;
    addon.signal(child, 9);
  };
  const read = (): void => {
    stdout += readAvailable(outRead);
    stderr += readAvailable(errRead);
    if (stdout.length > limit.bytes) end(`it has more than ${limit.bytes >> 20} MiB`);
  };
  const polls = [outRead, errRead].map((fd) => addon.poll(fd, "readable", read));
  const timer = setTimeout(() => end(`journalctl did not end within ${limit.ms / 1000} s`), limit.ms);
  const { code } = await new Promise<{ code: number | null }>((resolve) => addon.onExit(child, resolve));
  clearTimeout(timer);
  for (const poll of polls) poll.close();
  // A read takes so much at a time.
  for (let size = -1; size !== stdout.length && stdout.length <= limit.bytes;) {
    size = stdout.length;
    read();
  }
  for (const fd of [outRead, errRead]) closeSync(fd);
  return { stdout, stderr, code, cut };
}
