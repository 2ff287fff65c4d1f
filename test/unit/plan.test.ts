import { describe, expect, test } from "vitest";
import { type Capabilities, type Plan, type PlanOptions, planScenario } from "../../src/plan.ts";
import { parseScenarios } from "../../src/scenario/index.ts";
import { machineWith } from "../helpers/capabilities.ts";

function plan(yaml: string, caps: Capabilities = machineWith(), options: Partial<PlanOptions> = {}): Plan {
  const [scenario] = parseScenarios(yaml, "test.yaml");
  if (!scenario) throw new Error("no scenario");
  return planScenario(scenario, caps, { runId: "abc12345", machine: "host", ...options });
}

const hog = "processes: { hog: { cgroup: app, stress: { anon: 100Mi } } }";
const v1 = { cgroupVersion: 1 } as const;
const v2 = { cgroupVersion: 2 } as const;
const writes = (of: Plan, name = "app"): string[] =>
  of.cgroups.find((cgroup) => cgroup.name === name)?.writes.map(({ file, value }) => `${file}=${value}`) ?? [];

describe("cgroup files", () => {
  test("v2 gets the files as written, sizes in bytes", () => {
    expect(
      writes(plan(`cgroups: { app: { memory.max: 200Mi, memory.swap.max: 0 } }\n${hog}`, machineWith(), v2)),
    ).toEqual(["memory.max=209715200", "memory.swap.max=0"]);
  });

  test("on v1 memory and swap are limited together, the limit first", () => {
    expect(
      writes(plan(`cgroups: { app: { memory.swap.max: 50Mi, memory.max: 200Mi } }\n${hog}`, machineWith(), v1)),
    ).toEqual(["memory.limit_in_bytes=209715200", "memory.memsw.limit_in_bytes=262144000"]);
  });

  test("a write names the scenario's words it comes from", () => {
    const { cgroups } = plan(`cgroups: { app: { memory.max: 200Mi } }\n${hog}`, machineWith(), v1);
    expect(cgroups[0]?.writes[0]?.why).toBe("memory.max: 200Mi");
  });

  test("an unlimited memory.max is -1 on v1", () => {
    expect(writes(plan(`cgroups: { app: { memory.max: max } }\n${hog}`, machineWith(), v1))).toEqual([
      "memory.limit_in_bytes=-1",
    ]);
  });

  test.each([
    ["memory.high: 50Mi", "memory.high throttles; v1 has no such limit (cgroup v2 only)"],
    ["memory.min: 50Mi", "memory.min protects memory; v1 has no such protection (cgroup v2 only)"],
    ["memory.oom.group: 1", "memory.oom.group kills a cgroup as a whole; v1 kills one process (cgroup v2 only)"],
  ])("%s is skipped on v1 with the reason", (file, reason) => {
    const planned = plan(`cgroups: { app: { memory.max: 90Mi, ${file} } }\n${hog}`, machineWith(), v1);
    expect(planned.skip).toBe(`cgroup app: ${reason}`);
    expect(planned.cgroups.map(({ name }) => name)).toEqual(["app"]);
    expect(planned.processes.map(({ name }) => name)).toEqual(["hog"]);
  });

  test("memory.oom.group 0 is what v1 does anyway", () => {
    expect(
      plan(`cgroups: { app: { memory.max: 90Mi, memory.oom.group: 0 } }\n${hog}`, machineWith(), v1).skip,
    ).toBeNull();
  });

  test("v1's own names are skipped on v2", () => {
    expect(plan(`cgroups: { app: { memory.limit_in_bytes: 90Mi } }\n${hog}`, machineWith(), v2).skip).toMatch(
      /memory\.limit_in_bytes is cgroup v1's own/,
    );
  });

  test("v2 passes controllers on to children with limits, and forbids a process beside them", () => {
    const yaml =
      "cgroups: { pod: { memory.max: 1Gi }, pod/app: { memory.max: 90Mi } }\nprocesses: { hog: { cgroup: pod/app, stress: { anon: 1Mi } } }";
    expect(writes(plan(yaml, machineWith(), v2), "pod")).toEqual([
      "memory.max=1073741824",
      "cgroup.subtree_control=+memory",
    ]);
    const beside = yaml.replace("hog: {", "init: { cgroup: pod, stress: { anon: 1Mi } }, hog: {");
    expect(plan(beside, machineWith(), v2).skip).toMatch(/no internal processes/);
    expect(plan(beside, machineWith(), v1).skip).toBeNull();
  });

  test("a controller that is not delegated to this user skips the scenario", () => {
    const yaml = `cgroups: { app: { memory.max: 90Mi, cpuset.cpus: "0" } }\n${hog}`;
    const caps = machineWith();
    const delegated = caps.hierarchies.map((one) =>
      one.version === 2 ? { ...one, controllers: ["memory", "pids"] } : one,
    );
    expect(plan(yaml, { ...caps, hierarchies: delegated }, v2).skip).toBe(
      "it needs the controller cpuset, which oomlab is not given here (it has memory, pids)",
    );
    expect(plan(yaml, caps, v2).skip).toBeNull();
  });

  test("a run under systemd lies in a scope of the manager's slice, whose path the plan names", () => {
    const yaml = `cgroups: { app: { memory.max: 90Mi } }\n${hog}`;
    const caps = machineWith({ systemd: { manager: "system", scope: null } });
    const { top, cgroups } = plan(yaml, caps, v2);
    expect(top).toMatchObject({
      name: "oomlab-abc12345",
      scope: "oomlab-run-abc12345.scope",
      path: "/oomlab-run-abc12345.scope/oomlab-abc12345",
    });
    expect(cgroups[0]?.path).toBe("/oomlab-run-abc12345.scope/oomlab-abc12345/app");
    const user = machineWith({ systemd: { manager: "user", scope: "oomlab-run-42.scope" } });
    expect(plan(yaml, user, v2).top.path).toBe("/oomlab-run-42.scope/oomlab-abc12345");
  });

  test("counters that v1 does not tell skip the scenario", () => {
    const yaml = `cgroups: { app: { memory.max: 90Mi } }\n${hog}\nexpect: { counters: { app: { memory.events.oom: 1 } } }`;
    expect(plan(yaml, machineWith(), v1).skip).toBe("cgroup v1 does not tell memory.events.oom");
    expect(plan(yaml, machineWith(), v2).skip).toBeNull();
  });
});

