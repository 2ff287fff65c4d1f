// Which of the places that the finder found make their line worth reading, told from a few bytes around them. A line that
// is passed over here is one that no matcher would take: everything that may be a record, or its beginning, counts.

/** Nothing; a record of the OOM killer perhaps; a stack frame. */
export type Candidate = 0 | 1 | 2;

/** No more bytes than these before and after a place are looked at. */
export const LOOK = 40;

const NEWLINE = 10;
const RETURN = 13;
const ESCAPE = 27;
const BLANK = 32;
const BACKSLASH = 92;

/** How bytes compare with a text. */
const NO = 0;
const YES = 1;
/** As far as the line goes, at least one byte of it. */
const CUT = 2;
/** A terminal's escape sequence comes in between: only the whole line can tell. */
const ESCAPED = 3;

/** What the place `hit` is; `floor` is the line's or the buffer's start. The line's end, or LOOK bytes, must be there. */
export function candidateAt(bytes: Uint8Array, hit: number, floor: number): Candidate {
  switch (bytes[hit]) {
    case 75: // Kill
      return killAt(bytes, hit, floor) ? 1 : 0;
    case 77: // Memo
      return compare(bytes, hit + 4, "ry cgroup out of memory") === NO || isProgram(bytes, hit, floor) ? 0 : 1;
    case 84: // Task
      return taskAt(bytes, hit + 4) ? 1 : 0;
    case 79:
      return outAt(bytes, hit) ? 1 : 0;
    default:
      return smallKillAt(bytes, hit, floor);
  }
}

/** `Killed process N`, `Kill process N` */
function killAt(bytes: Uint8Array, hit: number, floor: number): boolean {
  const killed = bytes[hit + 4] === 101;
  const word = killed ? "ed process " : " process ";
  const found = compare(bytes, hit + 4, word);
  if (found === NO || !mayPrecede(bytes, hit, floor)) return false;
  return found !== YES || afterPid(bytes, hit + 4 + word.length);
}

/** `Task in /`, `Tasks in /` */
function taskAt(bytes: Uint8Array, at: number): boolean {
  return compare(bytes, bytes[at] === 115 ? at + 1 : at, " in /") !== NO;
}

/** `OOM exec` of SysRq, `Out of memory: ` of a panic or of a record cut short. */
function outAt(bytes: Uint8Array, hit: number): boolean {
  if (bytes[hit + 1] === 79) return compare(bytes, hit + 3, " execution") !== NO;
  if (bytes[hit + 13] === BLANK && (bytes[hit + 14] === 40 || isEnd(bytes[hit + 14])))
    return compare(bytes, hit + 4, "of memory (oom_kill_alloc") !== NO;
  const found = compare(bytes, hit + 4, "of memory: ");
  if (found !== YES) return found !== NO;
  // compulsory, system-wide; a kill that is cut off is found by nothing else.
  const next = bytes[hit + 15];
  return (
    next === 99 || next === 115 || (next === 75 && compare(bytes, hit + 15, "Killed process") !== YES) || isEnd(next)
  );
}

/** The words with a small k: before them, and after, stands what tells them. */
function smallKillAt(bytes: Uint8Array, hit: number, floor: number): Candidate {
  const next = bytes[hit + 4];
  const before = hit > floor ? bytes[hit - 1] : NEWLINE;
  if (next === ESCAPE || before === 109 || before === 75) {
    // `grep --color kill`
    if (next === ESCAPE || isEscaped(bytes, hit, floor)) return 1;
  }
  if (before === 45) {
    // oom-kill:constraint= | oom-killer: gfp_mask=
    if (next === 58) return compare(bytes, hit + 5, "constraint=") === NO ? 0 : 1;
    return compare(bytes, hit + 4, "er: gfp_mask=0x") === NO ? 0 : 1;
  }
  if (before === 95) {
    // oom_kill_process: 3 callbacks suppressed | oom_kill_process+0x1/0x2
    if (compare(bytes, hit + 4, "_process") !== YES) return 0;
    const after = bytes[hit + 12];
    return after === 58 ? 1 : after === 43 || after === 46 ? 2 : 0;
  }
  if (before !== BLANK) return 0;
  switch (next) {
    case 97: // no killable processes
      return compare(bytes, hit + 5, "ble proc") === NO ? 0 : 1;
    case 105: // Skip killing the task
      return compare(bytes, hit + 5, "ng the task") === NO ? 0 : 1;
    case 32: // kill process N, up to 2.6.35
      return compare(bytes, hit + 5, "process ") === NO ? 0 : 1;
    default:
      return 0;
  }
}

