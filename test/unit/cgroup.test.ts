import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { flatKeyed, openCgroups, pressure, probeCgroups, singleValue, underSystemd } from "../../src/cgroup/index.ts";

/** A tree of plain files where a cgroup filesystem would be: names, contents and translations, not the kernel's behaviour. */
let tree: string;
beforeEach(() => {
  tree = mkdtempSync(join(tmpdir(), "oomlab-cgroup-"));
});
afterEach(() => rmSync(tree, { recursive: true, force: true }));

function files(of: Record<string, string>): void {
  for (const [path, text] of Object.entries(of)) {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    writeFileSync(join(tree, path), text);
  }
}

const probe = { mount: "", path: "", cpusetDirectory: null, controllers: [], memsw: true };

describe("cgroup v1", () => {
  const counters = (name: string): ReturnType<ReturnType<typeof openCgroups>["counters"]> => {
    const driver = openCgroups({ ...probe, version: 1, directory: tree }, "run");
    try {
      driver.create("");
      driver.create("pod");
      driver.create("pod/app");
      return driver.counters(name);
    } finally {
      driver.close();
    }
  };

  const cgroup = (path: string, changes: Record<string, string> = {}): void =>
    files(
      Object.fromEntries(
        Object.entries({
          "memory.usage_in_bytes": "1048576\n",
          "memory.memsw.usage_in_bytes": "1572864\n",
          "memory.max_usage_in_bytes": "2097152\n",
          "memory.limit_in_bytes": "9223372036854771712\n",
          "memory.failcnt": "0\n",
          "memory.memsw.failcnt": "0\n",
          "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
          "memory.stat": "cache 4096\nrss 8192\nshmem 0\n",
          "cgroup.procs": "12\n13\n",
          tasks: "12\n13\n14\n",
          ...changes,
        }).map(([file, text]) => [`${path}/${file}`, text]),
      ),
    );

  beforeEach(() => {
    cgroup("run");
    cgroup("run/pod", { "memory.failcnt": "7\n" });
    cgroup("run/pod/app", { "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n" });
  });

  test("tells its counters in cgroup v2's names", () => {
    expect(counters("pod/app")).toMatchObject({
      "memory.current": 1048576,
      "memory.swap.current": 524288,
      "memory.peak": 2097152,
      "memory.max": "max",
      "memory.stat.anon": 8192,
      "memory.stat.file": 4096,
      "memory.events.oom_kill": 2,
      "memory.events.local.oom_kill": 2,
      "cgroup.procs": 2,
    });
  });

  test("counts descendants in memory.events, not in memory.events.local, as v2 does", () => {
    expect(counters("pod")).toMatchObject({
      "memory.events.oom_kill": 2,
      "memory.events.local.oom_kill": 0,
      "memory.events.max": 7,
      "memory.events.local.max": 7,
    });
    expect(counters("")).toMatchObject({
      "memory.events.oom_kill": 2,
      "memory.events.max": 7,
      "memory.events.local.max": 0,
    });
  });

  test("does not tell how often a limit was hit where the kernel does not count it", () => {
    cgroup("run/pod/app", { "memory.limit_in_bytes": "2097152\n" });
    const told = counters("pod/app");
    expect(told["memory.events.max"]).toBeUndefined();
    expect(told["memory.peak"]).toBe(told["memory.max"]);
  });

  test("leaves out what the kernel does not tell", () => {
    rmSync(join(tree, "run/pod/app/memory.memsw.usage_in_bytes"));
    expect(counters("pod/app")).not.toHaveProperty("memory.swap.current");
  });

  test("makes children of a cgroup that does not bind them bind them (kernels before 5.11)", () => {
    files({ "run/memory.use_hierarchy": "0\n" });
    const driver = openCgroups({ ...probe, version: 1, directory: tree }, "run");
    driver.create("");
    expect(driver.write("", "memory.use_hierarchy", "1")).toBe("1");
    driver.close();
  });

  test("fills an empty cpuset from its parent, or no task could enter it", () => {
    files({
      "cpuset/run/cpuset.cpus": "0-1\n",
      "cpuset/run/cpuset.mems": "0\n",
      "cpuset/run/pod/cpuset.cpus": "\n",
      "cpuset/run/pod/cpuset.mems": "\n",
    });
    const driver = openCgroups({ ...probe, version: 1, directory: tree, cpusetDirectory: join(tree, "cpuset") }, "run");
    driver.create("pod");
    expect(driver.write("pod", "cpuset.cpus", "0")).toBe("0");
    expect(driver.placement("pod").cgroupProcs).toEqual([
      join(tree, "run/pod/cgroup.procs"),
      join(tree, "cpuset/run/pod/cgroup.procs"),
    ]);
    driver.close();
  });
});