describe("safety", () => {
  test.each([
    [
      "a process without a cgroup",
      "processes: { hog: { stress: { anon: 1Mi } } }",
      /process hog has no memory limit above it/,
    ],
    ["a cgroup without a limit", `cgroups: { app: {} }\n${hog}`, /process hog has no memory limit above it/],
    [
      "a limit that a step lifts",
      `cgroups: { app: { memory.max: 90Mi } }\n${hog}\nsteps: [write: { cgroup: app, memory.max: max }]`,
      /process hog has no memory limit above it/,
    ],
    [
      "machine sizes",
      `machine: { memory: 1Gi }\ncgroups: { app: { memory.max: 90Mi } }\n${hog}`,
      /it states the machine's memory \(1Gi\)/,
    ],
    ["swap", `machine: { swap: 512Mi }\ncgroups: { app: { memory.max: 90Mi } }\n${hog}`, /swap \(512Mi\)/],
    [
      "sysctls",
      `machine: { sysctl: { vm.panic_on_oom: 1 } }\ncgroups: { app: { memory.max: 90Mi } }\n${hog}`,
      /sysctls \(vm\.panic_on_oom\)/,
    ],
    ["sysrq", `cgroups: { app: { memory.max: 90Mi } }\n${hog}\nsteps: [sysrq: f]`, /"sysrq" acts on the whole machine/],
  ])("%s needs a machine of its own", (_, yaml, reason) => {
    const { skip, processes } = plan(yaml);
    expect(skip).toMatch(/^it needs a VM of its own/);
    expect(skip).toMatch(reason);
    expect(processes).toHaveLength(1);
  });

  test("swap: 0 needs a machine of its own only where this one has swap", () => {
    const yaml = `machine: { swap: 0 }\ncgroups: { app: { memory.max: 90Mi } }\n${hog}`;
    expect(plan(yaml).skip).toBeNull();
    const auto = plan(yaml, machineWith({ swapTotal: 2 ** 30 }), { machine: "auto" });
    expect(auto).toMatchObject({ machine: "vm", skip: null, vm: { swap: null } });
    expect(plan(yaml, machineWith({ swapTotal: 2 ** 30 })).skip).toBe(
      "it needs a VM of its own: it states that the machine has no swap",
    );
  });

  test("--allow-host-oom takes a process without a limit, if the memory is there", () => {
    const yaml = "processes: { hog: { stress: { anon: 1Mi } } }";
    expect(plan(yaml, machineWith(), { allowHostOom: true }).skip).toBeNull();
  });

  test("a parent's limit holds its children", () => {
    expect(
      plan(
        "cgroups: { pod: { memory.max: 90Mi }, pod/app: {} }\nprocesses: { hog: { cgroup: pod/app, stress: { anon: 1Gi } } }",
      ).skip,
    ).toBeNull();
  });

  test("limits that together are more than is available are skipped with both numbers", () => {
    const yaml =
      "cgroups: { a: { memory.max: 1Gi }, b: { memory.max: 1Gi } }\nprocesses: { p: { cgroup: a, stress: { anon: 4Gi } }, q: { cgroup: b, stress: { anon: 512Mi } } }";
    expect(plan(yaml, machineWith({ memAvailable: 3 * 2 ** 30 })).skip).toBeNull();
    expect(plan(yaml, machineWith({ memAvailable: 1.5 * 2 ** 30 })).skip).toBe(
      "it could take 1536Mi of memory, and 1536Mi are available on this machine, which keeps 512Mi for itself",
    );
  });

  test("a stated need of free memory is checked", () => {
    const yaml = `machine: { available: 8Gi }\ncgroups: { app: { memory.max: 90Mi } }\n${hog}`;
    expect(plan(yaml).skip).toBe("it needs 8Gi of free memory, and 7Gi are available");
  });

  test("what is expected does not decide where a scenario runs", () => {
    expect(
      plan(`cgroups: { app: { memory.max: 90Mi } }\n${hog}\nexpect: { oom: global, panic: true }`).skip,
    ).toBeNull();
  });
});

