export { explainKill } from "./explain.ts";
export { printable } from "./printable.ts";
export { createLogReader, parseKmsgRecord } from "./read.ts";
export { createOomScanner, findOomKills } from "./scan.ts";
export type { KmsgRecord, MemcgCounter, OomDetails, OomIncomplete, OomKill, OomKind, OomScan, OomScanOptions, OomScore, OomTask, OomTrigger, OomVictim } from "./types.ts";
import { createLogReader } from "./read.ts";
import { createOomScanner } from "./scan.ts";
import type { OomKill, OomScan, OomScanOptions } from "./types.ts";
export function scanKernelLog(input: string | Uint8Array | Iterable<string | Uint8Array>, options: OomScanOptions = {}): OomScan {
  const reader = createLogReader(); const scanner = createOomScanner(options); const kills: OomKill[] = [];
  for (const c of typeof input === "string" || input instanceof Uint8Array ? [input] : input) for (const r of reader.push(c)) kills.push(...scanner.push(r));
  for (const r of reader.end()) kills.push(...scanner.push(r));
  const scan = scanner.end(); scan.kills.unshift(...kills); return scan;
}
