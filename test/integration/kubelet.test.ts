/** The kubelet's shell over a tree of plain files and real processes: what it reads, does and tells, in order. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import { type KubeletHost, type RunningKubelet, startKubelet } from "../../src/engine/kubelet.ts";
import { parseThresholds } from "../../src/kubernetes/eviction-thresholds.ts";
import type { PlannedKubelet, PlannedPod } from "../../src/kubernetes/kubelet-plan.ts";
import { loadAddon } from "../../src/native.ts";
import type { RunEventBody } from "../../src/record.ts";

const Mi = 1048576;
const memTotal = Number(/^MemTotal:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "latin1"))?.[1]) * 1024;

const thresholds = (settings: Parameters<typeof parseThresholds>[0]): PlannedKubelet["config"]["thresholds"] =>
  parseThresholds(settings, 36).thresholds;

const pod = (name: string, containers: string[] = ["app"], priority: number | null = null): PlannedPod => ({
  name,
  cgroup: name,
  priority,
  static: false,
  request: 0,
  podRequest: null,
  terminationGracePeriodSeconds: 30,
  containers: containers.map((container) => ({
    name: container,
    init: false,
    sidecar: false,
    request: null,
    cgroup: `${name}/${container}`,
    process: `${name}/${container}`,
  })),
  volumes: [],
});

/** A node of plain files. Processes vanish from them when they end. */
class Node {
  readonly root: string = mkdtempSync(join(tmpdir(), "oomlab-kubelet-"));
  readonly events: RunEventBody[] = [];
  readonly #children = new Map<string, ChildProcess>();
  readonly #ended = new Set<string>();
  readonly #over = new AbortController();
  kubelet: RunningKubelet | null = null;
  readonly #version: 1 | 2;

  constructor(version: 1 | 2 = 2) {
    this.#version = version;
  }

