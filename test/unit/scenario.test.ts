import { describe, expect, test } from "vitest";
import { parseScenarios } from "../../src/scenario/index.ts";
import type { Scenario } from "../../src/scenario/index.ts";

function read(yaml: string): Scenario {
  const [scenario, ...others] = parseScenarios(yaml, "test.yaml");
  if (scenario === undefined || others.length > 0) throw new Error(`${others.length + 1} scenarios`);
  return scenario;
}

/** A scenario around one process, written as flow YAML. */
const withProcess = (process: string): Scenario["processes"][number] | undefined =>
  read(`cgroups: { app: }\nprocesses: { hog: ${process} }`).processes[0];

const withSteps = (...steps: string[]): Scenario =>
  read(
    `cgroups: { app:, b: }\nprocesses: { hog: { stress: { anon: 1Mi } }, idle: { stress: { anon: 1Mi } } }\nsteps:\n${steps.map((step) => `  - ${step}\n`).join("")}`,
  );

const withExpect = (expectations: string): Scenario["expect"] =>
  read(`cgroups: { app: }\nprocesses: { hog: { stress: { anon: 1Mi } } }\nexpect: ${expectations}`).expect;

const withMachine = (machine: string): Scenario["machine"] =>
  read(`processes: { hog: { stress: { anon: 1Mi } } }\nmachine: ${machine}`).machine;

describe("a scenario", () => {
  test("is read with its quantities as numbers and its places", () => {
    const scenario = read(`# yaml-language-server: $schema=...
name: a container over its 200Mi limit, no swap
cgroups:
  nginx: { memory.max: 200Mi, memory.swap.max: 0 }
processes:
  nginx: { cgroup: nginx, stress: { anon: 256Mi } }
expect:
  oom: memcg
  limit: nginx
  victims: [nginx]
`);
    expect(scenario).toMatchInlineSnapshot(`
      {
        "cgroups": [
          {
            "column": 3,
            "files": [
              {
                "column": 12,
                "file": "memory.max",
                "line": 4,
                "raw": "200Mi",
                "value": "209715200",
              },
              {
                "column": 31,
                "file": "memory.swap.max",
                "line": 4,
                "raw": "0",
                "value": "0",
              },
            ],
            "line": 4,
            "name": "nginx",
          },
        ],
        "expect": {
          "counters": [],
          "exit": [],
          "limit": "nginx",
          "log": [],
          "oom": "memcg",
          "panic": null,
          "survivors": null,
          "trigger": null,
          "victims": [
            "nginx",
          ],
          "where": {
            "limit": {
              "column": 10,
              "line": 9,
            },
            "oom": {
              "column": 8,
              "line": 8,
            },
            "victims": {
              "column": 12,
              "line": 10,
            },
            "victims[0]": {
              "column": 13,
              "line": 10,
            },
          },
          "withinMs": null,
        },
        "file": "test.yaml",
        "line": 2,
        "machine": {
          "available": null,
          "cgroup": null,
          "cpus": null,
          "kernel": null,
          "memory": null,
          "mountOptions": [],
          "numa": null,
          "swap": null,
          "sysctl": {},
          "thp": null,
          "zswap": null,
        },
        "name": "a container over its 200Mi limit, no swap",
        "processes": [
          {
            "cgroup": "nginx",
            "column": 3,
            "cpus": null,
            "line": 6,
            "mempolicy": null,
            "name": "nginx",
            "oomScoreAdj": null,
            "rlimits": [],
            "start": "auto",
            "user": null,
            "workload": {
              "kind": "stress",
              "stress": {
                "content": "zero",
                "delayMs": 0,
                "dir": null,
                "exitMainThread": false,
                "hold": 0,
                "hugePages": null,
                "memory": [
                  {
                    "kind": "anon",
                    "size": {
                      "bytes": 268435456,
                    },
                  },
                ],
                "populate": false,
                "rate": null,
                "repeat": 1,
                "reserve": false,
                "retouchMs": null,
                "shareVm": 0,
                "steps": null,
                "stride": null,
                "threads": 1,
                "touch": "page",
                "workers": 1,
              },
            },
          },
        ],
        "steps": [],
        "tags": [],
        "timeoutMs": null,
      }
    `);
  });

  test("is named after its file where it has no name", () => {
    const yaml = "processes: { hog: { stress: { anon: 1Mi } } }";
    const names = ["scenarios/a b.yaml", "x.yml", "/tmp/j.JSON", "-", "dir.d\\w.yaml"];
    expect(names.map((file) => parseScenarios(yaml, file)[0]?.name)).toEqual(["a b", "x", "j", "stdin", "w"]);
  });

  test("may stand beside others in one file, each with its line", () => {
    const scenarios = parseScenarios(
      "---\nname: a\nprocesses: { p: { command: x } }\n---\n# nothing\n---\nname: b\nprocesses: { p: { command: x } }\n",
      "two.yaml",
    );
    expect(scenarios.map(({ name, line }) => [name, line])).toEqual([
      ["a", 2],
      ["b", 7],
    ]);
  });

  test("may be JSON, may begin with a byte order mark, may have CRLF line ends", () => {
    expect(read('{ "name": "j", "processes": { "hog": { "stress": { "anon": 1048576 } } } }').name).toBe("j");
    expect(read("\ufeffname: b\r\nprocesses:\r\n  hog: { command: x }\r\n")).toMatchObject({
      name: "b",
      line: 1,
      processes: [{ name: "hog", line: 3, column: 3 }],
    });
  });

  test("keeps what it says of itself", () => {
    const scenario = read("description: why\ntags: [swap, v2]\ntimeout: 2m\nprocesses: { hog: { command: x } }");
    expect(scenario).toMatchObject({ description: "why", tags: ["swap", "v2"], timeoutMs: 120_000 });
  });

  test("may repeat a part by an alias", () => {
    const { cgroups } = read(
      "cgroups: { a: &limits { memory.max: 1Mi }, b: *limits }\nprocesses: { p: { command: x } }",
    );
    expect(cgroups.map(({ name, files }) => [name, files[0]?.value])).toEqual([
      ["a", "1048576"],
      ["b", "1048576"],
    ]);
  });
});

