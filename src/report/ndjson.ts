/** The records themselves, event by event; `oomlab report` reads them. */
import type { Output, Reporter } from "./index.ts";

export function ndjsonReporter(output: Output): Reporter {
  return { onEvent: (_plan, event) => output.write(`${JSON.stringify(event)}\n`) };
}
