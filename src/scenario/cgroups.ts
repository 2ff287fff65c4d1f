/** The key `cgroups`: paths, each with its control files. */
import { CGROUP_FILES, splitCounter } from "./cgroupfiles.ts";
import type { CgroupFile } from "./cgroupfiles.ts";
import { cgroupProblem, parseNumberList } from "./names.ts";
import type { Defs, JsonSchema, Place } from "./place.ts";
import { limit } from "./quantities.ts";
import { didYouMean, record } from "./shape.ts";
import type { Shape } from "./shape.ts";
import type { CgroupFileWrite, CgroupSpec } from "./types.ts";

/** Reads the value for a control file, as the kernel takes it there. */
export function fileValue(file: CgroupFile, place: Place): { value: string; raw: string } | undefined {
  const raw = place.scalar();
  if (raw === undefined || raw.kind === "nothing") return place.expected(fileExpected(file));
  const value = fileText(file, raw.text, place);
  return value === undefined ? undefined : { value, raw: raw.text };
}

function fileText(file: CgroupFile, raw: string, place: Place): string | undefined {
  const wrong = (hint?: string): undefined => place.expected(fileExpected(file), hint);
  const onlyV1 = !file.versions.includes(2);
  switch (file.type) {
    case "size": {
      // Unlimited is `max` in v2's files and -1 in v1's.
      if (onlyV1 && (raw === "-1" || raw === "max")) return "-1";
      const bytes = limit.read(place);
      return bytes === undefined ? undefined : String(bytes);
    }
    case "flag": {
      const flag = { 0: "0", 1: "1", false: "0", true: "1" }[raw];
      return flag ?? wrong();
    }
    case "integer": {
      if (file.max === true && raw === "max") return raw;
      const value = /^\d{1,10}$/.test(raw) ? Number(raw) : Number.NaN;
      const [low, high] = file.range ?? [0, 2 ** 31 - 1];
      return value >= low && value <= high ? String(value) : wrong();
    }
    case "list":
      return parseNumberList(raw) === undefined ? wrong() : raw;
    case "words":
      return file.words?.includes(raw) === true ? raw : wrong(didYouMean(raw, file.words ?? []));
    case "text":
      return raw;
  }
}


function fileExpected(file: CgroupFile): string {
  switch (file.type) {
    case "size":
      return limit.expected;
    case "flag":
      return "0 or 1";
    case "integer":
      return `a whole number${file.range === undefined ? "" : ` from ${file.range[0]} to ${file.range[1]}`}${file.max === true ? ", or max" : ""}`;
    case "list":
      return "numbers such as 0-1,3";
    case "words":
      return `one of ${(file.words ?? []).join(", ")}`;
    case "text":
      return "a value";
  }
}

export function fileSchema(file: CgroupFile, defs: Defs): JsonSchema {
  switch (file.type) {
    case "size":
      return file.versions.includes(2) ? limit.json(defs) : { anyOf: [limit.json(defs), { enum: [-1, "-1"] }] };
    case "flag":
      return { enum: [0, 1, true, false, "0", "1"] };
    case "integer":
      return { anyOf: [{ type: "integer", minimum: file.range?.[0] ?? 0, maximum: file.range?.[1] ?? 2 ** 31 - 1 }, { type: "string", pattern: file.max === true ? "^([0-9]+|max)$" : "^[0-9]+$" }] };
    case "list":
      return { type: ["string", "integer"] };
    case "words":
      return { enum: (file.words ?? []).flatMap((word) => (/^\d+$/.test(word) ? [word, Number(word)] : [word])) };
    case "text":
      return { type: ["string", "number", "boolean"] };
  }
}

/** Finds a control file by the key that names it; a wrong one is noted. */
export function controlFile(at: Place, name: string, step: boolean): CgroupFile | undefined {
  const file = CGROUP_FILES.get(name);
  if (file !== undefined && (step || file.setting)) return file;
  if (file !== undefined) return at.wrong(`${name} acts when it is written, it holds no setting`, "write it with a step: write");
  if (/^(?:cgroup\.(?:procs|threads)|tasks)$/.test(name)) return at.wrong("oomlab places processes itself", step ? "use the step move" : "name the cgroup under the process: cgroup");
  if (splitCounter(name) !== null) return at.wrong(`${name} can only be read`, "compare it under expect.counters");
  const right = [...CGROUP_FILES].flatMap(([candidate, known]) => (step || known.setting ? [candidate] : []));
  const hint = didYouMean(name, right) ?? didYouMean(`memory.${name}`, right);
  return at.wrong(`no control file of the kernel's memory, cpuset or cgroup interfaces that a scenario can ${step ? "write" : "set"}`, hint ?? "such as memory.max");
}

const cgroupFiles: Shape<CgroupFileWrite[]> = {
  ...record(
    "control files such as { memory.max: 200Mi }",
    ({ key, at, value }): CgroupFileWrite | undefined => {
      const file = controlFile(at, key, false);
      const read = file === undefined ? undefined : fileValue(file, value);
      return read === undefined ? undefined : { file: key, ...read, ...at.position };
    },
    (defs) => ({
      type: ["object", "null"],
      properties: Object.fromEntries([...CGROUP_FILES].filter(([, file]) => file.setting).map(([name, file]) => [name, { ...fileSchema(file, defs), description: file.about }])),
      additionalProperties: false,
    }),
  ),
};

export const cgroups: Shape<CgroupSpec[]> = record(
  "cgroups such as { nginx: { memory.max: 200Mi } }",
  ({ key, at, value }) => {
    const problem = cgroupProblem(key);
    if (problem !== undefined) return at.wrong(`expected a cgroup's path such as nginx or parent/child: ${problem}`);
    // Its parents exist with it, listed or not.
    for (let end = key.length; end > 0; end = key.lastIndexOf("/", end - 1)) at.reader.names.cgroup.add(key.slice(0, end));
    const files = value.isNothing ? [] : cgroupFiles.read(value);
    return files === undefined ? undefined : { name: key, files, ...at.position };
  },
  (defs) => ({ type: "object", propertyNames: { minLength: 1, pattern: "^[^/]+(/[^/]+)*$" }, additionalProperties: cgroupFiles.json(defs) }),
);
