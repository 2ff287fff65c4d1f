export { classicLines } from "./classic.ts";
export { type CgroupOwner, cgroupOwner, ownerWords } from "./container.ts";
export { explainKill } from "./explain.ts";
export { createLogScanner, scanKernelLog } from "./fast.ts";
export { printable } from "../printable.ts";
export { createLogReader } from "./read.ts";
export { parseKmsgRecord } from "./record.ts";
export { createOomScanner, findOomKills } from "./scan.ts";
export type {
  KmsgRecord,
  MemcgCounter,
  OomDetails,
  OomIncomplete,
  OomKill,
  OomKind,
  OomScan,
  OomScanOptions,
  OomScore,
  OomTask,
  OomTrigger,
  OomVictim,
} from "./types.ts";