describe("privileges", () => {
  const yaml = (process: string): string =>
    `cgroups: { app: { memory.max: 90Mi } }\nprocesses: { hog: { cgroup: app, stress: { anon: 1Mi }, ${process} } }`;

  test("lowering oom_score_adj needs CAP_SYS_RESOURCE, raising it does not", () => {
    const caps = machineWith({ capabilities: [] });
    expect(plan(yaml("oom_score_adj: -500"), caps).skip).toMatch(
      /lowering oom_score_adj to -500 needs CAP_SYS_RESOURCE/,
    );
    expect(plan(yaml("oom_score_adj: 500"), caps).skip).toBeNull();
  });

  test("locking more than RLIMIT_MEMLOCK needs CAP_IPC_LOCK", () => {
    const locks =
      "cgroups: { app: { memory.max: 90Mi } }\nprocesses: { hog: { cgroup: app, stress: { mlock: 20Mi } } }";
    expect(plan(locks, machineWith({ memlock: 8 * 2 ** 20 })).skip).toBe(
      "process hog: locking 20Mi of memory needs CAP_IPC_LOCK, or RLIMIT_MEMLOCK (ulimit -l) above 8Mi",
    );
    expect(plan(locks, machineWith({ memlock: 8 * 2 ** 20, capabilities: ["IPC_LOCK"] })).skip).toBeNull();
    expect(plan(locks, machineWith({ memlock: null })).skip).toBeNull();
  });

  test("an unreadable kernel log is no reason to skip, an unusable controller is", () => {
    const closed = machineWith({ kernelLog: null, kmsgProblem: "no permission to read /dev/kmsg" });
    expect(plan(yaml("oom_score_adj: 0"), closed).skip).toBeNull();
    const caps = machineWith({ cgroupProblems: { 2: "cgroup v2 is not mounted" } }, [1]);
    expect(plan(yaml("oom_score_adj: 0"), caps, v2).skip).toBe("cgroup v2 is not mounted");
    expect(plan(yaml("oom_score_adj: 0"), caps).cgroupVersion).toBe(1);
  });
});

