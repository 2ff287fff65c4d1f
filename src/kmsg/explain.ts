import type { OomKill } from "./types.ts";
/** Plain-words explanation of a kill, one sentence per element. */
export function explainKill(kill: OomKill): string[] {
  return [`The kernel killed process ${kill.victim.pid}.`];
}