describe("cgroup v2", () => {
  test("tells each keyed file, single value and pressure under its own name", () => {
    files({
      "run/app/memory.current": "4096\n",
      "run/app/memory.max": "max\n",
      "run/app/memory.events": "low 0\nhigh 3\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n",
      "run/app/memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
      "run/app/memory.swap.events": "high 0\nmax 0\nfail 2\n",
      "run/app/memory.stat": "anon 4096\nfile 0\n",
      "run/app/memory.pressure":
        "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=5\n",
      "run/app/cgroup.procs": "",
    });
    const driver = openCgroups({ ...probe, version: 2, directory: tree }, "run");
    expect(driver.counters("app")).toEqual({
      "memory.current": 4096,
      "memory.max": "max",
      "memory.events.low": 0,
      "memory.events.high": 3,
      "memory.events.max": 5,
      "memory.events.oom": 1,
      "memory.events.oom_kill": 1,
      "memory.events.oom_group_kill": 0,
      "memory.events.local.low": 0,
      "memory.events.local.high": 0,
      "memory.events.local.max": 0,
      "memory.events.local.oom": 0,
      "memory.events.local.oom_kill": 0,
      "memory.swap.events.high": 0,
      "memory.swap.events.max": 0,
      "memory.swap.events.fail": 2,
      "memory.stat.anon": 4096,
      "memory.stat.file": 0,
      "memory.pressure.some.avg10": 1.5,
      "memory.pressure.some.avg60": 0,
      "memory.pressure.some.avg300": 0,
      "memory.pressure.some.total": 77,
      "memory.pressure.full.avg10": 0.25,
      "memory.pressure.full.avg60": 0,
      "memory.pressure.full.avg300": 0,
      "memory.pressure.full.total": 5,
      "cgroup.procs": 0,
    });
    driver.close();
  });

  test("kills a cgroup by cgroup.kill where the kernel has it", () => {
    files({ "run/app/cgroup.kill": "", "run/old/cgroup.procs": "" });
    const driver = openCgroups({ ...probe, version: 2, directory: tree }, "run");
    expect(driver.kill("app")).toBe(true);
    expect(driver.kill("old")).toBe(false);
    driver.close();
  });
});

describe("values", () => {
  test.each([
    ["max\n", "max"],
    ["4096\n", 4096],
    ["9223372036854771712\n", "max"],
    ["-1\n", -1],
    ["words\n", undefined],
    ["", undefined],
  ])("%j is read as %s", (text, value) => expect(singleValue(text)).toBe(value));

  test("lines that are not `key number` are passed over", () => {
    const counters = {};
    flatKeyed("a 1\nb\nc x\n\nd 2\n", "f", counters);
    pressure("nonsense\n", "p", counters);
    expect(counters).toEqual({ "f.a": 1, "f.d": 2 });
  });
});

