/** The key `steps`: what happens in which order. */
import { parseLimit, parseSize } from "../units.ts";
import { CGROUP_FILES, splitCounter } from "./cgroupfiles.ts";
import type { CgroupFile } from "./cgroupfiles.ts";
import { controlFile, fileShape } from "./cgroups.ts";
import { counter, countersJson } from "./counters.ts";
import { ERRNOS, SIGNALS } from "./names.ts";
import type { Defs, Entry, JsonSchema, Place } from "./place.ts";
import { duration, size, sizeJson, someSize, someTime } from "./quantities.ts";
import {
  boolean,
  byForm,
  choice,
  field,
  fieldSchema,
  integer,
  list,
  map,
  object,
  rawText,
  reference,
  unit,
  unknownKey,
} from "./shape.ts";
import type { Field, Shape } from "./shape.ts";
import type { Comparison, Condition, Step } from "./types.ts";

type StepBody = Step extends infer S ? (S extends Step ? Omit<S, "line" | "column"> : never) : never;

const processName = reference("process");
const cgroupName = reference("cgroup");
const signal = choice(...SIGNALS);
const WAIT_MS = 30_000;

const onlyTrue = map(boolean(), (value, place) => (value ? value : place.expected("true")));

/** A mapping of fixed keys beside which further keys stand; `rest` reads those. */
function openFields<F extends Record<string, Field<unknown>>>(
  place: Place,
  fields: F,
  rest: (entry: Entry) => void,
): { [K in keyof F]?: F[K] extends Field<infer T> ? T : never } {
  const result: Record<string, unknown> = {};
  for (const entry of place.entries()) {
    const found = Object.hasOwn(fields, entry.key) ? fields[entry.key] : undefined;
    if (found === undefined) rest(entry);
    else result[entry.key] = found.shape.read(entry.value);
  }
  return result as { [K in keyof F]?: F[K] extends Field<infer T> ? T : never };
}

const waitFields = {
  process: field(processName, "the process that is waited for"),
  exited: field(onlyTrue, "until it has ended"),
  touched: field(
    {
      ...unit("a size such as 40Mi, or true for all of it", parseSize, {}),
      read: (place: Place): number | "all" | undefined =>
        place.scalar()?.text === "true" ? "all" : touchedSize.read(place),
      json: (defs: Defs): JsonSchema => ({ anyOf: [size.json(defs), { const: true }] }),
    },
    "until it has touched so much; true: all its size",
  ),
  cgroup: field(cgroupName, "the cgroup whose counters are waited for; beside it stand counters as under expect"),
  timeout: field(someTime, "how long at most; then the scenario is errored", { default: "30s" }),
};
const touchedSize = unit("a size such as 40Mi, or true for all of it", parseSize, sizeJson);

const wait: Shape<StepBody> = {
  expected: "a condition such as { process: hog, exited: true }",
  read(place) {
    if (!place.isMap) return place.expected(wait.expected);
    const compared: { key: string; compare: Comparison }[] = [];
    const ofCgroup = place.entries().some(({ key }) => key === "cgroup");
    const given = openFields(place, waitFields, (entry) => {
      if (ofCgroup || splitCounter(entry.key) !== null) compared.push(...counter(entry));
      else unknownKey(entry.at, entry.key, Object.keys(waitFields));
    });
    if (!place.sound) return undefined;
    const until = condition(given, compared, place);
    return until === undefined ? undefined : { do: "wait", until, timeoutMs: given.timeout ?? WAIT_MS };
  },
  json: (defs) => {
    const counterPart = countersJson(defs);
    return {
      ...counterPart,
      properties: {
        ...Object.fromEntries(Object.entries(waitFields).map(([key, child]) => [key, fieldSchema(child, defs)])),
        ...(counterPart["properties"] as JsonSchema),
      },
    };
  },
};