describe("cgroups", () => {
  const files = (yaml: string): string[] =>
    read(`cgroups: { app: ${yaml} }\nprocesses: { p: { command: x } }`).cgroups[0]?.files.map(
      ({ file, value, raw }) => `${file}=${value} (${raw})`,
    ) ?? [];

  test("have the kernel's files, sizes in bytes, in the order written", () => {
    expect(files("{ memory.swap.max: max, memory.max: 200Mi, memory.high: 1e6, memory.low: 0 }")).toEqual([
      "memory.swap.max=max (max)",
      "memory.max=209715200 (200Mi)",
      "memory.high=1000000 (1e6)",
      "memory.low=0 (0)",
    ]);
  });

  test("take every kind of value as the kernel takes it", () => {
    expect(
      files(
        '{ memory.oom.group: true, cgroup.max.depth: max, cpuset.cpus: "0-1,3", cpuset.mems: 0, cgroup.type: threaded, cgroup.subtree_control: +memory }',
      ),
    ).toEqual([
      "memory.oom.group=1 (true)",
      "cgroup.max.depth=max (max)",
      "cpuset.cpus=0-1,3 (0-1,3)",
      "cpuset.mems=0 (0)",
      "cgroup.type=threaded (threaded)",
      "cgroup.subtree_control=+memory (+memory)",
    ]);
  });

  test("of v1's own names are unlimited by -1", () => {
    expect(
      files(
        "{ memory.limit_in_bytes: 30Mi, memory.memsw.limit_in_bytes: max, memory.soft_limit_in_bytes: -1, memory.oom_control: 1, memory.swappiness: 0 }",
      ),
    ).toEqual([
      "memory.limit_in_bytes=31457280 (30Mi)",
      "memory.memsw.limit_in_bytes=-1 (max)",
      "memory.soft_limit_in_bytes=-1 (-1)",
      "memory.oom_control=1 (1)",
      "memory.swappiness=0 (0)",
    ]);
  });

  test("come with their parents, before them, listed or not", () => {
    const { cgroups } = read(
      "cgroups: { a/b/c: , x: {}, a: { memory.max: 1Mi } }\nprocesses: { p: { cgroup: a/b, command: x } }",
    );
    expect(cgroups.map(({ name, files: { length } }) => [name, length])).toEqual([
      ["a", 1],
      ["a/b", 0],
      ["a/b/c", 0],
      ["x", 0],
    ]);
  });
});

