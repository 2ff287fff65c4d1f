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

/**
 * Who died, for whose limit, alone or with others, and whether the node lives; null: nothing was pressed in turn.
 * `started`: the processes that came to run.
 */
export function turnNote(
  plan: Plan,
  kills: readonly KillTold[],
  started: ReadonlySet<string>,
  panicked: boolean,
): string | null {
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
  const siblings = pods.containers.filter(({ name, kind }) => name !== turn && kind !== "init" && !dead.includes(name));
  const living = siblings.filter(({ name }) => started.has(name));
  const waiting = siblings.filter(({ name }) => !started.has(name)).map(({ name }) => name);
  const who = !dead.includes(turn)
    ? `${list(others)} died in its place`
    : others.length > 0
      ? `it died together with ${list(others)}`
      : `it died alone${living.length > 0 ? ", the other containers live" : ""}`;
  const never = waiting.length === 0 ? "" : `; ${list(waiting)} never started`;
  return `${pressed}: ${limitWords(plan, first)}: ${who}${never}; ${node}`;
}

const list = (names: readonly string[]): string => names.join(", ");

function limitWords(plan: Plan, { kind, limit, oomMemcg }: KillTold): string {
  const { pods, kubelet } = plan;
  if (kind !== "memcg") return kind === "global" ? "the node ran out of memory (global OOM)" : `OOM kill (${kind})`;
  if (limit === null) return `the limit of ${oomMemcg ?? "a cgroup that the log does not name"} was hit`;
  if (limit === pods?.turn) return `its own limit (${limit}) was hit`;
  if (pods?.pods.some(({ name }) => name === limit)) {
    const equal = haveEqualLimits(plan, limit, pods.turn ?? "");
    return `the limit of the Pod ${limit} was hit${equal ? ", which is as large as the container's own" : ""}`;
  }
  if (limit === kubelet?.kubepods) return `the limit of all Pods together (${limit}) was hit, not the container's own`;
  return `the limit of ${limit} was hit`;
}

/** A Pod of one container has that container's limit, and as its own cgroup uses a little beside it is the one that is hit. */
export const haveEqualLimits = (plan: Plan, one: string, other: string): boolean =>
  limitOf(plan, one) === limitOf(plan, other);

const limitOf = ({ cgroups }: Plan, cgroup: string): string | undefined =>
  cgroups
    .find(({ name }) => name === cgroup)
    ?.writes.find(({ file }) => file === "memory.max" || file === "memory.limit_in_bytes")?.value;