describe("probing", () => {
  const v1Mount = "30 20 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";
  const v2Mount = "29 20 0:25 / /sys/fs/cgroup/unified rw shared:8 - cgroup2 cgroup2 rw\n";

  test("finds v1, v2 and hybrid by what is mounted and which controllers are where", () => {
    files({
      "proc/self/mountinfo": v1Mount + v2Mount,
      "proc/self/cgroup": "4:memory:/user\n0::/user\n",
      "sys/fs/cgroup/memory/user/memory.limit_in_bytes": "",
      "sys/fs/cgroup/unified/cgroup.controllers": "cpu\n",
    });
    const { hierarchies, problems, memoryController, hybrid } = probeCgroups(tree);
    expect([memoryController, hybrid]).toEqual([1, true]);
    expect(hierarchies).toMatchObject([
      { version: 1, directory: join(tree, "sys/fs/cgroup/memory/user"), path: "/user", memsw: false },
    ]);
    expect(problems[2]).toMatch(/cgroup v2's memory controller is not available/);
  });

  test("on v2 takes the nearest cgroup that passes the controller on, and moves nobody", () => {
    files({
      "proc/self/mountinfo": "29 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
      "proc/self/cgroup": "0::/user.slice/session-1.scope\n",
      "sys/fs/cgroup/cgroup.controllers": "cpuset memory\n",
      "sys/fs/cgroup/user.slice/cgroup.type": "domain\n",
      "sys/fs/cgroup/user.slice/cgroup.controllers": "memory\n",
      "sys/fs/cgroup/user.slice/cgroup.subtree_control": "memory\n",
      "sys/fs/cgroup/user.slice/session-1.scope/cgroup.type": "domain\n",
      "sys/fs/cgroup/user.slice/session-1.scope/cgroup.controllers": "memory\n",
      "sys/fs/cgroup/user.slice/session-1.scope/cgroup.subtree_control": "\n",
      "sys/fs/cgroup/user.slice/session-1.scope/cgroup.procs": "1\n",
    });
    expect(probeCgroups(tree)).toMatchObject({
      memoryController: 2,
      hybrid: false,
      hierarchies: [{ version: 2, directory: join(tree, "sys/fs/cgroup/user.slice"), path: "/user.slice" }],
    });
  });

  test("says what to do where a container's root cgroup holds processes and passes nothing on", () => {
    files({
      "proc/self/mountinfo": "29 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
      "proc/self/cgroup": "0::/\n",
      "sys/fs/cgroup/cgroup.type": "domain\n",
      "sys/fs/cgroup/cgroup.controllers": "memory\n",
      "sys/fs/cgroup/cgroup.subtree_control": "\n",
      "sys/fs/cgroup/cgroup.procs": "1\n",
    });
    const { hierarchies, problems } = probeCgroups(tree);
    expect(hierarchies).toEqual([]);
    expect(problems[2]).toMatch(/--cgroupns=host/);
  });

  test("takes a container's root cgroup that this process alone is in, which it can leave", () => {
    files({
      "proc/self/mountinfo": "29 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
      "proc/self/cgroup": "0::/\n",
      "sys/fs/cgroup/cgroup.type": "domain\n",
      "sys/fs/cgroup/cgroup.controllers": "memory\n",
      "sys/fs/cgroup/cgroup.subtree_control": "\n",
      "sys/fs/cgroup/cgroup.procs": `${process.pid}\n`,
    });
    expect(probeCgroups(tree)).toMatchObject({
      hierarchies: [{ version: 2, directory: join(tree, "sys/fs/cgroup"), path: "", occupied: true }],
      problems: { 1: expect.any(String) },
    });
  });

  test("a container's mount of a part of the hierarchy keeps the kernel's own path", () => {
    files({
      "proc/self/mountinfo": v1Mount.replace(" / /sys", " /docker/0123 /sys"),
      "proc/self/cgroup": "4:memory:/docker/0123\n",
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "",
    });
    expect(probeCgroups(tree).hierarchies).toMatchObject([
      { version: 1, directory: join(tree, "sys/fs/cgroup/memory"), path: "/docker/0123" },
    ]);
  });

  describe("where systemd owns the tree", () => {
    const base = "sys/fs/cgroup/user.slice/user-1000.slice";
    const machine = {
      "proc/self/mountinfo": "29 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
      "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-1.scope\n",
      "proc/1/cgroup": "0::/init.scope\n",
      "run/systemd/system/.keep": "",
      "sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory pids\n",
      [`${base}/session-1.scope/cgroup.controllers`]: "memory pids\n",
      [`${base}/session-1.scope/cgroup.type`]: "domain\n",
      [`${base}/session-1.scope/cgroup.procs`]: "1\n",
      [`${base}/cgroup.type`]: "domain\n",
      [`${base}/user@1000.service/cgroup.controllers`]: "memory pids\n",
    };
    const instance = { "run/user/1000/systemd/private": "", "run/user/1000/bus": "" };
    const found = (uid: number): ReturnType<typeof underSystemd> => underSystemd(tree, uid, probeCgroups(tree));

    test("root gets scopes in system.slice, with all controllers", () => {
      files(machine);
      expect(found(0)).toMatchObject({
        hierarchies: [{ version: 2, path: "/system.slice", controllers: ["cpuset", "cpu", "memory", "pids"] }],
        systemd: { manager: "system" },
      });
    });

    test("a user gets one of the own instance in app.slice, with what is delegated to it", () => {
      files({ ...machine, ...instance });
      const { hierarchies, problems, systemd } = found(1000);
      expect(hierarchies).toMatchObject([
        { path: "/user.slice/user-1000.slice/user@1000.service/app.slice", controllers: ["memory", "pids"] },
      ]);
      expect([problems[2], systemd?.manager]).toEqual([undefined, "user"]);
    });

    test.each([
      ["without an instance", {}, /no systemd instance .* loginctl enable-linger 1000/],
      ["without a bus", { "run/user/1000/systemd/private": "" }, /no bus at \/run\/user\/1000\/bus/],
      [
        "whose instance is not delegated memory",
        { ...instance, [`${base}/user@1000.service/cgroup.controllers`]: "pids\n" },
        /not delegated the memory controller \(it has pids\)/,
      ],
    ])("a user %s is shown the line to type", (_, more, words) => {
      // root may write anywhere: what a user may not is a tree that passes nothing on.
      const closed = { "sys/fs/cgroup/cgroup.type": "domain\n", "sys/fs/cgroup/cgroup.procs": "1\n" };
      files({ ...machine, ...closed, [`${base}/session-1.scope/cgroup.controllers`]: "\n", ...more });
      const { hierarchies, problems, systemd } = found(1000);
      expect([hierarchies, systemd]).toEqual([[], null]);
      expect(problems[2]).toMatch(words);
    });

    test("without systemd nothing changes", () => {
      files({ ...machine, "run/systemd/system/.keep": "" });
      rmSync(join(tree, "run"), { recursive: true });
      expect(found(0)).toEqual({ ...probeCgroups(tree), systemd: null });
    });
  });

  test("without any cgroup filesystem both versions say so", () => {
    files({ "proc/self/mountinfo": "", "proc/self/cgroup": "" });
    expect(probeCgroups(tree)).toEqual({
      hierarchies: [],
      memoryController: null,
      hybrid: false,
      problems: {
        1: "cgroup v1's memory controller is not mounted on this machine",
        2: "cgroup v2 is not mounted on this machine",
      },
    });
  });
});