describe("processes", () => {
  test("press with several kinds of memory in the order written", () => {
    const process = withProcess("{ stress: { file: 10Mi, anon: 50%, kernelStacks: 1Mi, hold: forever } }");
    expect(process?.workload).toMatchObject({
      kind: "stress",
      stress: {
        memory: [
          { kind: "file", size: { bytes: 10_485_760 } },
          { kind: "anon", size: { percent: 50 } },
          { kind: "kernelStacks", size: { bytes: 1_048_576 } },
        ],
        hold: "forever",
      },
    });
  });

  test("have every setting of the native worker", () => {
    const process = withProcess(
      "{ stress: { anon: 256Mi, touch: every, stride: 64, content: random, populate: true, hugePages: false, reserve: true, rate: 50Mi/s, delay: 1s, hold: 500ms, retouch: 1m, repeat: 2, workers: 3, threads: 4, shareVm: 1, exitMainThread: true, dir: /var/tmp } }",
    );
    expect(process?.workload).toEqual({
      kind: "stress",
      stress: {
        memory: [{ kind: "anon", size: { bytes: 268_435_456 } }],
        touch: "every",
        stride: 64,
        content: "random",
        populate: true,
        hugePages: false,
        reserve: true,
        rate: 52_428_800,
        steps: null,
        delayMs: 1000,
        hold: 500,
        retouchMs: 60_000,
        repeat: 2,
        workers: 3,
        threads: 4,
        shareVm: 1,
        exitMainThread: true,
        dir: "/var/tmp",
      },
    });
    expect(withProcess("{ stress: { anon: 1Mi, steps: 12Mi/10s } }")?.workload).toMatchObject({
      stress: { steps: { size: 12_582_912, everyMs: 10_000 }, rate: null },
    });
  });

  test("may only wait", () => {
    expect(withProcess("{ stress: { hold: forever } }")?.workload).toMatchObject({
      stress: { memory: [], hold: "forever" },
    });
  });

  test("may be Node", () => {
    expect(withProcess("{ node: { heap: 1Gi, buffers: 25%, rate: 1Mi/s, maxOldSpaceSize: 512Mi } }")?.workload).toEqual(
      {
        kind: "node",
        node: {
          memory: [
            { kind: "heap", size: { bytes: 2 ** 30 } },
            { kind: "buffers", size: { percent: 25 } },
          ],
          rate: 1_048_576,
          delayMs: 0,
          hold: 0,
          maxOldSpaceSize: 536_870_912,
        },
      },
    );
  });

  test.each([
    ["[dd, bs=20M, 5]", { command: ["dd", "bs=20M", "5"], shell: false }],
    ["'tail /dev/zero'", { command: ["tail /dev/zero"], shell: true }],
    [
      "{ run: [x], env: { PORT: 8080, V: 6.10 }, cwd: .. }",
      { command: ["x"], shell: false, env: { PORT: "8080", V: "6.10" }, cwd: ".." },
    ],
    ["{ run: 'a | b' }", { command: ["a | b"], shell: true }],
  ])("may be any command: %s", (command, expected) => {
    expect(withProcess(`{ command: ${command} }`)?.workload).toEqual({
      kind: "command",
      env: {},
      cwd: null,
      ...expected,
    });
  });

  test("say where and as whom they run", () => {
    expect(
      withProcess(
        "{ cgroup: app, command: x, oom_score_adj: -500, user: 1000, cpuset: '0-1,3', mempolicy: 'bind:1', rlimits: { AS: 50Mi, MEMLOCK: max } }",
      ),
    ).toMatchObject({
      cgroup: "app",
      oomScoreAdj: -500,
      user: { uid: 1000, gid: 1000 },
      cpus: [0, 1, 3],
      mempolicy: { mode: "bind", nodes: [1] },
      rlimits: [
        { resource: "AS", value: 52_428_800 },
        { resource: "MEMLOCK", value: -1 },
      ],
    });
    expect(
      withProcess(
        "{ command: x, user: { uid: 1, gid: 2 }, cpuset: [3, 0], mempolicy: { mode: interleave, nodes: 0-1 } }",
      ),
    ).toMatchObject({
      user: { uid: 1, gid: 2 },
      cpus: [0, 3],
      mempolicy: { mode: "interleave", nodes: [0, 1] },
    });
  });
});

