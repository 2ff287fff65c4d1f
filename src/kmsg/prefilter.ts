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
// The tag of a program in syslog, right before the words.
const PROGRAM = /(?<!kernel)\[\d{1,10}\]: (?:(?:memory cgroup )?out of memory: |.{1,20} invoked )?$/i;

/** Whether the line around a place that the search found may hold a record of the OOM killer; the log ends at `to`. */
export function mayMatter(
  bytes: Uint8Array,
  hit: number,
  to: number,
  latin1: (from: number, to: number) => string,
): boolean {
  // A terminal's colours come in between: only the whole line shows.
  if (bytes[hit - 1] === 75 || bytes[hit - 1] === 109 || bytes[hit + 4] === ESCAPE) return true;
  if (bytes[hit] === 45) return latin1(Math.max(0, hit - 5), hit) === "total";
  if (!PHRASES.some((phrase) => spells(bytes, hit, to, phrase))) return false;
  let at = hit - 1;
  const floor = Math.max(0, hit - AROUND);
  while (at > floor && bytes[at] !== NEWLINE && !(bytes[at] === 93 && bytes[at + 1] === 58)) at--;
  if (bytes[at] !== 93) return true;
  return !PROGRAM.test(latin1(Math.max(0, at - AROUND), hit));
}

/** Whether the words stand at `at`, in any case, or their beginning does where the line ends: it may be wrapped. */
function spells(bytes: Uint8Array, at: number, to: number, words: string): boolean {
  for (let i = 0; i < words.length; i++) {
    const code = at + i < to ? bytes[at + i]! : NEWLINE;
    if ((code >= 65 && code <= 90 ? code + 32 : code) !== words.charCodeAt(i)) return i > 2 && isEnd(code);
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