function compare(bytes: Uint8Array, at: number, text: string): number {
  for (let i = 0; i < text.length; i++) {
    const code = bytes[at + i];
    if (code !== text.charCodeAt(i)) return code === ESCAPE ? ESCAPED : isEnd(code) ? CUT : NO;
  }
  return YES;
}

/** A line's end; a NUL stands where a crash cut the log, and behind the last line. */
function isEnd(code: number | undefined): boolean {
  return code === NEWLINE || code === RETURN || code === 0 || code === undefined;
}

function isDigit(code: number | undefined): boolean {
  return code !== undefined && code >= 48 && code <= 57;
}

/** Whether an escape sequence, of a terminal or of a writer, ends right before `at`. */
function isEscaped(bytes: Uint8Array, at: number, floor: number): boolean {
  for (let i = at - 1; i >= floor && at - i <= 10; i--) if (bytes[i] === ESCAPE || bytes[i] === BACKSLASH) return true;
  return false;
}

/** Whether what stands before a kill line can be a prefix's end: "] ", "kernel: ", "out of memory: ", "-;", "<3>", '"msg":"', a date. */
function mayPrecede(bytes: Uint8Array, hit: number, floor: number): boolean {
  if (hit <= floor) return true;
  const last = bytes[hit - 1]!;
  // A letter, a bracket or a quotation mark right before it: part of somebody's sentence.
  if (last !== BLANK) {
    return (
      last < BLANK ||
      last > 126 ||
      last === 59 || // ;
      last === 62 || // >
      last === 124 || // |
      last === 61 || // =
      last === 58 || // :
      last === 93 || // ]
      (last === 34 && isValue(bytes, hit - 2, floor)) ||
      isEscaped(bytes, hit, floor) ||
      // rsyslog's #011
      (isDigit(last) && hit - floor > 3 && bytes[hit - 4] === 35)
    );
  }
  if (hit - 1 <= floor) return true;
  const code = bytes[hit - 2]!;
  if (code === 58) return isTag(bytes, hit - 3, floor);
  // Small letters, quotation marks and opening parentheses end no prefix.
  return !(code >= 97 && code <= 122 && !isEscaped(bytes, hit - 1, floor)) && code !== 34 && code !== 40;
}

/** Whether a quotation mark opens the value of a JSON object. */
function isValue(bytes: Uint8Array, at: number, floor: number): boolean {
  let i = at;
  while (i > floor && bytes[i] === BLANK && at - i < 8) i--;
  return bytes[i] === 58;
}

/** Whether the word before a colon can be one of ours: memory, cpuset, kernel, kernel[1], task), kernel.err, `err   `, :notice. */
function isTag(bytes: Uint8Array, at: number, floor: number): boolean {
  if (at < floor) return true;
  const last = bytes[at]!;
  if (last === 93) return !isProgram(bytes, at + 3, floor);
  if (last === 121 || last === 116 || last === 108 || last === 41 || last === BLANK) return true;
  // dmesg -x, OpenWrt: a level after a colon or a dot.
  for (let i = at; i >= floor && at - i < 9; i--) {
    const code = bytes[i]!;
    if (code === 58 || code === 46) return true;
    if (!((code >= 97 && code <= 122) || isDigit(code))) return false;
  }
  return false;
}

/** Whether syslog's ` name[12]: ` of a program stands right before `hit`, whole and not the kernel's. */
function isProgram(bytes: Uint8Array, hit: number, floor: number): boolean {
  if (bytes[hit - 1] !== BLANK || bytes[hit - 2] !== 58 || bytes[hit - 3] !== 93) return false;
  let at = hit - 4;
  while (at > floor && isDigit(bytes[at])) at--;
  const digits = hit - 4 - at;
  if (bytes[at] !== 91 || digits < 1 || digits > 10) return false;
  const end = at;
  for (at--; at >= floor; at--) {
    const code = bytes[at]!;
    if (code === BLANK) break;
    if (!((code >= 97 && code <= 122) || (code >= 65 && code <= 90) || isDigit(code) || code === 45 || code === 95))
      return false;
  }
  // kernel, and not more: kernel.warn has a dot.
  return at >= floor && end - at > 1 && !(end - at === 7 && compare(bytes, at + 1, "kernel") === YES);
}

/** After the pid comes the name in parentheses, RHEL's UID, or the end of a cut line. */
function afterPid(bytes: Uint8Array, from: number): boolean {
  let at = from;
  while (isDigit(bytes[at]) && at - from < 11) at++;
  const code = bytes[at];
  if (isEnd(code) || code === ESCAPE) return true;
  if (at === from) return false;
  if (code === 44) return true;
  const next = bytes[at + 1];
  return code === BLANK && (isEnd(next) || next === ESCAPE || next === 40 || next === 91);
}
