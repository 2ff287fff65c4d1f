// Finds the places in a log where a record of the OOM killer may be, at memory speed, and counts the lines passed.
// A WebAssembly module of a few dozen SIMD instructions, put together here from its instructions; plain JavaScript where there is none.

/** A buffer to be filled with log text, and the search in it. */
export interface Finder {
  /** The buffer; at least MARGIN bytes at its end must stay unused. */
  bytes: Uint8Array;
  /**
   * The next place in [from, to) where "OOM", "Out ", "Memory c", "Task", or "kill" or "Kill" between bytes that can make a
   * record of it, begins, or -1. Adds the newlines before that
   * place (before `to`, when there is none) to `lines()`.
   */
  find(from: number, to: number): number;
  lines(): number;
}

/** The search reads up to this many bytes past the end of the text. */
export const MARGIN = 96;

const PAGE = 65_536;
// Room before the buffer, so that there is a byte before its first.
const FRONT = 64;

interface Exports {
  memory: { buffer: ArrayBuffer; grow(pages: number): number };
  find(from: number, to: number): number;
  lines: { value: number };
}

interface Wasm {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object) => { exports: unknown };
}

let compiled: object | null | undefined;

/** Makes a finder with a buffer of `size` bytes. */
export function createFinder(size: number, plain = false): Finder {
  const pages = Math.ceil((FRONT + size + MARGIN) / PAGE);
  const wasm = (globalThis as { WebAssembly?: Wasm }).WebAssembly;
  if (!plain && wasm !== undefined) {
    try {
      if (compiled === undefined) compiled = new wasm.Module(assemble(pages));
      if (compiled !== null) {
        const exports = new wasm.Instance(compiled).exports as Exports;
        const missing = pages - exports.memory.buffer.byteLength / PAGE;
        if (missing > 0) exports.memory.grow(missing);
        const find = (from: number, to: number): number => exports.find(from, to);
        return {
          bytes: new Uint8Array(exports.memory.buffer, FRONT),
          find(from, to) {
            const hit = find(from + FRONT, to + FRONT);
            return hit < 0 ? hit : hit - FRONT;
          },
          lines: () => exports.lines.value,
        };
      }
    } catch {
      // No SIMD, or a page's policy forbids compiling.
      compiled = null;
    }
  }
  return createPlainFinder(new Uint8Array(pages * PAGE));
}

function createPlainFinder(bytes: Uint8Array): Finder {
  let lines = 0;
  return {
    bytes,
    find(from, to) {
      let count = 0;
      for (let at = from; at < to; at++) {
        // Most bytes are nothing: four at a time, by one table.
        while (
          at + 4 <= to &&
          (KINDS[bytes[at]!]! | KINDS[bytes[at + 1]!]! | KINDS[bytes[at + 2]!]! | KINDS[bytes[at + 3]!]!) === 0
        )
          at += 4;
        if (at >= to) break;
        const kind = KINDS[bytes[at]!]!;
        if (kind === 0) continue;
        if (kind === IS_NEWLINE) count++;
        else if (isCandidate(bytes, at, kind)) {
          lines += count;
          return at;
        }
      }
      lines += count;
      return -1;
    },
    lines: () => lines,
  };
}

// What a byte may begin.
const IS_NEWLINE = 1;
const IS_KILL = 2;
const IS_OUT = 4;
const IS_MEMORY = 8;
const IS_TASK = 16;
const KINDS = new Uint8Array(256);
KINDS[10] = IS_NEWLINE;
KINDS[75] = KINDS[107] = IS_KILL;
KINDS[79] = IS_OUT;
KINDS[77] = IS_MEMORY;
KINDS[84] = IS_TASK;

