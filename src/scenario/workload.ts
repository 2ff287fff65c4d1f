/** What a process does: the keys `stress`, `node` and `command`. */
import { formatBytes } from "../units.ts";
import { duration, hold, rate, share, size, someSize, someTime, steps } from "./quantities.ts";
import { boolean, byForm, choice, field, integer, list, map, named, object, rawText, record, text } from "./shape.ts";
import type { Field, Shape } from "./shape.ts";
import type { CommandWorkload, MemoryKind, NodeWorkload, Size, StressWorkload } from "./types.ts";

const memoryKinds: Record<MemoryKind, string> = {
  anon: "anonymous private memory",
  shared: "anonymous shared memory (MAP_SHARED)",
  file: "page cache, by reading a file",
  fileWrite: "page cache, by writing a file",
  shmem: "a memfd",
  tmpfs: "a file on tmpfs; it outlives the process",
  shm: "System V shared memory",
  mlock: "anonymous memory locked by mlock",
  hugetlb: "reserved huge pages (hugetlbfs)",
  stack: "the stack",
  brk: "the heap below the program break",
  pipes: "kernel memory, in pipe buffers",
  sockets: "kernel memory, in socket buffers",
  kernelStacks: "kernel memory, in the stacks of threads",
};

/** Kinds that the kernel accounts for when they are mapped, unless asked not to; all others when they are touched. */
export const reservedKinds: readonly MemoryKind[] = ["anon", "shared", "shm", "mlock", "brk"];

const growth = {
  rate: field(rate, "how fast it takes its memory", { default: "as fast as it goes", example: "50Mi/s" }),
  delay: field(duration, "how long it waits before the first byte", { default: "0" }),
  hold: field(hold, "how long it keeps its memory once all is touched", {
    default: "0: it ends with status 0",
    example: "forever",
  }),
};

const memoryFields = Object.fromEntries(
  Object.entries(memoryKinds).map(([kind, about]) => [kind, field(share, about)]),
) as Record<MemoryKind, Field<Size>>;

const stressShape = named(
  "stress",
  "The native worker. The sizes of several kinds are taken one after another, in the order written.",
  object("a mapping such as { anon: 256Mi }", {
    ...memoryFields,
    touch: field(choice("page", "every"), "what is written: the first byte of each page, or every byte", {
      default: "page",
    }),
    stride: field(someSize, "the distance between two touched bytes", { default: "a page" }),
    content: field(
      choice("zero", "pattern", "random"),
      "what is written: it decides how well zswap and zram compress it",
      { default: "zero" },
    ),
    populate: field(boolean(), "whether the kernel fills the pages in one call (MAP_POPULATE)", { default: "false" }),
    hugePages: field(boolean(), "transparent huge pages on or off", { default: "as the system does" }),
    reserve: field(
      boolean(),
      "whether the kernel reserves anon, shared, shm, mlock and brk as they are mapped, and refuses what it cannot have (ENOMEM)",
      { default: "false" },
    ),
    ...growth,
    steps: field(steps, "growth in steps instead of a rate", { example: "12Mi/10s" }),
    retouch: field(someTime, "while it holds: how often it touches all of it again", { default: "never" }),
    repeat: field(integer(1, 1_000_000), "how many times it takes and frees its memory", { default: "1" }),
    workers: field(integer(1, 10_000), "how many processes do this, each with the whole size", { default: "1" }),
    threads: field(integer(1, 10_000), "how many threads share the touching", { default: "1" }),
    shareVm: field(integer(0, 1000), "how many further processes share its memory (CLONE_VM)", { default: "0" }),
    exitMainThread: field(boolean(), "whether the main thread ends first, so that a thread is the victim", {
      default: "false",
    }),
    dir: field(text("a path"), "where its files are made, relative to the scenario's file", {
      default: "a temporary directory on a disk",
    }),
  }),
);

