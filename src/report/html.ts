import type { Output, Reporter } from "./index.ts";
export function htmlReporter(_output: Output): Reporter {
  return {};
}
