// What makes a line worth reading: it holds `kill` or `oom`, in any case, in one of the OOM killer's phrases, or the `-vm:` of a kill.
import { SEARCH_WASM } from "./search.wasm.ts";

/** A buffer for a log, and a search in it. `lines` is the number of newlines before the place found last, from `from` on. */
export interface Search {
  bytes: Uint8Array;
  /** The first place in [from, to) where `kill` or `oom` in any case, or `-vm:`, begins; -1 where there is none. */
  find(from: number, to: number): number;
  lines(): number;
}

const PAGE = 65_536;
// The search looks at bytes behind the end.
const MARGIN = 64;

/** `plain`: without WebAssembly. */
export function createSearch(capacity: number, plain = false): Search {
  return (plain ? null : createWasmSearch(capacity)) ?? createPlainSearch(capacity);
}

/** What is used of the global object WebAssembly; node's types have none. */
interface Wasm {
  Memory: new (size: { initial: number }) => { buffer: ArrayBuffer };
  Module: new (code: Uint8Array) => object;
  Instance: new (module: object, imports: object) => { exports: object };
}

function createWasmSearch(capacity: number): Search | null {
  try {
    const wasm = (globalThis as unknown as { WebAssembly: Wasm }).WebAssembly;
    const memory = new wasm.Memory({ initial: Math.ceil((capacity + MARGIN) / PAGE) });
    const code = Uint8Array.from(atob(SEARCH_WASM), (char) => char.charCodeAt(0));
    const { exports } = new wasm.Instance(new wasm.Module(code), { env: { memory } });
    const { search, lines } = exports as { search: (from: number, to: number) => number; lines: { value: number } };
    return { bytes: new Uint8Array(memory.buffer, 0, capacity), find: search, lines: () => lines.value };
  } catch {
    // No WebAssembly, or none with SIMD.
    return null;
  }
}

function createPlainSearch(capacity: number): Search {
  const bytes = new Uint8Array(capacity);
  let lines = 0;
  const spells = (at: number, word: string): boolean => {
    for (let i = 1; i < word.length; i++) if ((bytes[at + i]! | 32) !== word.charCodeAt(i)) return false;
    return true;
  };
  return {
    bytes,
    find(from, to) {
      lines = 0;
      for (let at = from; at < to; at++) {
        const code = bytes[at]!;
        if (code === 10) lines++;
        const folded = code | 32;
        if (code === 45 && spells(at, "-vm:")) return at;
        if ((folded === 107 && spells(at, "kill")) || (folded === 111 && spells(at, "oom"))) return at;
      }
      return -1;
    },
    lines: () => lines,
  };
}

/** So many bytes before and behind a place decide whether its line is read. */
export const AROUND = 48;

// What the OOM killer's records hold, in small letters, from `kill` or `oom` on.
const PHRASES = [
  "killed process ",
  "kill process ",
  "oom-killer: gfp_mask=0x",
  "oom-kill:constraint=",
  "oom-kill:,",
  "oom_kill_process: ",
  "oom_kill_process+",
  "oom_kill_process.",
  "oom killed process ",
  "killed as a result of limit of ",
  "killed due to memory.oom.group set",
  "killable processes",
  "killing the task",
  "oom execution",
  "oom is enabled",
  // The tags of other killers
  "oomd[",
  "oom[",
  // The rest of a word that a terminal's width cut in two.
  "killer: gfp_mask=0x",
  "kill:constraint=",
];
/** The same by their first word and the character behind it. */
const BEGINNINGS = new Map<number, string[]>();
for (const phrase of PHRASES) {
  const start = phrase.startsWith("kill") ? 256 + phrase.charCodeAt(4) : phrase.charCodeAt(3);
  BEGINNINGS.set(start, [...(BEGINNINGS.get(start) ?? []), phrase]);
}

/** Whether the line around a place that the search found may hold a record of the OOM killer; the log ends at `to`. */
export function mayMatter(bytes: Uint8Array, hit: number, to: number): boolean {
  // A terminal's colours come in between: only the whole line shows.
  if (bytes[hit - 1] === 75 || bytes[hit - 1] === 109 || bytes[hit + 4] === ESCAPE) return true;
  if (bytes[hit] === 45) return isRest(bytes, hit);
  const isKill = (bytes[hit]! | 32) === 107;
  // The second half of `oom-kill`, on which the first has decided.
  if (isKill && bytes[hit - 1] === 45 && bytes[hit - 2] === 109) return false;
  const behind = hit + (isKill ? 4 : 3);
  const next = behind < to ? bytes[behind]! : NEWLINE;
  if (!isEnd(next)) {
    const phrases = BEGINNINGS.get((isKill ? 256 : 0) + lower(next));
    if (phrases?.some((phrase) => spells(bytes, hit, to, phrase)) !== true) return false;
  }
  return !isProgram(bytes, hit, isKill);
}

/** Whether the end of a kill line stands here alone, since a terminal's width cut the line within its words. */
function isRest(bytes: Uint8Array, hit: number): boolean {
  if (!spells(bytes, hit - 5, hit, "total")) return false;
  for (let at = hit - 6; at >= Math.max(0, hit - 2 * AROUND) && bytes[at] !== NEWLINE; at--)
    if (bytes[at] === 75 && spells(bytes, at, hit, "kill")) return false;
  return true;
}

const MESSAGES = ["memory cgroup out of memory: ", "out of memory: ", ""];

/** Whether the tag of a program in syslog, `name[pid]: `, stands right before the words. */
function isProgram(bytes: Uint8Array, hit: number, isKill: boolean): boolean {
  let at = hit - 3;
  const floor = Math.max(0, hit - AROUND);
  while (at > floor && bytes[at] !== NEWLINE && !(bytes[at] === 93 && bytes[at + 1] === 58 && bytes[at + 2] === 32))
    at--;
  if (bytes[at] !== 93) return false;
  const between = at + 3;
  // `C invoked oom-killer`: a name has 15 bytes.
  if (
    isKill
      ? !MESSAGES.some((words) => hit - between === words.length && spells(bytes, between, hit, words))
      : hit - between > 24
  )
    return false;
  let open = at - 1;
  while (open > 0 && bytes[open]! >= 48 && bytes[open]! <= 57) open--;
  return open < at - 1 && bytes[open] === 91 && !spells(bytes, open - 6, open, "kernel");
}

const lower = (code: number): number => (code >= 65 && code <= 90 ? code + 32 : code);

/** Whether the words stand at `at`, in any case, or their beginning does where the line ends: it may be wrapped. */
function spells(bytes: Uint8Array, at: number, to: number, words: string): boolean {
  for (let i = 0; i < words.length; i++) {
    const code = at + i < to ? bytes[at + i]! : NEWLINE;
    if (lower(code) !== words.charCodeAt(i)) return i > 2 && isEnd(code);
  }
  if (!words.endsWith(" process ")) return true;
  // Behind it stand a pid and what follows one.
  let next = at + words.length;
  while (next < to && bytes[next]! >= 48 && bytes[next]! <= 57) next++;
  const code = next < to ? bytes[next]! : NEWLINE;
  if (isEnd(code)) return true;
  const more = next + 1 < to ? bytes[next + 1]! : NEWLINE;
  return next > at + words.length && (code === 44 || (code === 32 && (more === 40 || more === 91 || isEnd(more))));
}

const NEWLINE = 10;
const ESCAPE = 27;

/** A line's end; a NUL stands where a crash cut the log, an escape where a terminal's colour comes in between. */
function isEnd(code: number): boolean {
  return code === NEWLINE || code === 13 || code === 0 || code === ESCAPE;
}
