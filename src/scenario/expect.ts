/** The key `expect`: what must be true after the run. */
import { counters } from "./counters.ts";
import { SIGNALS } from "./names.ts";
import { someTime } from "./quantities.ts";
import { boolean, choice, didYouMean, field, list, map, object, record, reference, text } from "./shape.ts";
import type { Shape } from "./shape.ts";
import type { Expectations } from "./types.ts";

const exitStatus: Shape<number | string> = {
  expected: "an exit status from 0 to 255, or a signal such as SIGKILL",
  read(place) {
    const scalar = place.scalar();
    if (scalar?.kind === "number" && /^\d{1,3}$/.test(scalar.text) && Number(scalar.text) <= 255)
      return Number(scalar.text);
    if (scalar?.kind === "text" && SIGNALS.includes(scalar.text)) return scalar.text;
    const hint =
      scalar?.kind === "text"
        ? (didYouMean(`SIG${scalar.text.replace(/^sig/i, "").toUpperCase()}`, SIGNALS) ?? undefined)
        : undefined;
    return place.expected(exitStatus.expected, hint);
  },
  json: () => ({ anyOf: [{ type: "integer", minimum: 0, maximum: 255 }, { enum: [...SIGNALS] }] }),
};

const exits = record(
  "exits such as { nginx: SIGKILL }",
  ({ key, at, value }) => {
    at.reader.references.push({ kind: "process", name: key, place: at });
    const exit = exitStatus.read(value);
    return exit === undefined ? undefined : { process: key, exit };
  },
  (defs) => ({ type: "object", additionalProperties: exitStatus.json(defs) }),
);

const pattern: Shape<{ pattern: string }> = map(text("a regular expression"), (source, place) => {
  try {
    "".search(source);
    return { pattern: source };
  } catch (error) {
    return place.wrong(
      `expected a regular expression; got ${place.found}: ${error instanceof Error ? error.message.replace(/^.*?\/u?: /, "") : ""}`,
    );
  }
});

/** The keys of `expect` as they were read. */
export interface Expected {
  oom?: NonNullable<Expectations["oom"]>;
  limit?: string;
  victims?: string[];
  survivors?: string[];
  exit?: Expectations["exit"];
  counters?: Expectations["counters"][];
  log?: Expectations["log"];
  trigger?: NonNullable<Expectations["trigger"]>;
  panic?: boolean;
  within?: number;
  first?: "oom" | "eviction";
  evicted?: string[];
}

export const expectShape: Shape<Expected> = object(
  "expectations such as { oom: memcg, limit: nginx, victims: [nginx] }",
  {
    oom: field(choice("memcg", "global", "cpuset", "mempolicy", "none"), "the kind of the OOM kill, or none"),
    limit: field(reference("cgroup"), "the cgroup whose limit was hit"),
    victims: field(
      list(reference("process"), "a list of processes"),
      "exactly the processes that OOM kills ended; []: none",
      { example: "[nginx]" },
    ),
    survivors: field(
      list(reference("process"), "a list of processes"),
      "processes that are alive at the end, or ended by their own will: status 0, or a step's signal",
      {
        example: "[sidecar]",
      },
    ),
    exit: field(exits, "how processes ended: an exit status, or a signal", { example: "{ nginx: SIGKILL }" }),
    counters: field(counters, "counters of cgroups, file.key, compared", {
      example: '{ nginx: { memory.events.oom_kill: 1, memory.swap.current: ">0" } }',
    }),
    log: field(list(pattern, "a list of regular expressions"), "regular expressions that the kernel log must match", {
      example: '["Killed process"]',
    }),
    trigger: field(choice("allocation", "limit-write", "sysrq"), "what called the OOM killer"),
    panic: field(boolean(), "whether the kernel panics"),
    within: field(someTime, "how soon after the start the (first) OOM kill comes", { example: "5s" }),
    first: field(
      choice("oom", "eviction"),
      "with Pods: what ended the first process, the kernel's kill or the kubelet's decision to evict its Pod",
    ),
    evicted: field(list(reference("pod"), "a list of Pods"), "exactly the Pods that the kubelet evicts; []: none", {
      example: "[web]",
    }),
  },
);