  /** The root's memory, so that so much is available. */
  available(bytes: number): void {
    const used = memTotal - bytes;
    if (this.#version === 2)
      writeFileSync(join(this.root, "memory.stat"), `anon ${used}\nfile 4096\ninactive_file 4096\n`);
    else {
      writeFileSync(join(this.root, "memory.stat"), "total_inactive_file 4096\n");
      writeFileSync(join(this.root, "memory.usage_in_bytes"), `${used + 4096}\n`);
    }
  }

  use(cgroup: string, bytes: number): void {
    const directory = join(this.root, cgroup);
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, this.#version === 2 ? "memory.current" : "memory.usage_in_bytes"), `${bytes}\n`);
    writeFileSync(join(directory, "memory.stat"), "");
    writeFileSync(join(directory, "cgroup.procs"), "");
  }

  async process(name: string, script: string): Promise<void> {
    this.use(name, 0);
    const child = spawn("/bin/sh", ["-c", script], { stdio: ["ignore", "pipe", "ignore"] });
    this.#children.set(name, child);
    writeFileSync(join(this.root, name, "cgroup.procs"), `${child.pid}\n`);
    child.on("exit", (code, signal) => {
      this.#ended.add(name);
      writeFileSync(join(this.root, name, "cgroup.procs"), "");
      this.events.push({
        type: "process-exit",
        process: name,
        pid: child.pid ?? 0,
        code,
        signal,
        coreDumped: false,
        userUs: 0,
        systemUs: 0,
      });
    });
    await new Promise((resolve) => child.stdout.once("data", resolve));
  }

  start(pods: PlannedPod[], config: Partial<PlannedKubelet["config"]> = {}): RunningKubelet {
    this.use("kubepods", 0);
    for (const { cgroup } of pods) this.use(cgroup, Mi);
    const host: KubeletHost = {
      addon: loadAddon(),
      version: this.#version,
      root: this.root,
      directory: (cgroup) => join(this.root, cgroup),
      emit: (event) => this.events.push(event),
      drainLog: () => undefined,
      pathOf: () => null,
      pidOf: (name) => (this.#ended.has(name) ? null : (this.#children.get(name)?.pid ?? null)),
      nameOf: (pid) => [...this.#children].find(([, child]) => child.pid === pid)?.[0] ?? null,
      hasEnded: (name) => this.#ended.has(name),
      signal: (pid, number) => process.kill(pid, number),
      until: async (holds, ms) => {
        const deadline = performance.now() + ms;
        while (!holds()) {
          if (this.#over.signal.aborted || performance.now() >= deadline) return false;
          await sleep(5);
        }
        return true;
      },
      sysctl: null,
      seed: "a test",
    };
    this.kubelet = startKubelet(
      {
        config: {
          minor: 36,
          thresholds: thresholds({ enforceNodeAllocatable: [] }),
          maxPodGracePeriodSeconds: 0,
          pressureTransitionPeriodMs: 300_000,
          memcgNotification: false,
          ...config,
        },
        kubepods: "kubepods",
        pods,
      },
      host,
    );
    return this.kubelet;
  }

  /** What the kubelet did, in order. */
  did(): string[] {
    return this.events.flatMap((event) => {
      if (event.type === "kubelet") return [event.did === "evict" ? `evict ${event.eviction.pod}` : event.did];
      if (event.type === "kill") return [`${event.signal} ${event.process}`];
      return event.type === "process-exit" ? [`${event.process} ended with ${event.signal ?? event.code}`] : [];
    });
  }

  async until(holds: () => boolean): Promise<void> {
    for (const deadline = performance.now() + 8_000; !holds() && performance.now() < deadline;) await sleep(10);
  }

  close(): void {
    this.kubelet?.stop();
    this.#over.abort();
    for (const child of this.#children.values()) {
      child.removeAllListeners("exit");
      child.kill("SIGKILL");
    }
    rmSync(this.root, { recursive: true, force: true });
  }
}

let node: Node;
afterEach(() => node.close());

const patient = "echo ready; exec sleep 60";
const obedient = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";

describe.each([1, 2] as const)("on cgroup v%i", (version) => {
  test("a node that is short of memory: one Pod is evicted, and the next pass comes at once when it is gone", async () => {
    node = new Node(version);
    node.available(50 * Mi);
    await node.process("hog/app", patient);
    await node.process("other/app", patient);
    const kubelet = node.start([pod("other", ["app"], 10), pod("hog")], {
      minor: version === 1 ? 20 : 36,
    });
    expect(kubelet.isQuiet()).toBe(false);
    await node.until(() => node.did().includes("killed"));
    node.available(500 * Mi);
    await node.until(() => node.did().filter((did) => did === "pass").length === 2);
    expect(node.did()).toEqual([
      "start",
      "pass",
      "condition",
      "threshold-met",
      "evict hog",
      "SIGKILL hog/app",
      "hog/app ended with SIGKILL",
      "killed",
      "cleaned-up",
      "pass",
    ]);
    expect(kubelet.isQuiet()).toBe(true);
    expect([kubelet.hasEvicted("hog/app"), kubelet.hasEvicted("other/app")]).toEqual([true, false]);
    const pass = node.events.find((event) => event.type === "kubelet" && event.did === "pass");
    expect(pass).toMatchObject({
      by: "poll",
      signals: [{ signal: "memory.available", available: 50 * Mi, capacity: memTotal }],
      met: ["memory.available"],
      due: ["memory.available"],
    });
  });
});

test("SIGTERM reaches who has a handler for it; the others are pid 1 in their container and see nothing of it", async () => {
  node = new Node();
  node.available(50 * Mi);
  await node.process("hog/deaf", patient);
  await node.process("hog/kind", obedient);
  node.start([pod("hog", ["deaf", "kind"])]);
  await node.until(() => node.did().includes("killed"));
  expect(node.did().slice(4)).toEqual([
    "evict hog",
    "SIGTERM hog/kind",
    "hog/kind ended with 0",
    "SIGKILL hog/deaf",
    "hog/deaf ended with SIGKILL",
    "killed",
  ]);
  const killed = node.events.find((event) => event.type === "kubelet" && event.did === "killed");
  expect(killed).toMatchObject({ pod: "hog", timedOut: false });
  // The grace of one second was given.
  expect(killed && "ms" in killed && killed.ms).toBeGreaterThanOrEqual(1_000);
});

test("a soft threshold keeps the run waiting while its grace runs", async () => {
  node = new Node();
  node.available(50 * Mi);
  await node.process("hog/app", patient);
  const kubelet = node.start([pod("hog")], {
    thresholds: thresholds({
      evictionHard: {},
      evictionSoft: { "memory.available": "100Mi" },
      evictionSoftGracePeriod: { "memory.available": "30s" },
    }),
  });
  expect(kubelet.isQuiet()).toBe(false);
  node.available(500 * Mi);
  await sleep(300);
  expect(kubelet.isQuiet()).toBe(true);
});

test("where all Pods are critical it has said so, and nothing more is waited for", async () => {
  node = new Node();
  node.available(50 * Mi);
  await node.process("critical/app", patient);
  const kubelet = node.start([pod("critical", ["app"], 2_000_000_000)]);
  expect(node.did()).toEqual(["start", "pass", "condition", "threshold-met"]);
  expect(node.events[1]).toMatchObject({ log: "unable to evict any pods from the node" });
  expect(kubelet.isQuiet()).toBe(true);
});

test("a Pod whose processes are over is no candidate", async () => {
  node = new Node();
  node.available(50 * Mi);
  await node.process("over/app", "echo ready; exit 0");
  await node.until(() => node.did().includes("over/app ended with 0"));
  const kubelet = node.start([pod("over")]);
  expect(node.did()).toContain("threshold-met");
  expect(node.did()).not.toContain("evict over");
  expect(kubelet.isQuiet()).toBe(true);
});

test("the limit of all Pods makes the second signal, and none does not", () => {
  node = new Node();
  node.available(500 * Mi);
  node.use("kubepods", 0);
  writeFileSync(join(node.root, "kubepods/memory.max"), "max\n");
  node.start([], { thresholds: thresholds({}) });
  const signals = (): unknown =>
    node.events.flatMap((event) =>
      event.type === "kubelet" && event.did === "pass" ? event.signals.map(({ signal }) => signal) : [],
    );
  expect(signals()).toEqual(["memory.available"]);
  node.kubelet?.stop();
  writeFileSync(join(node.root, "kubepods/memory.max"), `${200 * Mi}\n`);
  node.events.length = 0;
  node.start([], { thresholds: thresholds({}) });
  expect(signals()).toEqual(["memory.available", "allocatableMemory.available"]);
  expect(node.events[0]).toMatchObject({ did: "start", capacity: memTotal, kubepodsLimit: 200 * Mi });
});