function isCandidate(bytes: Uint8Array, at: number, kind: number): boolean {
  switch (kind) {
    case IS_KILL:
      return (
        bytes[at + 3] === 108 &&
        bytes[at + 1] === 105 &&
        bytes[at + 2] === 108 &&
        (bytes[at] === 75 ? afterKill(bytes[at + 4]!) : aroundKill(bytes[at - 1] ?? 0, bytes[at + 4]!))
      );
    case IS_OUT:
      return bytes[at + 1] === 79
        ? bytes[at + 2] === 77
        : bytes[at + 1] === 117 && bytes[at + 2] === 116 && bytes[at + 3] === 32;
    case IS_MEMORY:
      return bytes[at + 7] === 99 && isWord(bytes, at, MEMO);
    default:
      return bytes[at + 3] === 107 && isWord(bytes, at, TASK);
  }
}

/** Killed, Kill process, or a line's end. */
function afterKill(next: number): boolean {
  return next === 101 || next <= 32;
}

/** oom-kill, _kill_process, no killable, killing the task, kill process; before or after a terminal's escape sequence. */
function aroundKill(before: number, next: number): boolean {
  return (
    before === 45 ||
    before === 75 ||
    before === 109 ||
    next === 27 ||
    (before === 95 && next === 95) ||
    (before === 32 && (next === 97 || next === 105 || next === 32))
  );
}

const MEMO = [77, 101, 109, 111];
const TASK = [84, 97, 115, 107];

function isWord(bytes: Uint8Array, at: number, word: number[]): boolean {
  return word.every((code, i) => bytes[at + i] === code);
}

// The instructions used (WebAssembly core specification, 5.4 and the SIMD extension).
const op = {
  block: [0x02, 0x40],
  loop: [0x03, 0x40],
  if: [0x04, 0x40],
  else: [0x05],
  end: [0x0b],
  br: (depth: number): number[] => [0x0c, depth],
  brIf: (depth: number): number[] => [0x0d, depth],
  return: [0x0f],
  get: (local: number): number[] => [0x20, local],
  set: (local: number): number[] => [0x21, local],
  tee: (local: number): number[] => [0x22, local],
  globalGet: [0x23, 0],
  globalSet: [0x24, 0],
  load32: [0x28, 0, 0],
  load8: [0x2d, 0, 0],
  const: (value: number): number[] => [0x41, ...signed(value)],
  eqz: [0x45],
  eq: [0x46],
  ltS: [0x48],
  ltU: [0x49],
  leU: [0x4d],
  geU: [0x4f],
  ctz: [0x68],
  popcnt: [0x69],
  add: [0x6a],
  sub: [0x6b],
  and: [0x71],
  or: [0x72],
  shl: [0x74],
  loadV: (offset: number): number[] => [0xfd, 0x00, 0, offset],
  /** Sixteen times the same byte. */
  constV: (byte: number): number[] => [0xfd, 0x0c, ...Array.from({ length: 16 }, () => byte)],
  eqV: [0xfd, 0x23],
  andV: [0xfd, 0x4e],
  orV: [0xfd, 0x50],
  bitmask: [0xfd, 0x64],
  anyTrue: [0xfd, 0x53],
};

// Locals of find(): at, to (parameters), mask of candidates, mask of newlines, the candidate, the bytes, those three on, four bytes, the one before and the one after, whether they fit.
const AT = 0;
const TO = 1;
const MASK = 2;
const NEWLINES = 3;
const HIT = 4;
const BYTES = 5;
const FOURTH = 6;
const WORD = 7;
const BEFORE = 8;
const NEXT = 9;
const FITS = 10;

const is = (local: number, value: number): number[] => [...op.get(local), ...op.const(value), ...op.eq];

