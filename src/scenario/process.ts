/** The key `processes`. */
import { nameProblem, parseNumberList, RLIMITS } from "./names.ts";
import type { Entry, Place } from "./place.ts";
import { cpus, limit, nodes } from "./quantities.ts";
import {
  byForm,
  choice,
  didYouMean,
  field,
  integer,
  map,
  named,
  object,
  record,
  reference,
  text,
  unknownKey,
} from "./shape.ts";
import type { Read, Shape } from "./shape.ts";
import type { Mempolicy, ProcessSpec, Workload } from "./types.ts";
import { command, node, stress } from "./workload.ts";

const user = byForm("a user's number, or { uid, gid }", {
  scalar: map(integer(0, 2 ** 32 - 2, "a user's number"), (uid) => ({ uid, gid: uid })),
  map: map(
    object("{ uid, gid }", {
      uid: field(integer(0, 2 ** 32 - 2), "the user"),
      gid: field(integer(0, 2 ** 32 - 2), "the group", { default: "the same number" }),
    }),
    ({ uid, gid }, place) =>
      uid !== undefined ? { uid, gid: gid ?? uid } : place.sound ? place.wrong("expected the key uid") : undefined,
  ),
});

const MODES = ["bind", "preferred", "interleave"] as const;
const mempolicy: Shape<Mempolicy> = byForm("a policy such as bind:1", {
  scalar: map(text("a policy such as bind:1"), (value, place): Mempolicy | undefined => {
    const [word = "", numbers = ""] = value.split(":", 2);
    const mode = MODES.find((candidate) => candidate === word);
    const parsed = parseNumberList(numbers);
    if (mode !== undefined && parsed !== undefined) return { mode, nodes: parsed };
    const near =
      mode === undefined ? MODES.find((candidate) => didYouMean(word, [candidate]) !== undefined) : undefined;
    return place.expected(
      "a policy such as bind:1, preferred:0 or interleave:0-1",
      near === undefined ? undefined : `did you mean ${near}:${numbers === "" ? "0" : numbers}?`,
    );
  }),
  map: map(
    object("{ mode, nodes }", {
      mode: field(choice(...MODES), "what the kernel does"),
      nodes: field(nodes, "the NUMA nodes"),
    }),
    ({ mode, nodes: given }, place) => {
      if (mode !== undefined && given !== undefined) return { mode, nodes: given };
      return place.sound ? place.wrong("expected the keys mode and nodes") : undefined;
    },
  ),
});

const rlimits = record(
  "limits such as { AS: 50Mi }",
  ({ key, at, value }) => {
    if (!RLIMITS.includes(key))
      return unknownKey(
        at,
        key,
        RLIMITS,
        key.startsWith("RLIMIT_") && RLIMITS.includes(key.slice(7))
          ? `write it without RLIMIT_: ${key.slice(7)}`
          : undefined,
      );
    const given = limit.read(value);
    return given === undefined ? undefined : { resource: key, value: given === "max" ? -1 : given };
  },
  (defs) => ({
    type: "object",
    properties: Object.fromEntries(RLIMITS.map((name) => [name, limit.json(defs)])),
    additionalProperties: false,
  }),
);

const fields = {
  stress: field(stress, "the native worker, which takes memory of every kind"),
  node: field(node, "a Node process"),
  command: field(command, "any program: a string for the shell, a list, or { run, env, cwd }"),
  oom_score_adj: field(integer(-1000, 1000), "shifts its OOM score; -1000 spares it", { default: "0" }),
  user: field(user, "the user it runs as, by number", { default: "oomlab's own" }),
  cpuset: field(cpus, "the CPUs it may use (its affinity)", { example: "0-1,3" }),
  mempolicy: field(mempolicy, "where its memory comes from (set_mempolicy): bind:1, preferred:0, interleave:0-1"),
  rlimits: field(rlimits, "its resource limits, by setrlimit's names; max is unlimited", { example: "{ AS: 50Mi }" }),
};

const processShape = named(
  "process",
  "A process, with one workload: stress, node or command.",
  object("a process such as { cgroup: nginx, stress: { anon: 256Mi } }", {
    cgroup: field(
      reference("cgroup"),
      "the cgroup it starts in; without it only the machine limits it, so it runs in a VM",
    ),
    ...fields,
  }),
);

/** What presses in a container: a process whose cgroup and oom_score_adj the kubelet gives. */
const containerShape = named(
  "pressure",
  "What presses in a container, with one workload: stress, node or command.",
  object("what presses, such as { stress: { anon: 256Mi } }", fields),
);

export const pressureShape: Shape<Omit<ProcessSpec, "name" | "cgroup">> = map(containerShape, (given, place) => {
  const work = workload(given, place);
  return work === undefined ? undefined : { ...common(given), workload: work, ...place.position };
});

const common = (
  given: Omit<Read<typeof processShape>, "cgroup">,
): Pick<ProcessSpec, "oomScoreAdj" | "user" | "cpus" | "mempolicy" | "rlimits" | "start"> => ({
  oomScoreAdj: given.oom_score_adj ?? null,
  user: given.user ?? null,
  cpus: given.cpuset ?? null,
  mempolicy: given.mempolicy ?? null,
  rlimits: given.rlimits ?? [],
  start: "auto",
});

function workload(given: Omit<Read<typeof processShape>, "cgroup">, at: Place): Workload | undefined {
  const named: Workload[] = [];
  if (given.stress !== undefined) named.push({ kind: "stress", stress: given.stress });
  if (given.node !== undefined) named.push({ kind: "node", node: given.node });
  if (given.command !== undefined) named.push(given.command);
  if (named.length > 1)
    return at.wrong(`expected one of stress, node and command; got ${named.map(({ kind }) => kind).join(" and ")}`);
  // A workload that was wrong has been told already.
  if (named.length === 0 && at.sound)
    at.wrong("expected a workload: one of stress, node and command", "such as stress: { anon: 256Mi }");
  return named[0];
}

export const processes: Shape<ProcessSpec[]> = map(
  record(
    "processes such as { nginx: { cgroup: nginx, stress: { anon: 256Mi } } }",
    ({ key, at, value }: Entry): ProcessSpec | undefined => {
      const problem = nameProblem(key) ?? (key.includes("/") ? "a name with / is a container of a Pod" : undefined);
      at.reader.names.process.add(key);
      if (problem !== undefined) return at.wrong(`expected the name of a process: ${problem}`);
      const given = processShape.read(value);
      const work = given === undefined ? undefined : workload(given, at);
      if (given === undefined || work === undefined) return undefined;
      return {
        name: key,
        cgroup: given.cgroup ?? null,
        workload: work,
        ...common(given),
        ...at.position,
      };
    },
    (defs) => ({
      type: "object",
      minProperties: 1,
      propertyNames: { minLength: 1, pattern: "^[^/]+$" },
      additionalProperties: processShape.json(defs),
    }),
  ),
  (all, place) => (place.entries().length === 0 ? place.wrong("expected at least one process") : all),
);