describe("the machine", () => {
  test("has no needs where none are stated", () => {
    expect(Object.values(read("processes: { p: { command: x } }").machine).flat()).toEqual([
      null,
      null,
      null,
      null,
      null,
      null,
      {},
      null,
      null,
      null,
    ]);
  });

  test("is described in every way", () => {
    expect(
      withMachine(
        "{ memory: 2Gi, swap: 512Mi, cpus: 2, numa: [1Gi, 1Gi], kernel: 6.10, cgroup: v1, sysctl: { vm.panic_on_oom: 1, vm/swappiness: '0' }, thp: never, zswap: true, mountOptions: [memory_recursiveprot], available: 8Gi }",
      ),
    ).toEqual({
      memory: 2 ** 31,
      swap: { size: 2 ** 29, kind: "disk" },
      cpus: 2,
      numa: [2 ** 30, 2 ** 30],
      kernel: "6.10",
      cgroup: 1,
      sysctl: { "vm.panic_on_oom": "1", "vm/swappiness": "0" },
      thp: "never",
      zswap: true,
      mountOptions: ["memory_recursiveprot"],
      available: 2 ** 33,
    });
    expect(withMachine("{ swap: { size: 1Gi, kind: zram }, cgroup: 2 }")).toMatchObject({
      swap: { size: 2 ** 30, kind: "zram" },
      cgroup: 2,
    });
    expect(withMachine("{ swap: 0 }").swap).toEqual({ size: 0, kind: "disk" });
  });
});

describe("steps", () => {
  test.each([
    ["start: hog", { do: "start", processes: ["hog"] }],
    ["start: [hog, idle]", { do: "start", processes: ["hog", "idle"] }],
    ["sleep: 500ms", { do: "sleep", ms: 500 }],
    [
      "wait: { process: hog, touched: 40Mi, timeout: 5s }",
      { do: "wait", until: { of: "process", process: "hog", state: "touched", touched: 41_943_040 }, timeoutMs: 5000 },
    ],
    [
      "wait: { process: hog, touched: true }",
      { do: "wait", until: { of: "process", process: "hog", state: "touched", touched: null }, timeoutMs: 30_000 },
    ],
    [
      "wait: { process: hog, exited: true }",
      { do: "wait", until: { of: "process", process: "hog", state: "exited", touched: null }, timeoutMs: 30_000 },
    ],
    [
      'wait: { cgroup: app, memory.current: ">=40Mi", memory.events.oom_kill: 1 }',
      {
        do: "wait",
        until: {
          of: "counters",
          cgroup: "app",
          counters: [
            { key: "memory.current", compare: { op: ">=", value: 41_943_040, text: ">=40Mi" } },
            { key: "memory.events.oom_kill", compare: { op: "==", value: 1, text: "1" } },
          ],
        },
        timeoutMs: 30_000,
      },
    ],
    [
      "write: { cgroup: app, memory.max: 20Mi, errno: EBUSY }",
      { do: "write", cgroup: "app", file: "memory.max", value: "20971520", errno: "EBUSY" },
    ],
    [
      "write: { memory.force_empty: 0, cgroup: app }",
      { do: "write", cgroup: "app", file: "memory.force_empty", value: "0", errno: null },
    ],
    [
      "write: { cgroup: app, memory.limit_in_bytes: 1xx, errno: EINVAL }",
      { do: "write", cgroup: "app", file: "memory.limit_in_bytes", value: "1xx", errno: "EINVAL" },
    ],
    ["kill: hog", { do: "kill", process: "hog", cgroup: null, signal: "SIGKILL" }],
    ["kill: { process: hog, signal: SIGTERM }", { do: "kill", process: "hog", cgroup: null, signal: "SIGTERM" }],
    ["kill: { cgroup: app }", { do: "kill", process: null, cgroup: "app", signal: "SIGKILL" }],
    ["move: { process: hog, cgroup: b }", { do: "move", process: "hog", cgroup: "b" }],
    ["reclaim: { cgroup: app, size: 20Mi }", { do: "reclaim", cgroup: "app", size: 20_971_520 }],
    ["swapoff: true", { do: "swapoff" }],
    ["swapon: true", { do: "swapon" }],
    ["sysrq: f", { do: "sysrq", key: "f" }],
    ["dropCaches: 3", { do: "dropCaches", value: 3 }],
  ])("%s", (step, expected) => {
    expect(withSteps(step).steps).toEqual([{ ...expected, line: 4, column: 5 }]);
  });

  test("start the processes they name; the others start by themselves", () => {
    expect(withSteps("start: hog").processes.map(({ name, start }) => [name, start])).toEqual([
      ["hog", "step"],
      ["idle", "auto"],
    ]);
  });
});