/** Leaves a vector: which of the sixteen bytes from AT + offset begin a candidate. BYTES has the bytes. */
function candidates(offset: number): number[] {
  return [
    ...op.get(AT),
    ...op.loadV(offset),
    ...op.tee(BYTES),
    // k or K with an l three bytes on ...
    ...op.constV(0x20),
    ...op.orV,
    ...op.constV(0x6b),
    ...op.eqV,
    ...op.get(AT),
    ...op.loadV(offset + 3),
    ...op.tee(FOURTH),
    ...op.constV(0x6c),
    ...op.eqV,
    ...op.andV,
    // ... or T with a k three bytes on ...
    ...op.get(BYTES),
    ...op.constV(0x54),
    ...op.eqV,
    ...op.get(FOURTH),
    ...op.constV(0x6b),
    ...op.eqV,
    ...op.andV,
    ...op.orV,
    // ... or M with a c seven bytes on ...
    ...op.get(BYTES),
    ...op.constV(0x4d),
    ...op.eqV,
    ...op.get(AT),
    ...op.loadV(offset + 7),
    ...op.constV(0x63),
    ...op.eqV,
    ...op.andV,
    ...op.orV,
    // ... or O with M or t two bytes on
    ...op.get(BYTES),
    ...op.constV(0x4f),
    ...op.eqV,
    ...op.get(AT),
    ...op.loadV(offset + 2),
    ...op.tee(FOURTH),
    ...op.constV(0x4d),
    ...op.eqV,
    ...op.get(FOURTH),
    ...op.constV(0x74),
    ...op.eqV,
    ...op.orV,
    ...op.andV,
    ...op.orV,
  ];
}

/** Leaves a mask of the newlines among the sixteen bytes from AT + offset. */
function newlines(offset: number): number[] {
  return [...op.get(AT), ...op.loadV(offset), ...op.constV(0x0a), ...op.eqV, ...op.bitmask];
}

