/** `oomlab validate`: checks scenario files, runs nothing. */
import type { Streams } from "../api.ts";
import { printable } from "../printable.ts";
import { loadScenarios } from "../scenario/index.ts";

export async function validate(paths: string[], streams: Streams): Promise<number> {
  const stdin = streams.stdin && paths.includes("-") ? { stdin: await streams.stdin() } : {};
  const scenarios = await loadScenarios(paths, stdin);
  const files = new Map<string, number>();
  for (const { file } of scenarios) files.set(file, (files.get(file) ?? 0) + 1);
  for (const [file, count] of files)
    streams.stdout.write(`${printable(file)}: ${count} scenario${count === 1 ? "" : "s"}, valid\n`);
  return 0;
}
