/** The key `cgroups`: paths, each with its control files. */
import { CGROUP_FILES, COUNTER_FILES } from "./cgroupfiles.ts";
import type { CgroupFile, FileType } from "./cgroupfiles.ts";
import { cgroupProblem, parseNumberList } from "./names.ts";
import type { JsonSchema, Place } from "./place.ts";
import { limit } from "./quantities.ts";
import { didYouMean, map, record } from "./shape.ts";
import type { Shape } from "./shape.ts";
import type { CgroupFileWrite, CgroupSpec } from "./types.ts";

/** The value of a control file by its type, as the kernel takes it there. */
const VALUES: Readonly<Record<FileType, (file: CgroupFile) => Shape<string>>> = {
  // Unlimited is `max` in v2's files and -1 in v1's.
  size: ({ versions }) =>
    versions.includes(2)
      ? map(limit, String)
      : {
          expected: "a size such as 200Mi, or -1 for no limit",
          read(place) {
            const text = place.scalar()?.text;
            const given = text === "-1" ? text : limit.read(place);
            return given === undefined ? undefined : given === "max" ? "-1" : String(given);
          },
          json: (defs) => ({ anyOf: [limit.json(defs), { enum: [-1, "-1"] }] }),
        },
  flag: () =>
    value("0 or 1", { enum: [0, 1, true, false, "0", "1"] }, (text) => {
      return { 0: "0", 1: "1", false: "0", true: "1" }[text];
    }),
  integer({ range: [low, high] = [0, 2 ** 31 - 1], max = false }) {
    const expected = `a whole number from ${low} to ${high}${max ? ", or max" : ""}`;
    const json = {
      anyOf: [
        { type: "integer", minimum: low, maximum: high },
        { type: "string", pattern: max ? "^([0-9]+|max)$" : "^[0-9]+$" },
      ],
    };
    return value(expected, json, (text) => {
      if (max && text === "max") return text;
      const number = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
      return number >= low && number <= high ? String(number) : undefined;
    });
  },
  list: () =>
    value("numbers such as 0-1,3", { type: ["string", "integer"] }, (text) =>
      parseNumberList(text) === undefined ? undefined : text,
    ),
  words({ words = [] }) {
    const json = { enum: words.flatMap((word) => (/^\d+$/.test(word) ? [word, Number(word)] : [word])) };
    return value(
      words.length === 1 ? `${words[0]}` : `one of ${words.join(", ")}`,
      json,
      (text) => words.find((word) => word === text),
      words,
    );
  },
  text: () => value("a value", { type: ["string", "number", "boolean"] }, (text) => text),
};

/** A scalar's text, changed by `read`; undefined: it is wrong. */
function value(
  expected: string,
  json: JsonSchema,
  read: (text: string) => string | undefined,
  words: readonly string[] = [],
): Shape<string> {
  return {
    expected,
    read(place) {
      const scalar = place.scalar();
      const given = scalar === undefined || scalar.kind === "nothing" ? undefined : read(scalar.text);
      return given ?? place.expected(expected, didYouMean(scalar?.text, words));
    },
    json: () => json,
  };
}

/** The shape of a control file's value. */
export function fileShape(file: CgroupFile): Shape<string> {
  return VALUES[file.type](file);
}

/** What people write who do not have the kernel's names in mind. */
const MEANT: Readonly<Record<string, string>> = {
  limit: "memory.max",
  memory: "memory.max",
  "memory.limit": "memory.max",
  swap: "memory.swap.max",
  "memory.swap": "memory.swap.max",
  "memory.swap.limit": "memory.swap.max",
};

/** Finds a control file by the key that names it; a wrong one is noted. */
export function controlFile(at: Place, name: string, step: boolean): CgroupFile | undefined {
  const file = CGROUP_FILES.get(name);
  if (file !== undefined && (step || file.setting)) return file;
  if (file !== undefined)
    return at.wrong(`${name} acts when it is written, it holds no setting`, "write it with a step: write");
  if (/^(?:cgroup\.(?:procs|threads)|tasks)$/.test(name))
    return at.wrong("oomlab places processes itself", step ? "use the step move" : "name its cgroup under the process");
  if (COUNTER_FILES.has(name)) return at.wrong(`${name} can only be read`, "compare it under expect.counters");
  if (/^(?!memory|cpuset|cgroup)[a-z]+\./.test(name) && !CGROUP_FILES.has(`memory.${name}`))
    return at.wrong("unknown control file: oomlab writes those of memory, cpuset and cgroup");
  const right = [...CGROUP_FILES].flatMap(([candidate, known]) => (step || known.setting ? [candidate] : []));
  const meant = Object.hasOwn(MEANT, name) ? `did you mean ${MEANT[name]}?` : undefined;
  return at.wrong(
    "unknown control file",
    meant ?? didYouMean(name, right) ?? didYouMean(`memory.${name}`, right) ?? "such as memory.max",
  );
}

const cgroupFiles: Shape<CgroupFileWrite[]> = {
  ...record(
    "control files such as { memory.max: 200Mi }",
    ({ key, at, value }): CgroupFileWrite | undefined => {
      const file = controlFile(at, key, false);
      const read = file === undefined ? undefined : fileShape(file).read(value);
      return read === undefined
        ? undefined
        : { file: key, value: read, raw: value.scalar()?.text ?? read, ...at.position };
    },
    (defs) => ({
      type: ["object", "null"],
      properties: Object.fromEntries(
        [...CGROUP_FILES]
          .filter(([, file]) => file.setting)
          .map(([name, file]) => [name, { ...fileShape(file).json(defs), description: file.about }]),
      ),
      additionalProperties: false,
    }),
  ),
};

export const cgroups: Shape<CgroupSpec[]> = record(
  "cgroups such as { nginx: { memory.max: 200Mi } }",
  ({ key, at, value }) => {
    const problem = cgroupProblem(key);
    // A wrong name that is used elsewhere is told once, here.
    at.reader.names.cgroup.add(key);
    if (problem !== undefined) return at.wrong(`expected a cgroup's path such as nginx or parent/child: ${problem}`);
    // Its parents exist with it, listed or not.
    for (let end = key.length; end > 0; end = key.lastIndexOf("/", end - 1))
      at.reader.names.cgroup.add(key.slice(0, end));
    const files = value.isNothing ? [] : cgroupFiles.read(value);
    return files === undefined ? undefined : { name: key, files, ...at.position };
  },
  (defs) => ({
    type: "object",
    propertyNames: { minLength: 1, pattern: "^[^/]+(/[^/]+)*$" },
    additionalProperties: cgroupFiles.json(defs),
  }),
);