function assemble(pages: number): Uint8Array {
  const addLines = [...op.globalGet, ...op.get(NEWLINES), ...op.popcnt, ...op.add, ...op.globalSet];
  const code = [
    ...op.loop,
    // Four blocks at once, as long as no candidate is in them.
    ...op.loop,
    ...op.block,
    ...op.get(TO),
    ...op.get(AT),
    ...op.sub,
    ...op.const(64),
    ...op.ltS,
    ...op.brIf(0),
    ...candidates(0),
    ...candidates(16),
    ...op.orV,
    ...candidates(32),
    ...op.orV,
    ...candidates(48),
    ...op.orV,
    ...op.anyTrue,
    ...op.brIf(0),
    ...op.globalGet,
    ...newlines(0),
    ...newlines(16),
    ...op.const(16),
    ...op.shl,
    ...op.or,
    ...op.popcnt,
    ...op.add,
    ...newlines(32),
    ...newlines(48),
    ...op.const(16),
    ...op.shl,
    ...op.or,
    ...op.popcnt,
    ...op.add,
    ...op.globalSet,
    ...op.get(AT),
    ...op.const(64),
    ...op.add,
    ...op.set(AT),
    ...op.br(1),
    ...op.end,
    ...op.end,
    // if (at >= to) return -1
    ...op.get(AT),
    ...op.get(TO),
    ...op.geU,
    ...op.if,
    ...op.const(-1),
    ...op.return,
    ...op.end,
    ...candidates(0),
    ...op.bitmask,
    ...op.set(MASK),
    ...op.get(BYTES),
    ...op.constV(0x0a),
    ...op.eqV,
    ...op.bitmask,
    ...op.set(NEWLINES),
    // The last block: forget what lies past the end.
    ...op.get(TO),
    ...op.get(AT),
    ...op.sub,
    ...op.const(16),
    ...op.ltU,
    ...op.if,
    ...op.const(1),
    ...op.get(TO),
    ...op.get(AT),
    ...op.sub,
    ...op.shl,
    ...op.const(1),
    ...op.sub,
    ...op.tee(HIT),
    ...op.get(MASK),
    ...op.and,
    ...op.set(MASK),
    ...op.get(NEWLINES),
    ...op.get(HIT),
    ...op.and,
    ...op.set(NEWLINES),
    ...op.end,
    ...op.block,
    ...op.loop,
    // while (mask != 0)
    ...op.get(MASK),
    ...op.eqz,
    ...op.brIf(1),
    ...op.get(AT),
    ...op.get(MASK),
    ...op.ctz,
    ...op.add,
    ...op.tee(HIT),
    ...op.load32,
    ...op.tee(WORD),
    ...op.const(0x20),
    ...op.or,
    ...op.const(0x6c6c696b),
    ...op.eq,
    ...op.get(HIT),
    ...op.const(1),
    ...op.sub,
    ...op.load8,
    ...op.set(BEFORE),
    ...op.get(HIT),
    ...op.const(4),
    ...op.add,
    ...op.load8,
    ...op.set(NEXT),
    // A small k: see aroundKill().
    ...op.get(WORD),
    ...op.const(0x20),
    ...op.and,
    ...op.if,
    ...is(BEFORE, 45),
    ...is(BEFORE, 75),
    ...op.or,
    ...is(BEFORE, 109),
    ...op.or,
    ...is(NEXT, 27),
    ...op.or,
    ...is(BEFORE, 95),
    ...is(NEXT, 95),
    ...op.and,
    ...op.or,
    ...is(BEFORE, 32),
    ...is(NEXT, 97),
    ...is(NEXT, 105),
    ...op.or,
    ...is(NEXT, 32),
    ...op.or,
    ...op.and,
    ...op.or,
    ...op.set(FITS),
    ...op.else,
    // A large one: see afterKill().
    ...is(NEXT, 101),
    ...op.get(NEXT),
    ...op.const(32),
    ...op.leU,
    ...op.or,
    ...op.set(FITS),
    ...op.end,
    ...op.get(FITS),
    ...op.and,
    ...op.get(WORD),
    ...op.const(0xffffff),
    ...op.and,
    ...op.const(0x4d4f4f),
    ...op.eq,
    ...op.or,
    ...op.get(WORD),
    ...op.const(0x2074754f),
    ...op.eq,
    ...op.or,
    ...op.get(WORD),
    ...op.const(0x6f6d654d),
    ...op.eq,
    ...op.or,
    ...op.get(WORD),
    ...op.const(0x6b736154),
    ...op.eq,
    ...op.or,
    ...op.if,
    // Only the newlines before the hit are passed.
    ...op.get(NEWLINES),
    ...op.const(1),
    ...op.get(MASK),
    ...op.ctz,
    ...op.shl,
    ...op.const(1),
    ...op.sub,
    ...op.and,
    ...op.set(NEWLINES),
    ...addLines,
    ...op.get(HIT),
    ...op.return,
    ...op.end,
    ...op.get(MASK),
    ...op.get(MASK),
    ...op.const(1),
    ...op.sub,
    ...op.and,
    ...op.set(MASK),
    ...op.br(0),
    ...op.end,
    ...op.end,
    ...addLines,
    ...op.get(AT),
    ...op.const(16),
    ...op.add,
    ...op.set(AT),
    ...op.br(0),
    ...op.end,
    ...op.const(-1),
    ...op.end,
  ];
  // Local declarations: MASK, NEWLINES, HIT: i32; BYTES, FOURTH: v128; WORD, BEFORE, NEXT, FITS: i32.
  const body = [3, 3, 0x7f, 2, 0x7b, 4, 0x7f, ...code];
  return Uint8Array.from([
    0x00,
    0x61,
    0x73,
    0x6d,
    1,
    0,
    0,
    0,
    ...section(1, [1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]),
    ...section(3, [1, 0]),
    ...section(5, [1, 0, ...unsigned(pages)]),
    ...section(6, [1, 0x7f, 1, 0x41, 0, 0x0b]),
    ...section(7, [3, ...named("memory"), 2, 0, ...named("find"), 0, 0, ...named("lines"), 3, 0]),
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]);
}

function section(id: number, content: number[]): number[] {
  return [id, ...unsigned(content.length), ...content];
}

function named(name: string): number[] {
  return [name.length, ...Array.from(name, (char) => char.charCodeAt(0))];
}

/** LEB128 */
function unsigned(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest & 0x7f;
    rest >>>= 7;
    bytes.push(rest === 0 ? low : low | 0x80);
  } while (rest !== 0);
  return bytes;
}

/** LEB128 with sign */
function signed(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (;;) {
    const low = rest & 0x7f;
    rest >>= 7;
    if ((rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0)) {
      bytes.push(low);
      return bytes;
    }
    bytes.push(low | 0x80);
  }
}
