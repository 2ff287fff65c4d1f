import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { copyWithoutZeroPages, StreamError } from "../../src/machine/ramstream.ts";

// QEMU: migration/ram.c, in the words of its RAM_SAVE_FLAG_*.
const flag = { zero: 0x02, size: 0x04, page: 0x08, end: 0x10, sameBlock: 0x20 };
const section = 2;
const MiB = 1048576;

const u8 = (value: number): Buffer => Buffer.of(value);
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};
const named = (text: string): Buffer => Buffer.concat([u8(text.length), Buffer.from(text)]);

const blocks = { "pc.ram": 512 * MiB, "pc.bios": 256 * 1024 };
/** What stands before memory's section: QEMU_VM_FILE_MAGIC and its number, the machine's name (migration/savevm.c). */
const head = Buffer.concat([Buffer.from("QEVM\0\0\0\x03\x07"), named("pc-q35-7.2")]);
const begin = Buffer.concat([u8(1), u32(section), Buffer.from("\x03ram\0\0\0\0\0\0\0\x04", "latin1")]);
const sizes = Buffer.concat([
  u64((512 * MiB + 256 * 1024) | flag.size),
  ...Object.entries(blocks).map(([name, size]) => Buffer.concat([named(name), u64(size)])),
]);
const sectionEnd = Buffer.concat([u64(flag.end), u8(0x7e), u32(section)]);
const furtherSection = (type: number): Buffer => Buffer.concat([u8(type), u32(section)]);
/** A device's section after memory's last: it holds what looks like a page of zeros. */
const devices = Buffer.concat([u8(4), u32(9), u64(0x1000 | flag.zero | flag.sameBlock), u8(0), u8(0)]);

const content = (byte: number): Buffer => Buffer.alloc(4096, byte);
const page = (address: number, byte: number, block?: string): Buffer =>
  Buffer.concat([
    u64(address | flag.page | (block === undefined ? flag.sameBlock : 0)),
    block === undefined ? Buffer.alloc(0) : named(block),
    content(byte),
  ]);
const zeros = (address: number, block?: string, fill = 0): Buffer =>
  Buffer.concat([
    u64(address | flag.zero | (block === undefined ? flag.sameBlock : 0)),
    block === undefined ? Buffer.alloc(0) : named(block),
    u8(fill),
  ]);

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "oomlab-test-"));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function copied(...parts: readonly Buffer[]): Buffer {
  writeFileSync(join(folder, "from"), Buffer.concat(parts));
  const from = openSync(join(folder, "from"), "r");
  const to = openSync(join(folder, "to"), "w");
  try {
    copyWithoutZeroPages(from, to);
  } finally {
    closeSync(from);
    closeSync(to);
  }
  return readFileSync(join(folder, "to"));
}

describe("a guest's memory in a snapshot", () => {
  it("loses its pages of zeros, and nothing else", () => {
    const before = [head, begin, sizes, sectionEnd, furtherSection(2), page(0, 0x41, "pc.ram")];
    const after = [page(0x3000, 0x42), sectionEnd, furtherSection(3), page(0x5000, 0x43), sectionEnd, devices];
    expect(copied(...before, zeros(0x1000), zeros(0x2000), ...after)).toEqual(Buffer.concat([...before, ...after]));
  });

  it("keeps a page of zeros that names its block: those after it belong to that block", () => {
    const start = [head, begin, sizes, zeros(0, "pc.ram")];
    const end = [page(0x2000, 0x41), sectionEnd, devices];
    expect(copied(...start, zeros(0x1000), ...end)).toEqual(Buffer.concat([...start, ...end]));
  });

  it("keeps the zeros of firmware, which a new QEMU fills with something else", () => {
    const stream = [head, begin, sizes, page(0, 0x41, "pc.bios"), zeros(0x1000), sectionEnd, devices];
    expect(copied(...stream)).toEqual(Buffer.concat(stream));
  });

  it("keeps a page filled with another byte than zero", () => {
    const stream = [head, begin, sizes, page(0, 0x41, "pc.ram"), zeros(0x1000, undefined, 7), sectionEnd, devices];
    expect(copied(...stream)).toEqual(Buffer.concat(stream));
  });

  it("is copied whole where it is larger than what is read at once", () => {
    const start = [head, begin, sizes, page(0, 0x01, "pc.ram")];
    const end = [sectionEnd, devices, Buffer.alloc(6 * MiB, 0x55)];
    const pages = Array.from({ length: 3000 }, (_, index) => page((2 * index + 1) * 4096, index % 256));
    const holes = pages.flatMap((one, index) => [one, zeros((2 * index + 2) * 4096)]);
    expect(copied(...start, ...holes, ...end).equals(Buffer.concat([...start, ...pages, ...end]))).toBe(true);
  });
});

describe("a stream that is not as expected", () => {
  const whole = Buffer.concat([head, begin, sizes, page(0, 0x41, "pc.ram"), zeros(0x1000), sectionEnd, devices]);
  const memoryEnd = whole.length - devices.length;

  it("is refused wherever it is cut within memory", () => {
    for (let end = 0; end < memoryEnd; end += 1)
      expect(() => copied(whole.subarray(0, end)), `cut at ${end}`).toThrow(StreamError);
  });

  it.each([
    ["a page of unknown flags", [head, begin, sizes, u64(0x1000 | 0x40 | flag.sameBlock)], "flags 96 of a page"],
    ["no sizes of memory", [head, begin, u64(0x1000 | flag.page)], "no sizes of memory"],
    ["a section that another ends", [head, begin, sizes, u64(flag.end), u8(0x7e), u32(5)], "a section without its end"],
    ["no memory", [head, Buffer.alloc(100_000)], "no memory at its beginning"],
  ])("is refused with %s", (_what, parts, message) => {
    expect(() => copied(...parts)).toThrow(message);
  });
});
