/** The folder that `--output` names: one file for each run, written as it happens. */
import { closeSync, existsSync, openSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { MachineError } from "../errors.ts";
import type { Plan } from "../plan.ts";
import type { RunEvent, Selection } from "../record.ts";
import { makeFolder } from "./outputs.ts";

export interface RecordFile {
  path: string;
  /** Throws the system call's error. */
  write(event: RunEvent): void;
  close(): void;
}

export interface RecordFolder {
  /** Opens the record of one attempt; `name`: its file's, if it is not made of the selection and the scenario's name. */
  open(plan: Plan, selection: Selection, name?: string): RecordFile;
}

/** Makes the folder and proves that it can be written. Throws MachineError where it cannot. */
export function openRecords(folder: string): RecordFolder {
  try {
    makeFolder(folder);
    const probe = join(folder, `.oomlab-${process.pid}`);
    closeSync(openSync(probe, "w"));
    unlinkSync(probe);
  } catch (error) {
    throw new MachineError("OUTPUT", `records cannot be written to ${folder}: ${(error as Error).message}`, {
      cause: error,
      hint: "name a folder that you may write with --output DIR",
    });
  }
  return {
    open(plan, selection, name) {
      const path = join(folder, name ?? fileName(plan, selection));
      const fd = openSync(path, "w");
      // A record that is written again leaves none of the attempts that followed the one of before.
      for (let attempt = selection.attempt + 1; name === undefined; attempt++) {
        const next = join(folder, fileName(plan, { ...selection, attempt }));
        if (!existsSync(next)) break;
        unlinkSync(next);
      }
      return {
        path,
        write: (event) => void writeSync(fd, `${JSON.stringify(event)}\n`),
        close: () => closeSync(fd),
      };
    },
  };
}

/** `001-a-name-v2.ndjson`, `001-a-name-v2-retry1.ndjson` (report/select.ts reads them). */
function fileName({ name, cgroupVersion }: Plan, { index, attempt }: Selection): string {
  const slug = name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60);
  const retry = attempt === 1 ? "" : `-retry${attempt - 1}`;
  return `${String(index).padStart(3, "0")}-${slug || "scenario"}-v${cgroupVersion}${retry}.ndjson`;
}
