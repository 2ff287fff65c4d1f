/**
 * The guest's memory in QEMU's migration stream (QEMU: docs/devel/migration, migration/ram.c), as a snapshot's file holds
 * it. Memory of a new QEMU holds zeros: a page of zeros need not be in the file. QEMU reads a page before it writes zeros
 * to it, and where the host backs memory with huge pages that read takes and clears one: of 512 MiB each restore.
 */
import { readSync, writeSync } from "node:fs";

/** The stream is not as expected. */
export class StreamError extends Error {}

const page = 4096;
const sectionFooter = 0x7e;
const sectionPart = 0x02;
const sectionEnd = 0x03;
// RAM_SAVE_FLAG_*, in the bits below the page's address.
const flag = { zero: 0x02, size: 0x04, page: 0x08, end: 0x10, sameBlock: 0x20 } as const;
/** `ram`, instance 0, version 4: how its section begins, behind a byte of type and four of an id. */
const ramSection = Buffer.from("\x03ram\0\0\0\0\0\0\0\x04", "latin1");
/** What stands before it is short. */
const headSize = 65_536;
/** Firmware and tables are blocks too, and not always zeros in a new QEMU. */
const leastMemory = 16 * 1048576;

/** Copies the stream between files, without the pages of zeros. Throws StreamError where it is not as expected. */
export function copyWithoutZeroPages(from: number, to: number): void {
  const stream = openStream(from, to);
  const start = stream.search(ramSection, headSize) - 5;
  if (start < 0) throw new StreamError("no memory at its beginning");
  stream.keep(start + 1);
  const id = stream.u32();
  stream.keep(4 + ramSection.length);
  const memory = readBlocks(stream);
  let block = "";
  for (;;) {
    const head = stream.u64();
    const flags = Number(head & 0xfffn);
    if (flags === flag.end) {
      stream.keep(8);
      if (stream.u8() !== sectionFooter || stream.u32(1) !== id) throw new StreamError("a section without its end");
      stream.keep(5);
      // Until memory's last section, only memory is in the stream.
      const type = stream.u8();
      if ((type !== sectionPart && type !== sectionEnd) || stream.u32(1) !== id) break;
      stream.keep(5);
      continue;
    }
    const named = (flags & flag.sameBlock) === 0;
    const name = named ? 1 + stream.u8(8) : 0;
    if (named) block = stream.text(9, name - 1);
    const kind = flags & ~flag.sameBlock;
    if (kind !== flag.zero && kind !== flag.page) throw new StreamError(`flags ${flags} of a page`);
    if (kind === flag.page) stream.keep(8 + name + page);
    else if (!named && memory.has(block) && stream.u8(8) === 0) stream.drop(9);
    else stream.keep(9 + name);
  }
  stream.rest();
}

/** The blocks' names and sizes, up to the first page; those that are the guest's memory. */
function readBlocks(stream: Stream): Set<string> {
  const total = stream.u64();
  if ((total & 0xfffn) !== BigInt(flag.size)) throw new StreamError("no sizes of memory");
  stream.keep(8);
  const memory = new Set<string>();
  for (let left = total & ~0xfffn; left > 0n;) {
    const length = stream.u8();
    const size = stream.u64(1 + length);
    if (size > BigInt(leastMemory)) memory.add(stream.text(1, length));
    stream.keep(9 + length);
    left -= size;
  }
  return memory;
}

interface Stream {
  /** The number `at` bytes on. */
  u8(at?: number): number;
  u32(at?: number): number;
  u64(at?: number): bigint;
  text(at: number, length: number): string;
  /** How far on `bytes` stand in the next `size`, or -1. */
  search(bytes: Buffer, size: number): number;
  keep(size: number): void;
  drop(size: number): void;
  /** Keeps all that is left. */
  rest(): void;
}

function openStream(from: number, to: number): Stream {
  const buffer = Buffer.allocUnsafe(4 * 1048576);
  let [at, end] = [0, 0];
  // From here to `at` is kept, and not written yet.
  let kept = 0;
  const write = (): void => {
    for (; kept < at; kept += writeSync(to, buffer, kept, at - kept));
  };
  const fill = (): boolean => {
    write();
    buffer.copyWithin(0, at, end);
    [kept, at, end] = [0, 0, end - at];
    const size = readSync(from, buffer, end, buffer.length - end, null);
    end += size;
    return size > 0;
  };
  const need = (size: number): void => {
    while (end - at < size) if (!fill()) throw new StreamError("its end is missing");
  };
  const number = <Value>(of: number, read: (at: number) => Value): ((at?: number) => Value) => {
    return (ahead = 0) => {
      need(ahead + of);
      return read(at + ahead);
    };
  };
  const keep = (size: number): void => {
    need(size);
    at += size;
  };
  return {
    u8: number(1, (place) => buffer.readUInt8(place)),
    u32: number(4, (place) => buffer.readUInt32BE(place)),
    u64: number(8, (place) => buffer.readBigUInt64BE(place)),
    text(ahead, length) {
      need(ahead + length);
      return buffer.toString("latin1", at + ahead, at + ahead + length);
    },
    search(bytes, size) {
      while (end - at < size && fill());
      const found = buffer.subarray(at, Math.min(end, at + size)).indexOf(bytes);
      return found;
    },
    keep,
    drop(size) {
      need(size);
      write();
      at += size;
      kept = at;
    },
    rest() {
      do at = end;
      while (fill());
    },
  };
}
