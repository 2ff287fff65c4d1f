/** `oomlab explain`: reads a kernel log, tells every OOM kill in it. */
import { createReadStream } from "node:fs";
import type { Streams } from "../api.ts";
import { OomlabError } from "../errors.ts";
import { createLogReader, createOomScanner, explainKill, type OomKill, printable } from "../kmsg/index.ts";

export async function explain(
  file: string,
  flags: { reporter: string; details?: boolean },
  streams: Streams,
): Promise<number> {
  const reader = createLogReader();
  const scanner = createOomScanner({ details: flags.reporter === "terminal" || flags.details === true });
  const kills: OomKill[] = [];
  const take = (found: OomKill[]): void => {
    for (const kill of found) {
      kills.push(kill);
      if (flags.reporter === "terminal") tell(kill, kills.length, streams);
    }
  };
  try {
    const input = file === "-" ? process.stdin : createReadStream(file);
    for await (const chunk of input) for (const record of reader.push(chunk as Uint8Array)) take(scanner.push(record));
    for (const record of reader.end()) take(scanner.push(record));
  } catch (error) {
    throw new OomlabError(
      "LOG_UNREADABLE",
      `the log ${file === "-" ? "on standard input" : file} cannot be read: ${(error as Error).message}`,
      { exitCode: 2, cause: error },
    );
  }
  const scan = scanner.end();
  take(scan.kills.slice(kills.length));
  if (flags.reporter === "json") {
    streams.stdout.write(
      `${JSON.stringify({ kills: kills.map((kill) => killJson(kill, flags.details === true)), incomplete: scan.incomplete }, null, 2)}\n`,
    );
    return 0;
  }
  for (const { line, reason } of scan.incomplete)
    streams.stdout.write(`line ${line}: an OOM report that is not complete: ${printable(reason)}\n`);
  if (scan.suppressed > 0)
    streams.stdout.write(`the kernel's rate limit took the head of ${scan.suppressed} OOM report(s)\n`);
  if (kills.length === 0) streams.stdout.write("no OOM kill in this log\n");
  return 0;
}

function tell(kill: OomKill, number: number, streams: Streams): void {
  streams.stdout.write(`${number === 1 ? "" : "\n"}OOM kill ${number} (line ${kill.line})\n`);
  for (const sentence of explainKill(kill)) streams.stdout.write(`  ${printable(sentence)}\n`);
}

/** The kill object of the JSON report; a log alone knows no scenario. */
function killJson(kill: OomKill, details: boolean): unknown {
  const { kind, constraint, trigger, oomMemcg, taskMemcg, group, victim, line } = kill;
  return {
    kind,
    constraint,
    trigger,
    oomMemcg,
    taskMemcg,
    group,
    limit: null,
    process: null,
    witnesses: ["kmsg"],
    victim,
    line,
    missing: kill.missing,
    ...(details && kill.details ? { details: kill.details } : {}),
  };
}