describe("expectations", () => {
  test("are null where nothing is stated", () => {
    expect(withExpect("{}")).toEqual({
      oom: null,
      limit: null,
      victims: null,
      survivors: null,
      exit: [],
      counters: [],
      log: [],
      trigger: null,
      panic: null,
      withinMs: null,
      where: {},
    });
  });

  test("say everything, each with its place", () => {
    expect(
      withExpect(
        '{ oom: none, limit: app, victims: [], survivors: [hog], exit: { hog: 12 }, counters: { app: { memory.swap.current: ">0" } }, log: ["Killed process \\\\d+"], trigger: limit-write, panic: true, within: 5s }',
      ),
    ).toMatchObject({
      oom: "none",
      limit: "app",
      victims: [],
      survivors: ["hog"],
      exit: [{ process: "hog", exit: 12 }],
      counters: [{ cgroup: "app", key: "memory.swap.current", compare: { op: ">", value: 0, text: ">0" } }],
      log: [{ pattern: "Killed process \\d+" }],
      trigger: "limit-write",
      panic: true,
      withinMs: 5000,
      where: {
        oom: { line: 3, column: 16 },
        "exit.hog": { line: 3, column: 78 },
        "counters.app.memory.swap.current": { line: 3, column: 124 },
      },
    });
  });

  test.each([
    ["1", [["==", 1]]],
    ['"== 30Mi"', [["==", 31_457_280]]],
    ['"!=0"', [["!=", 0]]],
    ['"<= 30Mi"', [["<=", 31_457_280]]],
    ["50Mi", [["==", 52_428_800]]],
    [
      '[">=1k", "<2k"]',
      [
        [">=", 1000],
        ["<", 2000],
      ],
    ],
    [
      "1000 ±3%",
      [
        [">=", 970],
        ["<=", 1030],
      ],
    ],
    [
      "1000 +- 0.5%",
      [
        [">=", 995],
        ["<=", 1005],
      ],
    ],
  ])("compare a counter to %s", (text, expected) => {
    const { counters } = withExpect(`{ counters: { app: { memory.peak: ${text} } } }`);
    expect(counters.map(({ compare: { op, value } }) => [op, value])).toEqual(expected);
  });

  test("compare pressure with decimals", () => {
    const { counters } = withExpect('{ counters: { app: { memory.pressure.some.avg10: ">50.5" } } }');
    expect(counters[0]).toMatchObject({ key: "memory.pressure.some.avg10", compare: { op: ">", value: 50.5 } });
  });

  test("name any counter of the kernel's", () => {
    const keys = [
      "memory.events.local.oom",
      "memory.stat.anon",
      "memory.stat.a_new_one",
      "memory.oom_control.under_oom",
      "cgroup.events.populated",
      "memory.failcnt",
      "memory.max",
      "cgroup.procs",
    ];
    const { counters } = withExpect(`{ counters: { app: { ${keys.map((key) => `${key}: 1`).join(", ")} } } }`);
    expect(counters.map(({ key }) => key)).toEqual(keys);
  });

  test("that cannot come true are no mistake", () => {
    expect(withExpect("{ oom: none, limit: app, victims: [hog], survivors: [hog], panic: true }")).toMatchObject({
      oom: "none",
    });
  });
});
