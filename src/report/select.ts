/** Which of many records count: the last attempt at each scenario, and of joined shards the last run. */
import type { Plan } from "../plan.ts";
import type { Selection } from "../record.ts";

/** What tells a record from others; all of it stands in its first event and its file's name. */
export interface RecordHead {
  file: string;
  /** Which of the records in that file, from 0. */
  position: number;
  startedAt: string;
  plan: Plan;
  kernel: string | null;
  selection: Selection | null;
}

export interface SelectedRecord {
  head: RecordHead;
  /** Attempts at the same scenario before it, oldest first. */
  earlier: RecordHead[];
}

export interface SelectedRecords {
  records: SelectedRecord[];
  /** Records of earlier runs of the same scenario: left out with `merge`, else results of their own. */
  superseded: number;
  /** What is missing of a selection, in words. */
  missing: string[];
}

/** `001-a-name-v2-retry1.ndjson`, as `oomlab run --output` names records. */
const fileName = /^(.*?)((\d+)-[^/]*-v[12])(?:-retry(\d+))?\.ndjson$/;

const attemptOf = ({ file, selection }: RecordHead): number =>
  selection?.attempt ?? Number(fileName.exec(file)?.[4] ?? 0) + 1;

/** One entry a scenario of one `oomlab run`: what belongs together by the record, else by its file's name. */
function jobOf({ file, position, selection }: RecordHead): string {
  if (selection) return `${selection.session} ${selection.index}`;
  const [, folder, name] = fileName.exec(file) ?? [];
  return position === 0 && name !== undefined ? `${folder}${name}` : `${file} ${position}`;
}

/** The same scenario on the same kind of machine, whichever run it was. */
function scenarioOf({ file, plan, kernel, selection }: RecordHead): string {
  const repeat = selection?.repeat ?? fileName.exec(file)?.[3] ?? 1;
  const asked = plan.machine === "host" ? kernel : (plan.vm?.kernel ?? null);
  return JSON.stringify([plan.file, plan.name, plan.line ?? 0, plan.machine, plan.cgroupVersion, asked, repeat]);
}

/** Chooses the records that count, in the order of the files; with `merge` one a scenario over all runs, in the selection's order. */
export function selectRecords(heads: readonly RecordHead[], merge: boolean): SelectedRecords {
  const jobs = groupBy(heads, jobOf);
  let records = [...jobs.values()].map((attempts): SelectedRecord => {
    const sorted = attempts.toSorted((a, b) => attemptOf(a) - attemptOf(b));
    return { head: sorted.at(-1) as RecordHead, earlier: sorted.slice(0, -1) };
  });
  const scenarios = [...groupBy(records, ({ head }) => scenarioOf(head)).values()];
  const superseded = records.length - scenarios.length;
  if (!merge) return { records, superseded, missing: [] };
  records = scenarios.map((runs) =>
    runs.reduce((last, next) => (next.head.startedAt >= last.head.startedAt ? next : last)),
  );
  const index = ({ head }: SelectedRecord): number => head.selection?.index ?? Number.POSITIVE_INFINITY;
  return {
    records: records.toSorted((a, b) => (index(a) === index(b) ? 0 : index(a) - index(b))),
    superseded,
    missing: missingOf(heads),
  };
}

/** Scenarios that were selected and of which no shard left a record. */
function missingOf(heads: readonly RecordHead[]): string[] {
  const selections = heads.flatMap(({ selection }) => selection ?? []);
  return [...groupBy(selections, ({ of, shard }) => `${of}/${shard?.of ?? 1}`).values()].flatMap((group) => {
    const { of } = group[0] as Selection;
    const parts = group[0]?.shard?.of ?? 1;
    const absent = of - new Set(group.map(({ index }) => index)).size;
    if (absent <= 0) return [];
    const seen = new Set(group.map(({ shard }) => shard?.index ?? 1));
    // With more shards than scenarios the last have nothing to do.
    const shards = Array.from({ length: Math.min(parts, of) }, (_, at) => at + 1).filter((at) => !seen.has(at));
    const which = shards.length === 0 ? "" : ` (shard ${shards.map((at) => `${at}/${parts}`).join(", ")})`;
    return [`no record of ${absent} of ${of} scenarios${which}`];
  });
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group) group.push(item);
    else groups.set(key, [item]);
  }
  return groups;
}
