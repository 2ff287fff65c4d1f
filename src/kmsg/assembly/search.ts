// AssemblyScript (https://www.assemblyscript.org), compiled by scripts/build-search.mjs into ../search.wasm.ts.
// The log lies at address 0; 64 bytes behind the end may be read.

/** Lines ended before the place that was found last. */
export let lines: u32 = 0;

/** The first place in [from, to) where `kill` or `oom` in any case, or `-vm:`, begins; -1 where there is none. Counts lines up to there. */
export function search(from: i32, to: i32): i32 {
  const fold = i8x16.splat(0x20);
  const k = i8x16.splat(0x6b);
  const i = i8x16.splat(0x69);
  const l = i8x16.splat(0x6c);
  const o = i8x16.splat(0x6f);
  const m = i8x16.splat(0x6d);
  const dash = i8x16.splat(0x2d);
  const v = i8x16.splat(0x76);
  const colon = i8x16.splat(0x3a);
  const newline = i8x16.splat(0x0a);
  lines = 0;
  for (let at = from; at < to; at += 16) {
    const raw = v128.load(at);
    const second = v128.or(v128.load(at, 1), fold);
    const third = v128.or(v128.load(at, 2), fold);
    const first = v128.or(raw, fold);
    const fourth = v128.load(at, 3);
    const kill = v128.and(
      v128.and(i8x16.eq(first, k), i8x16.eq(second, i)),
      v128.and(i8x16.eq(third, l), i8x16.eq(v128.or(fourth, fold), l)),
    );
    const oom = v128.and(v128.and(i8x16.eq(first, o), i8x16.eq(second, o)), i8x16.eq(third, m));
    const vm = v128.and(
      v128.and(i8x16.eq(raw, dash), i8x16.eq(second, v)),
      v128.and(i8x16.eq(third, m), i8x16.eq(fourth, colon)),
    );
    const hits = i8x16.bitmask(v128.or(v128.or(kill, oom), vm));
    let ends = i8x16.bitmask(i8x16.eq(raw, newline));
    const left = to - at;
    const inside = left < 16 ? (1 << left) - 1 : 0xffff;
    if (hits & inside) {
      const place = ctz(hits);
      lines += popcnt(ends & ((1 << place) - 1));
      return at + place;
    }
    ends &= inside;
    lines += popcnt(ends);
  }
  return -1;
}
