/** What became of a container that was pressed past what it may have, in a sentence. Pure. */
import type { Plan } from "../plan.ts";
import { formatBytes } from "../units.ts";

/** An OOM kill, as far as this module needs it. */
export interface KillTold {
  kind: string;
  limit: string | null;
  process: string | null;
  oomMemcg: string | null;
}

/** Who died, for whose limit, alone or with others, and whether the node lives; null: nothing was pressed in turn. */
export function turnNote(plan: Plan, kills: readonly KillTold[], panicked: boolean): string | null {
  const { pods } = plan;
  if (!pods || pods.turn === null) return null;
  const { turn } = pods;
  const bytes = plan.processes.find(({ name }) => name === turn)?.bytes ?? null;
  const pressed = `${turn} was pressed${bytes === null ? "" : ` with ${formatBytes(bytes)}`}`;
  const node = panicked ? "the node did not survive (kernel panic)" : "the node survived";
  const [first] = kills;
  if (first === undefined) return `${pressed}: no OOM kill; ${node}`;
  const dead = [...new Set(kills.map(({ process }) => process ?? "a process of no container"))];
  const others = dead.filter((name) => name !== turn);
  const siblings = pods.containers.filter(({ name }) => name !== turn).length;
  const who = !dead.includes(turn)
    ? `${list(others)} died in its place`
    : others.length > 0
      ? `it died together with ${list(others)}`
      : siblings > 0
        ? "it died alone, the other containers live"
        : "it died alone";
  return `${pressed}: ${limitWords(plan, first)}: ${who}; ${node}`;
}

const list = (names: readonly string[]): string => names.join(", ");

function limitWords({ pods, kubelet }: Plan, { kind, limit, oomMemcg }: KillTold): string {
  if (kind !== "memcg") return kind === "global" ? "the node ran out of memory (global OOM)" : `OOM kill (${kind})`;
  if (limit === null) return `the limit of ${oomMemcg ?? "a cgroup that the log does not name"} was hit`;
  if (limit === pods?.turn) return `its own limit (${limit}) was hit`;
  if (pods?.pods.some(({ name }) => name === limit)) return `the limit of the Pod ${limit} was hit`;
  if (limit === kubelet?.kubepods) return `the limit of all Pods together (${limit}) was hit, not the container's own`;
  return `the limit of ${limit} was hit`;
}
