// `Kill process` and `Killed process` in all their spellings; see docs/kernel-log.md.
import { COMM_WINDOW, type ChosenLine, type KilledLine, type Message, own } from "./grammar.ts";

/** `N (comm) score S or sacrifice child` from `at`. */
export function matchChosen(
  text: string,
  at: number,
  message: Message & { prefix: ChosenLine["prefix"] },
): ChosenLine | null {
  const pid = /^(\d{1,10}),? \(/.exec(text.slice(at, at + 16));
  if (pid === null) return null;
  const open = at + pid[0].length;
  const close = text.slice(open, open + COMM_WINDOW).lastIndexOf(") score ");
  if (close === -1) {
    // Cut somewhere in the comm or right after it.
    const comm = /^([^()]{1,64})\)/.exec(text.slice(open, open + COMM_WINDOW));
    return { type: "chosen", ...message, pid: Number(pid[1]), comm: own(comm?.[1] ?? ""), score: null, whole: false };
  }
  const rest = text.slice(open + close + 8);
  const score = /^(\d{1,20}) (or sacrifice child|or a child)$/.exec(rest.slice(0, 48));
  if (score === null && !/^\d{0,20}(?: (?:o(?:r.{0,16})?)?)?$/.test(rest.slice(0, 48))) return null;
  // "or a child": up to 2.6.35, where "Out of memory" meant CONSTRAINT_NONE, since the other two had their own words.
  const told = message.told ?? (score?.[2] === "or a child" && message.prefix === "global" ? "global" : null);
  return {
    type: "chosen",
    ...message,
    told,
    pid: Number(pid[1]),
    comm: own(text.slice(open, open + close)),
    score: score === null ? null : Number(score[1]),
    whole: score !== null,
  };
}

/** What follows `Killed process ` at `at`, in all spellings; see docs/kernel-log.md. */
export function matchKilled(text: string, at: number, message: Message): KilledLine | null {
  const number = /^\d{1,10}(?= ?$|,| [([])/.exec(text.slice(at, at + 13));
  // "Killed process 5 by request": somebody else's words.
  if (number === null) return null;
  const line: KilledLine = {
    type: "killed",
    ...message,
    pid: Number(number[0]),
    comm: null,
    uid: null,
    totalVm: null,
    anonRss: null,
    fileRss: null,
    shmemRss: null,
    pgtables: null,
    oomScoreAdj: null,
    shape: "garbled",
  };
  let open = at + number[0].length;
  // RHEL 6: `Killed process N, UID n, (c) total-vm:`
  const uid = /^, UID (\d{1,10}),/.exec(text.slice(open, open + 20));
  if (uid !== null) {
    line.uid = Number(uid[1]);
    open += uid[0].length;
  }
  if (!text.startsWith(" (", open)) {
    // The end may have been cut off by a terminal: not even the comm is known then.
    if (/^(?: ?|, (?:U(?:I(?:D(?: \d*,?)?)?)?)?)$/.test(text.slice(open, open + 20))) line.shape = "cut";
    return line;
  }
  open += 2;
  const window = text.slice(open, open + COMM_WINDOW + 24);
  // A comm may hold `) total-vm:1kB`: the last place from which the rest of the record fits is the right one.
  let cut: KilledLine | null = null;
  for (
    let close = window.lastIndexOf(")");
    close !== -1;
    close = close === 0 ? -1 : window.lastIndexOf(")", close - 1)
  ) {
    if (close > COMM_WINDOW) continue;
    const candidate: KilledLine = { ...line, comm: window.slice(0, close) };
    candidate.shape = matchSizes(text, open + close + 1, candidate);
    if (candidate.shape === "bare" && text.endsWith(".") && candidate.prefix === "global") candidate.told ??= "global";
    if (candidate.shape === "whole" || candidate.shape === "bare")
      return { ...candidate, comm: own(candidate.comm ?? "") };
    if (candidate.shape === "cut" && cut === null) cut = { ...candidate, comm: own(candidate.comm ?? "") };
  }
  if (cut !== null) return cut;
  if (text.length - open <= COMM_WINDOW && !window.includes(")")) line.shape = "cut";
  return line;
}

const FIELD = /(?:, | )([A-Za-z_-]{2,24}):(-?\d{1,16})(kB)?/y;
const CUT_FIELD =
  /^(?:,|, ?(?:[A-Za-z_-]{1,24}(?::(?:-?\d{0,16}k?)?)?)?| (?:[A-Za-z_-]{1,24}(?::(?:-?\d{0,16}k?)?)?)?)?(?:>|\u2026|\.{1,3})?$/;
const CUT_START =
  /^(?:, ?(?:U(?:I(?:D(?: \d*)?)?)?)?| ?(?:t(?:o(?:t(?:a(?:l(?:-(?:v(?:m(?::(?:\d{0,16}k?)?)?)?)?)?)?)?)?)?)?)(?:>|\u2026|\.{1,3})?$/;

/** Reads `[, UID n,] total-vm:NkB, ...` into `line`; tells how well the rest of the record fits. */
function matchSizes(text: string, from: number, line: KilledLine): KilledLine["shape"] {
  let at = from;
  if (text.length === at || (text.length === at + 1 && text[at] === ".")) return "bare";
  // Late RHEL 7: `Killed process N (c), UID n, total-vm:`
  const uid = /^, UID (\d{1,10}),(?= |$)/.exec(text.slice(at, at + 20));
  if (uid !== null) {
    line.uid = Number(uid[1]);
    at += uid[0].length;
  }
  if (!text.startsWith(" total-vm:", at) && !text.startsWith(" vsz:", at)) {
    return text.length - at < 24 && CUT_START.test(text.slice(at)) ? "cut" : "garbled";
  }
  let fields = 0;
  FIELD.lastIndex = at;
  for (let match = FIELD.exec(text); match !== null && fields < 16; match = FIELD.exec(text)) {
    const value = Number(match[2]);
    const end = match.index + match[0].length;
    // A number without its unit at the very end may have lost digits.
    const sized = match[3] !== undefined;
    const key = match[1];
    if (!sized && key !== "oom_score_adj" && (key !== "UID" || end === text.length)) break;
    if (key === "UID") line.uid = value;
    else if (key === "oom_score_adj") line.oomScoreAdj = value;
    else if (key === "total-vm" || key === "vsz") line.totalVm = value * 1024;
    else if (key === "anon-rss") line.anonRss = value * 1024;
    else if (key === "file-rss") line.fileRss = value * 1024;
    else if (key === "shmem-rss") line.shmemRss = value * 1024;
    else if (key === "pgtables") line.pgtables = value * 1024;
    fields++;
    at = end;
    FIELD.lastIndex = end;
  }
  // First 5.4 releases labelled bytes of page tables kB (fixed by 941f762bcb27): more tables than address space cannot be.
  if (
    line.pgtables !== null &&
    line.totalVm !== null &&
    line.pgtables > line.totalVm &&
    (line.pgtables / 1024) % 4096 === 0
  )
    line.pgtables /= 1024;
  if (fields > 0 && at === text.length) return "whole";
  if (fields === 0) return text.length - at < 32 && CUT_START.test(text.slice(at)) ? "cut" : "garbled";
  return text.length - at < 48 && CUT_FIELD.test(text.slice(at)) ? "cut" : "garbled";
}