function condition(
  given: { process?: string; exited?: boolean; touched?: number | "all"; cgroup?: string },
  compared: { key: string; compare: Comparison }[],
  place: Place,
): Condition | undefined {
  if (given.process !== undefined && given.cgroup === undefined && compared.length === 0) {
    if (given.exited === true && given.touched === undefined)
      return { of: "process", process: given.process, state: "exited", touched: null };
    if (given.touched !== undefined && given.exited === undefined) {
      return {
        of: "process",
        process: given.process,
        state: "touched",
        touched: given.touched === "all" ? null : given.touched,
      };
    }
    return place.wrong("expected one of exited and touched beside process");
  }
  if (
    given.cgroup !== undefined &&
    given.process === undefined &&
    given.exited === undefined &&
    given.touched === undefined
  ) {
    if (compared.length > 0) return { of: "counters", cgroup: given.cgroup, counters: compared };
    return place.wrong('expected a counter beside cgroup, such as memory.current: ">=40Mi"');
  }
  return place.wrong("expected one of process and cgroup");
}

const writeFields = {
  cgroup: field(cgroupName, "the cgroup; beside it stands one control file with its value"),
  errno: field(choice(...ERRNOS), "the failure that must come, such as EBUSY", { default: "the write must succeed" }),
};

const write: Shape<StepBody> = {
  expected: "a control file such as { cgroup: nginx, memory.max: 20Mi }",
  read(place) {
    if (!place.isMap) return place.expected(write.expected);
    const files: { file: string; value: string }[] = [];
    const entries = place.entries();
    const failing = entries.some(({ key }) => key === "errno");
    const given = openFields(place, writeFields, ({ key, at, value }) => {
      const file = controlFile(at, key, true);
      if (file === undefined) return;
      const read = failing ? refusedValue(file, value) : fileShape(file).read(value);
      if (read !== undefined) files.push({ file: key, value: read });
    });
    if (!place.sound) return undefined;
    const [first] = files;
    if (given.cgroup === undefined) return place.wrong("expected the key cgroup");
    if (first === undefined || files.length > 1)
      return place.wrong(`expected one control file beside cgroup, such as memory.max: 20Mi; got ${files.length}`);
    return { do: "write", cgroup: given.cgroup, ...first, errno: given.errno ?? null };
  },
  json: (defs) => ({
    type: "object",
    required: ["cgroup"],
    properties: {
      ...Object.fromEntries(Object.entries(writeFields).map(([key, child]) => [key, fieldSchema(child, defs)])),
      ...Object.fromEntries(
        [...CGROUP_FILES].map(([name, file]) => [
          name,
          { anyOf: [fileShape(file).json(defs), { type: ["string", "number"] }], description: file.about },
        ]),
      ),
    },
    additionalProperties: false,
    maxProperties: 3,
  }),
};

/** The value of a write that must fail: what is wrong for the file goes to the kernel as it stands. */
function refusedValue(file: CgroupFile, place: Place): string | undefined {
  const scalar = place.scalar();
  if (scalar === undefined || scalar.kind === "nothing") return place.expected("a value");
  if (file.type !== "size") return scalar.text;
  try {
    return String(parseLimit(scalar.text));
  } catch {
    return scalar.text;
  }
}

const kill: Shape<StepBody> = byForm("a process, or { process | cgroup, signal }", {
  scalar: map(processName, (process): StepBody => ({ do: "kill", process, cgroup: null, signal: "SIGKILL" })),
  map: map(
    object("{ process | cgroup, signal }", {
      process: field(processName, "the process"),
      cgroup: field(cgroupName, "or all processes of a cgroup"),
      signal: field(signal, "the signal", { default: "SIGKILL" }),
    }),
    ({ process, cgroup, signal: given }, place): StepBody | undefined =>
      (process === undefined) === (cgroup === undefined)
        ? place.sound
          ? place.wrong("expected one of process and cgroup")
          : undefined
        : { do: "kill", process: process ?? null, cgroup: cgroup ?? null, signal: given ?? "SIGKILL" },
  ),
});

const move: Shape<StepBody> = map(
  object("{ process, cgroup }", {
    process: field(processName, "the process"),
    cgroup: field(cgroupName, "where it goes"),
  }),
  ({ process, cgroup }, place): StepBody | undefined => {
    if (process !== undefined && cgroup !== undefined) return { do: "move", process, cgroup };
    return place.sound ? place.wrong("expected the keys process and cgroup") : undefined;
  },
);