describe("workloads", () => {
  test("a percentage is one of the limit above the process", () => {
    const { processes } = plan(
      "cgroups: { app: { memory.max: 200Mi } }\nprocesses: { hog: { cgroup: app, stress: { anon: 50% } } }",
    );
    expect(processes[0]).toMatchObject({ argv: ["--anon", "104857600", "--no-reserve"], bytes: 104857600 });
  });

  test("all that a stress workload says reaches the worker", () => {
    const { processes } = plan(
      "cgroups: { app: { memory.max: 200Mi } }\nprocesses: { hog: { cgroup: app, stress: { anon: 1Mi, fileWrite: 2Mi, rate: 50Mi/s, delay: 1s, hold: forever, workers: 2, threads: 2, hugePages: false, populate: true, content: random } } }",
    );
    expect(processes[0]?.argv.join(" ")).toBe(
      "--anon 1048576 --file-write 2097152 --content random --populate --huge-pages off --no-reserve --rate 52428800/s --delay 1000ms --hold forever --workers 2 --threads 2",
    );
    expect(processes[0]).toMatchObject({ bytes: 3145728, workers: 2, waits: true });
  });

  test.each([
    ["{ anon: 1Mi }", true],
    ["{ anon: 1Mi, reserve: true }", false],
    ["{ file: 1Mi, shm: 1Mi }", true],
    // Nothing of it would be reserved.
    ["{ file: 1Mi, shmem: 1Mi }", false],
  ])("%s is mapped without reservation: %s", (stress, expected) => {
    const { processes } = plan(
      `cgroups: { app: { memory.max: 200Mi } }\nprocesses: { hog: { cgroup: app, stress: ${stress} } }`,
    );
    expect(processes[0]?.argv.includes("--no-reserve")).toBe(expected);
  });

  test("a command keeps its own words", () => {
    const { processes } = plan(
      'cgroups: { app: { memory.max: 200Mi } }\nprocesses: { a: { cgroup: app, command: "tail /dev/zero; exit 0" }, b: { cgroup: app, command: [tail, /dev/zero] } }',
    );
    expect(processes.map(({ argv, bytes }) => [argv, bytes])).toEqual([
      [["/bin/sh", "-c", "tail /dev/zero; exit 0"], null],
      [["tail", "/dev/zero"], null],
    ]);
  });
});

test("the same input gives the same plan, and a plan survives JSON", () => {
  const yaml = `cgroups: { app: { memory.max: 200Mi } }\n${hog}\nexpect: { oom: memcg, counters: { app: { memory.peak: "<=200Mi" } } }`;
  expect(plan(yaml)).toEqual(plan(yaml));
  expect(JSON.parse(JSON.stringify(plan(yaml)))).toEqual(plan(yaml));
});

test("a reclaim step is skipped on v1, which can only give back everything", () => {
  const yaml = `cgroups: { app: { memory.max: 90Mi } }\n${hog}\nsteps: [{ reclaim: { cgroup: app, size: 20Mi } }]`;
  expect(plan(yaml, machineWith(), { ...v1, machine: "host" }).skip).toMatch(/memory\.reclaim is cgroup v2's/);
  expect(plan(yaml, machineWith(), { ...v2, machine: "host" }).skip).toBeNull();
});
