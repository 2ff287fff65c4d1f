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
  // The rest of a word that a terminal's width cut in two.
  "killer: gfp_mask=0x",
  "kill:constraint=",
];
const PROCESS = /^[a-z ]{12,19}(?:\d{1,10}(?: ?$| [([]|,)|$)/;
// The tag of a program in syslog, right before the words.
const PROGRAM = /\[\d{1,10}\]: (?:(?:memory cgroup )?out of memory: |.{1,20} invoked )?$/;

/** Whether a line may hold a record of the OOM killer, from the text before and behind a place that the search found. */
export function mayMatter(before: string, behind: string): boolean {
  const newline = behind.search(/[\r\n\0]/);
  const end = newline === -1 && behind.length < AROUND ? behind.length : newline;
  const text = (end === -1 ? behind : behind.slice(0, end)).toLowerCase();
  // A terminal's colours come in between: only the whole line shows.
  if (text.includes("\u001b") || before.endsWith("\u001b[K")) return true;
  if (text.startsWith("-vm:")) return before.endsWith("total");
  // A line may be wrapped within a phrase.
  const found = PHRASES.some((phrase) =>
    text.startsWith(phrase)
      ? !phrase.endsWith(" process ") || PROCESS.test(text)
      : end !== -1 && phrase.startsWith(text),
  );
  if (!found) return false;
  const start = before.slice(before.lastIndexOf("\n") + 1).toLowerCase();
  return !PROGRAM.test(start) || /kernel\[\d{1,10}\]: /.test(start);
}
