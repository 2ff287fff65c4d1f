/** Entries with fields of their own in systemd's journal (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). */
import { fstatSync } from "node:fs";
import { loadAddon } from "../native.ts";

const socket = "/run/systemd/journal/socket";

/** Whether standard output goes to the journal (systemd.exec(5), JOURNAL_STREAM). */
export function writesToJournal(env: NodeJS.ProcessEnv = process.env): boolean {
  try {
    const { dev, ino } = fstatSync(1);
    return env["JOURNAL_STREAM"] === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** One entry. Names are upper case; values may hold anything. A field without a value is left out. */
export function sendToJournal(fields: Readonly<Record<string, string | number | null>>): void {
  const entries = Object.entries(fields).flatMap(([name, value]) => (value === null ? [] : [field(name, value)]));
  loadAddon().sendDatagram(socket, Buffer.concat(entries));
}

/** In the form whose value may hold newlines: name, newline, length as 64 bits little-endian, value, newline. */
function field(name: string, value: string | number): Buffer {
  const text = Buffer.from(String(value));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([Buffer.from(`${name}\n`), size, text, Buffer.from("\n")]);
}