const reclaim: Shape<StepBody> = map(
  object("{ cgroup, size }", { cgroup: field(cgroupName, "the cgroup"), size: field(someSize, "how much") }),
  ({ cgroup, size: bytes }, place): StepBody | undefined => {
    if (cgroup !== undefined && bytes !== undefined) return { do: "reclaim", cgroup, size: bytes };
    return place.sound ? place.wrong("expected the keys cgroup and size") : undefined;
  },
);

const start: Shape<StepBody> = byForm("a process, or a list of them", {
  scalar: map(processName, (process): StepBody => ({ do: "start", processes: [process] })),
  list: map(list(processName, "a list of processes", { min: 1 }), (names): StepBody => ({
    do: "start",
    processes: names,
  })),
});

const sysrqKey: Shape<string> = rawText("the key of a sysrq such as f", (value) =>
  /^[a-z0-9]$/.test(value) ? undefined : "it is one letter or digit",
);

const STEPS: Record<StepBody["do"], Field<StepBody>> = {
  start: field(start, "starts processes; those that no step starts are started before the first step", {
    example: "hog",
  }),
  sleep: field(
    map(duration, (ms): StepBody => ({ do: "sleep", ms })),
    "waits so long",
    { example: "500ms" },
  ),
  wait: field(wait, "waits until a process has touched its memory or ended, or until counters are reached", {
    example: "{ process: hog, touched: 40Mi, timeout: 5s }",
  }),
  write: field(write, "writes a control file", { example: "{ cgroup: nginx, memory.max: 20Mi, errno: EBUSY }" }),
  kill: field(kill, "sends a signal to a process, or to all of a cgroup", {
    example: "{ process: hog, signal: SIGTERM }",
  }),
  move: field(move, "moves a process to another cgroup", { example: "{ process: hog, cgroup: b }" }),
  reclaim: field(reclaim, "makes the kernel reclaim so much of a cgroup (memory.reclaim)", {
    example: "{ cgroup: a, size: 20Mi }",
  }),
  swapoff: field(
    map(onlyTrue, (): StepBody => ({ do: "swapoff" })),
    "takes all swap away",
    { example: "true" },
  ),
  swapon: field(
    map(onlyTrue, (): StepBody => ({ do: "swapon" })),
    "gives the swap back",
    { example: "true" },
  ),
  sysrq: field(
    map(sysrqKey, (key): StepBody => ({ do: "sysrq", key })),
    "presses a sysrq key; f calls the OOM killer",
    { example: "f" },
  ),
  dropCaches: field(
    map(integer(1, 3), (value): StepBody => ({ do: "dropCaches", value })),
    "drops clean caches (vm.drop_caches)",
    { example: "3" },
  ),
};

export const step: Shape<Step> = {
  expected: "a step such as start: hog",
  read(place) {
    if (!place.isMap) {
      const word = place.scalar()?.text;
      return place.expected(
        step.expected,
        word !== undefined && Object.hasOwn(STEPS, word)
          ? `write it with its value: ${word}: ${STEPS[word as StepBody["do"]].example ?? "..."}`
          : undefined,
      );
    }
    const entries = place.entries();
    const [entry] = entries;
    if (entry === undefined) return place.wrong(`expected ${step.expected}; got an empty mapping`);
    if (entries.length > 1)
      return entries[1]?.at.wrong("expected one key in a step", `begin a step of its own: - ${entries[1].key}: ...`);
    if (!Object.hasOwn(STEPS, entry.key)) return unknownKey(entry.at, entry.key, Object.keys(STEPS));
    const body = STEPS[entry.key as StepBody["do"]].shape.read(entry.value);
    return body === undefined ? undefined : { ...entry.at.position, ...body };
  },
  json: (defs) => ({
    type: "object",
    minProperties: 1,
    maxProperties: 1,
    additionalProperties: false,
    properties: Object.fromEntries(Object.entries(STEPS).map(([key, child]) => [key, fieldSchema(child, defs)])),
  }),
};
