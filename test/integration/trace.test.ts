/** The fourth witness on this machine's kernel: signals to own processes, one memcg limit, no global OOM. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { cleanTraces, openTrace, type Trace, type TraceEvent, traceProblem } from "../../src/engine/trace.ts";
import { loadAddon } from "../../src/native.ts";
import { parseRecords, type RunEvent } from "../../src/record.ts";
import { eventually, oomlab, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const addon = loadAddon();
const able = needs({ root: process.getuid?.() === 0, tracefs: traceProblem(addon) === null });
const folder = mkdtempSync(join(tmpdir(), "oomlab-test-trace-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Instances of oomlabs, by a mount of this process's own. */
function instances(): string[] {
  const fd = addon.mountDetached("tracefs");
  return readdirSync(`/proc/self/fd/${fd}/instances`);
}

let count = 0;
const name = (): string => `oomlab-t${process.pid}x${count++}`;

async function dead(signal: NodeJS.Signals, kill: (pid: number) => unknown): Promise<number> {
  const child = spawn("sleep", ["60"], { stdio: "ignore" });
  await once(child, "spawn");
  const ended = once(child, "exit");
  kill(child.pid ?? 0);
  expect(await ended).toEqual([null, signal]);
  return child.pid ?? 0;
}

const to = (events: readonly TraceEvent[], pid: number): TraceEvent[] =>
  events.filter((event) => event.type === "trace-signal" && event.pid === pid);

describe("a trace", able, () => {
  test("names who sent a SIGKILL or a SIGTERM, and is gone once it is closed", async () => {
    const trace = await openTrace(addon, name());
    const killer = (signal: string, pid: number): unknown => spawn("/bin/kill", [signal, String(pid)]);
    const killed = await dead("SIGKILL", (pid) => killer("-9", pid));
    const ended = await dead("SIGTERM", (pid) => killer("-15", pid));
    const own = await dead("SIGKILL", (pid) => process.kill(pid, 9));
    const events = [...trace.drain(), ...(await trace.close())];
    expect(to(events, killed)).toMatchObject([{ signal: "SIGKILL", code: 0, comm: "sleep", sender: { comm: "kill" } }]);
    expect(to(events, ended)).toMatchObject([{ signal: "SIGTERM", code: 0, comm: "sleep", sender: { comm: "kill" } }]);
    expect(to(events, own)).toMatchObject([{ signal: "SIGKILL", sender: { pid: process.pid } }]);
    expect(instances().filter((instance) => instance.startsWith(`oomlab-t${process.pid}`))).toEqual([]);
  });

  test("has each of 200 kills in two seconds", async () => {
    const trace = await openTrace(addon, name());
    const events: TraceEvent[] = [];
    const sampler = setInterval(() => events.push(...trace.drain()), 50);
    const killed: number[] = [];
    const script = "i=0; while [ $i -lt 200 ]; do sleep 60 & echo $!; kill -9 $!; i=$((i+1)); done";
    const shell = spawn("sh", ["-c", script], { stdio: ["ignore", "pipe", "ignore"] });
    let output = "";
    shell.stdout.on("data", (chunk) => (output += String(chunk)));
    await once(shell, "close");
    clearInterval(sampler);
    killed.push(...output.trim().split("\n").map(Number));
    events.push(...trace.drain(), ...(await trace.close()));
    expect(killed).toHaveLength(200);
    expect(events.filter(({ type }) => type === "trace-lost")).toEqual([]);
    for (const pid of killed) expect(to(events, pid)).toMatchObject([{ sender: { pid: shell.pid, comm: "sh" } }]);
  });

  test("two do not disturb each other, and `clean` takes neither while they live", async () => {
    const names = [name(), name()];
    const traces: Trace[] = [];
    for (const one of names) traces.push(await openTrace(addon, one));
    const { removed } = await cleanTraces(addon);
    expect(removed.filter((path) => names.some((one) => path.endsWith(one)))).toEqual([]);
    const pid = await dead("SIGKILL", (victim) => process.kill(victim, 9));
    for (const trace of traces) expect(to(await trace.close(), pid)).toHaveLength(1);
  });
});

const scenario = (one: string, processes: string): string => `name: ${one}
cgroups: { app: { memory.max: 64Mi, memory.swap.max: 0 } }
processes: ${processes}
expect: { oom: none }
`;

async function recordOf(yaml: string): Promise<RunEvent[]> {
  const file = join(folder, "one.yaml");
  const output = join(folder, `records-${count++}`);
  writeFileSync(file, yaml);
  await oomlab(["run", "--machine", "host", "--output", output, file]);
  const [record = ""] = readdirSync(output);
  return parseRecords(readFileSync(join(output, record), "utf8"), record)[0] ?? [];
}

describe("a run", able, () => {
  test("has the sender of a SIGKILL in its record, and the OOM killer's victim", async () => {
    const killed = await recordOf(scenario("killed", "{ app: { cgroup: app, command: [sh, -c, 'kill -9 $$'] } }"));
    const exit = killed.find((event) => event.type === "process-exit");
    expect(killed).toContainEqual(
      expect.objectContaining({
        type: "trace-signal",
        signal: "SIGKILL",
        code: 0,
        pid: exit?.pid,
        sender: { pid: exit?.pid, comm: "sh", unit: null },
      }),
    );
    const over = await recordOf(scenario("over", "{ app: { cgroup: app, stress: { anon: 96Mi } } }"));
    const victim = over.find((event) => event.type === "process-exit");
    expect(over).toContainEqual(expect.objectContaining({ type: "trace-victim", pid: victim?.pid }));
  });

  test("that is killed leaves an instance, which `oomlab clean` removes", async () => {
    const file = join(folder, "long.yaml");
    writeFileSync(file, scenario("long", "{ app: { cgroup: app, command: [sleep, '60'] } }"));
    const before = new Set(instances());
    const run = start(["run", "--machine", "host", file]);
    await eventually(() => instances().some((instance) => !before.has(instance)), "an instance of the run");
    run.kill("SIGKILL");
    await run.ended;
    await oomlab(["clean"]);
    expect(instances().filter((instance) => !before.has(instance) && instance.startsWith("oomlab-"))).toEqual([]);
  });
});

test("watch --signals tells each SIGKILL with its sender", able, async () => {
  const watching = start(["watch", "--signals", "--reporter", "ndjson"]);
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const pid = await dead("SIGKILL", (victim) => process.kill(victim, 9));
  await new Promise((resolve) => setTimeout(resolve, 500));
  watching.kill("SIGINT");
  const { stdout } = await watching.ended;
  const told = stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { pid?: number })
    .filter((line) => line.pid === pid);
  expect(told).toMatchObject([{ signal: "SIGKILL", pid, comm: "sleep", by: { kind: "process", pid: process.pid } }]);
});
