export { classicLines } from "./classic.ts";
export { type CgroupOwner, cgroupOwner, limitWords, ownerWords } from "./cgroup-owner.ts";
export { explainKill } from "./sentences.ts";
export { createLogReader, createLogScanner, scanKernelLog } from "./scan-log.ts";
export { printable } from "../printable.ts";
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