export const stress: Shape<StressWorkload> = map(stressShape, (given, place) => {
  const memory = (Object.keys(given) as (keyof typeof given)[]).flatMap((key) => {
    const taken = key in memoryKinds ? (given[key as MemoryKind] ?? undefined) : undefined;
    return taken === undefined ? [] : [{ kind: key as MemoryKind, size: taken }];
  });
  if (memory.length === 0 && given.hold === undefined && place.sound) {
    return place.wrong(
      "expected a kind of memory and its size, such as anon: 256Mi",
      "a process that only waits: hold: forever",
    );
  }
  if (given.reserve === true && place.sound && !memory.some(({ kind }) => reservedKinds.includes(kind)))
    return place.wrong(`reserve is for ${reservedKinds.join(", ")}: expected one of them beside it`);
  if (given.rate !== undefined && given.steps !== undefined) return place.wrong("rate and steps exclude each other");
  return {
    memory,
    touch: given.touch ?? "page",
    stride: given.stride ?? null,
    content: given.content ?? "zero",
    populate: given.populate ?? false,
    hugePages: given.hugePages ?? null,
    reserve: given.reserve ?? false,
    rate: given.rate ?? null,
    steps: given.steps ?? null,
    delayMs: given.delay ?? 0,
    hold: given.hold ?? 0,
    retouchMs: given.retouch ?? null,
    repeat: given.repeat ?? 1,
    workers: given.workers ?? 1,
    threads: given.threads ?? 1,
    shareVm: given.shareVm ?? 0,
    exitMainThread: given.exitMainThread ?? false,
    dir: given.dir ?? null,
  };
});

const nodeKinds = {
  addon: "memory taken by native code",
  buffers: "Buffers, outside V8's heap",
  heap: "objects on V8's heap",
};
const MIB = 1024 * 1024;

export const node: Shape<NodeWorkload> = map(
  named(
    "node",
    "A Node process that takes memory. V8's own heap limit is no OOM kill.",
    object("a mapping such as { buffers: 256Mi }", {
      addon: field(share, nodeKinds.addon),
      buffers: field(share, nodeKinds.buffers),
      heap: field(share, nodeKinds.heap),
      ...growth,
      maxOldSpaceSize: field(
        map(size, (bytes, place) => {
          if (bytes >= MIB && bytes % MIB === 0) return bytes;
          return place.wrong(
            `expected a size of whole Mi; got ${place.found}`,
            bytes > 0 && bytes < MIB ? `did you mean ${formatBytes(bytes)}Mi?` : undefined,
          );
        }),
        "V8's --max-old-space-size",
        { default: "V8's own", example: "512Mi" },
      ),
    }),
  ),
  (given, place) => {
    const memory = (Object.keys(given) as (keyof typeof given)[]).flatMap((key) => {
      const taken = key === "addon" || key === "buffers" || key === "heap" ? given[key] : undefined;
      return taken === undefined ? [] : [{ kind: key as "addon" | "buffers" | "heap", size: taken }];
    });
    if (memory.length === 0 && given.hold === undefined && place.sound)
      return place.wrong("expected a kind of memory and its size, such as buffers: 256Mi");
    return {
      memory,
      rate: given.rate ?? null,
      delayMs: given.delay ?? 0,
      hold: given.hold ?? 0,
      maxOldSpaceSize: given.maxOldSpaceSize ?? null,
    };
  },
);

const noNul = (value: string): string | undefined =>
  value.includes("\0") ? "no program can be given a NUL byte" : undefined;
const argument = rawText("an argument", noNul);
const shellLine = map(
  text("a command", { check: (value) => (value.trim() === "" ? "the command is empty" : noNul(value)) }),
  (line): CommandWorkload => ({ kind: "command", command: [line], shell: true, env: {}, cwd: null }),
);
const argv = map(
  list(argument, "a program and its arguments", { min: 1 }),
  (command, place): CommandWorkload | undefined =>
    command[0] === ""
      ? place.wrong("the program is empty")
      : { kind: "command", command, shell: false, env: {}, cwd: null },
);
const run = byForm("a command: a string for the shell, or a list", { scalar: shellLine, list: argv });

const env = record(
  "variables such as { PORT: 8080 }",
  ({ key, at, value }): [string, string] | undefined => {
    if (key === "" || /[=\0]/.test(key)) return at.wrong("expected the name of a variable");
    const read = rawText("text", noNul).read(value);
    return read === undefined ? undefined : [key, read];
  },
  () => ({ type: "object", additionalProperties: { type: ["string", "number", "boolean"] } }),
);

export const command: Shape<CommandWorkload> = byForm(
  "a command: a string for the shell, a list, or { run, env, cwd }",
  {
    scalar: shellLine,
    list: argv,
    map: map(
      object("{ run, env, cwd }", {
        run: field(run, "a string for /bin/sh -c, or a list: program and arguments"),
        env: field(env, "variables beside oomlab's own environment"),
        cwd: field(text("a path", { check: noNul }), "its working directory, relative to the scenario's file", {
          default: "the scenario's directory",
        }),
      }),
      (given, place): CommandWorkload | undefined => {
        if (given.run === undefined) return place.sound ? place.wrong("expected the key run") : undefined;
        return { ...given.run, env: Object.fromEntries(given.env ?? []), cwd: given.cwd ?? null };
      },
    ),
  },
);
