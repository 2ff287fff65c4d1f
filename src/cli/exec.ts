/** `oomlab exec`: the command's exit status, or 125 where oomlab itself failed. */
import type { Streams } from "../api.ts";
import { exec as execute } from "../api/exec.ts";
import { UsageError } from "../errors.ts";

export interface ExecFlags {
  memory?: number;
  swap?: number;
  high?: number;
  pids?: number;
  limitOn: "self" | "parent";
  machine: "host" | "vm";
  timeout?: number;
  reporter?: string[];
  output?: string;
  quiet?: boolean;
}

export async function exec(command: string[], flags: ExecFlags, streams: Streams): Promise<number> {
  const { machine, timeout, reporter, quiet, ...limits } = flags;
  if (machine === "vm")
    throw new UsageError("exec --machine vm is not there yet", {
      hint: "a scenario with a `command` runs in a VM: oomlab run --machine vm",
    });
  return execute(
    {
      ...limits,
      command,
      ...(timeout === undefined ? {} : { timeoutMs: timeout }),
      reporters: reporter ?? [],
      quiet: quiet ?? false,
    },
    streams,
  );
}
