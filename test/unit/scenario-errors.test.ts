import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseScenarios, ScenarioError, ScenarioErrors } from "../../src/scenario/index.ts";

/** What is printed for a file that cannot be taken. */
function refusal(text: string, file = "x.yaml"): string {
  const error = thrown(text, file);
  return error === undefined ? "accepted" : `\n${error.message}\n`;
}

function thrown(text: string, file = "x.yaml"): ScenarioErrors | undefined {
  try {
    parseScenarios(text, file);
    return undefined;
  } catch (error) {
    if (error instanceof ScenarioErrors) return error;
    throw error;
  }
}

const process = "processes: { hog: { stress: { anon: 1Mi } } }\n";

describe("a wrong scenario", () => {
  test("is told with every mistake, each at its line and column, with the code and the nearest right spelling", () => {
    const text = `name: 5
nmae: x
machine: { memory: 1GB, swap: { size: 5, kind: floppy }, cgroup: v3, numa: [] }
cgroups:
  nginx: { memory.max: 200Mb, memory.mx: 3, memory.swap.max: -1 }
processes:
  nginx: { cgroup: ngin, stress: { anon: 500m, rat: 50Mi/s, hold: forver } }
  sidecar: { cgroup: nginx }
  both: { stress: { anon: 1Mi }, command: x, oomScoreAdj: 5, user: root }
steps:
  - start: ngimx
  - wait: { process: nginx }
  - swapoff
  - sysrq: ff
  - strat: nginx
expect:
  oom: memgc
  limit: ngnix
  victims: nginx
  exit: { nginx: KILL, sidecar: 300 }
  counters: { nginx: { memory.events: 1, memory.swap.currnt: 0, memory.peak: "=>0" } }
  log: ["(("]
  withing: 5s
timeout: 30
`;
    expect(refusal(text, "scenarios/bad.yaml")).toMatchInlineSnapshot(`
      "
      scenarios/bad.yaml:1:7 name: expected a name; got 5
          name: 5
                ^ write it in quotes: "5"
      scenarios/bad.yaml:2:1 nmae: unknown key
          nmae: x
          ^ did you mean name?
      scenarios/bad.yaml:3:20 machine.memory: expected a size such as 200Mi; got 1GB
          machine: { memory: 1GB, swap: { size: 5, kind: floppy }, cgroup: v3, numa: [] }
                             ^ did you mean 1Gi or 1G?
      scenarios/bad.yaml:3:48 machine.swap.kind: expected one of disk, zram; got floppy
          machine: { memory: 1GB, swap: { size: 5, kind: floppy }, cgroup: v3, numa: [] }
                                                         ^
      scenarios/bad.yaml:3:66 machine.cgroup: expected v1 or v2; got v3
          machine: { memory: 1GB, swap: { size: 5, kind: floppy }, cgroup: v3, numa: [] }
                                                                           ^
      scenarios/bad.yaml:3:76 machine.numa: expected a size for each NUMA node, such as [1Gi, 1Gi]; got an empty list
          machine: { memory: 1GB, swap: { size: 5, kind: floppy }, cgroup: v3, numa: [] }
                                                                                     ^
      scenarios/bad.yaml:5:24 cgroups.nginx.memory.max: expected a size such as 200Mi, or max; got 200Mb
          nginx: { memory.max: 200Mb, memory.mx: 3, memory.swap.max: -1 }
                               ^ did you mean 200Mi or 200M?
      scenarios/bad.yaml:5:31 cgroups.nginx.memory.mx: unknown control file
          nginx: { memory.max: 200Mb, memory.mx: 3, memory.swap.max: -1 }
                                      ^ did you mean memory.max?
      scenarios/bad.yaml:5:62 cgroups.nginx.memory.swap.max: expected a size such as 200Mi, or max; got -1: a size cannot be negative
          nginx: { memory.max: 200Mb, memory.mx: 3, memory.swap.max: -1 }
                                                                     ^
      scenarios/bad.yaml:7:20 processes.nginx.cgroup: no cgroup is named "ngin"
          nginx: { cgroup: ngin, stress: { anon: 500m, rat: 50Mi/s, hold: forver } }
                           ^ did you mean nginx?
      scenarios/bad.yaml:7:42 processes.nginx.stress.anon: expected a size such as 200Mi, or a share such as 50%; got 500m: no whole number of bytes, m is a thousandth
          nginx: { cgroup: ngin, stress: { anon: 500m, rat: 50Mi/s, hold: forver } }
                                                 ^ did you mean 500M or 500Mi?
      scenarios/bad.yaml:7:48 processes.nginx.stress.rat: unknown key
          nginx: { cgroup: ngin, stress: { anon: 500m, rat: 50Mi/s, hold: forver } }
                                                       ^ did you mean rate?
      scenarios/bad.yaml:7:67 processes.nginx.stress.hold: expected a duration such as 1s, or forever; got forver
          nginx: { cgroup: ngin, stress: { anon: 500m, rat: 50Mi/s, hold: forver } }
                                                                          ^ did you mean forever?
      scenarios/bad.yaml:8:3 processes.sidecar: expected a workload: one of stress, node and command
          sidecar: { cgroup: nginx }
          ^ such as stress: { anon: 256Mi }
      scenarios/bad.yaml:9:3 processes.both: expected one of stress, node and command; got stress and command
          both: { stress: { anon: 1Mi }, command: x, oomScoreAdj: 5, user: root }
          ^
      scenarios/bad.yaml:9:46 processes.both.oomScoreAdj: unknown key
          both: { stress: { anon: 1Mi }, command: x, oomScoreAdj: 5, user: root }
                                                     ^ did you mean oom_score_adj?
      scenarios/bad.yaml:9:68 processes.both.user: expected a user's number from 0 to 4294967294; got root
          both: { stress: { anon: 1Mi }, command: x, oomScoreAdj: 5, user: root }
                                                                           ^
      scenarios/bad.yaml:11:12 steps[0].start: no process is named "ngimx"
          - start: ngimx
                   ^ did you mean nginx?
      scenarios/bad.yaml:12:11 steps[1].wait: expected one of exited and touched beside process
          - wait: { process: nginx }
                  ^
      scenarios/bad.yaml:13:5 steps[2]: expected a step such as start: hog; got swapoff
          - swapoff
            ^ write it with its value: swapoff: true
      scenarios/bad.yaml:14:12 steps[3].sysrq: expected the key of a sysrq such as f; got ff: it is one letter or digit
          - sysrq: ff
                   ^
      scenarios/bad.yaml:15:5 steps[4].strat: unknown key
          - strat: nginx
            ^ did you mean start?
      scenarios/bad.yaml:17:8 expect.oom: expected one of memcg, global, cpuset, mempolicy, none; got memgc
          oom: memgc
               ^ did you mean memcg?
      scenarios/bad.yaml:18:10 expect.limit: no cgroup is named "ngnix"
          limit: ngnix
                 ^ did you mean nginx?
      scenarios/bad.yaml:19:12 expect.victims: expected a list of processes; got nginx
          victims: nginx
                   ^ write a list: [nginx]
      scenarios/bad.yaml:20:18 expect.exit.nginx: expected an exit status from 0 to 255, or a signal such as SIGKILL; got KILL
          exit: { nginx: KILL, sidecar: 300 }
                         ^ did you mean SIGKILL?
      scenarios/bad.yaml:20:33 expect.exit.sidecar: expected an exit status from 0 to 255, or a signal such as SIGKILL; got 300
          exit: { nginx: KILL, sidecar: 300 }
                                        ^
      scenarios/bad.yaml:21:24 expect.counters.nginx.memory.events: memory.events holds several numbers: name one of them
          counters: { nginx: { memory.events: 1, memory.swap.currnt: 0, memory.peak: "=>0" } }
                               ^ such as memory.events.low, memory.events.high, memory.events.max, memory.events.oom, memory.events.oom_kill, memory.events.oom_group_kill
      scenarios/bad.yaml:21:42 expect.counters.nginx.memory.swap.currnt: unknown counter
          counters: { nginx: { memory.events: 1, memory.swap.currnt: 0, memory.peak: "=>0" } }
                                                 ^ did you mean memory.swap.current?
      scenarios/bad.yaml:21:78 expect.counters.nginx.memory.peak: expected a number, or a comparison such as ">0" or "<=30Mi"; got "=>0"
          counters: { nginx: { memory.events: 1, memory.swap.currnt: 0, memory.peak: "=>0" } }
                                                                                     ^ did you mean ">=0"?
      scenarios/bad.yaml:22:9 expect.log[0]: expected a regular expression; got "((": Unterminated group
          log: ["(("]
                ^
      scenarios/bad.yaml:23:3 expect.withing: unknown key
          withing: 5s
          ^ did you mean within?
      scenarios/bad.yaml:24:10 timeout: expected a duration such as 500ms, 5s, 2m or 1h; got 30
          timeout: 30
                   ^ did you mean 30s or 30ms?
      "
    `);
  });

  test("has its place in fields, and exit status 2", () => {
    const error = thrown("name: x\nprocesses:\n  hog: { stress: { anon: 1Mi, hold: 5 } }\n");
    expect(error).toBeInstanceOf(ScenarioError);
    expect(error).toMatchObject({
      file: "x.yaml",
      line: 3,
      column: 37,
      path: "processes.hog.stress.hold",
      exitCode: 2,
      code: "SCENARIO",
    });
    expect(error?.errors).toHaveLength(1);
  });
});

describe("what is no scenario", () => {
  test("is refused in plain words", () => {
    const texts = [
      ["nothing at all", ""],
      ["blank lines", " \n\n"],
      ["comments", "# x\n"],
      ["empty documents", "---\n---\n"],
      ["null", "null"],
      ["a list", "- a\n"],
      ["a number", "5"],
      ["no process", "name: x"],
      ["an empty list of processes", "processes: {}"],
      ["keys without values", "cgroups:\nprocesses:\n"],
      ["a Pod", "apiVersion: v1\nkind: Pod\nmetadata: { name: x }\nspec: {}\n"],
      ["a scenario with Pods", "pods: []\nnode: { memory: 1Gi }\nexpect: { first: oom }\n"],
      ["an unclosed quote", "name: 'abc\n"],
      ["an unclosed list", "name: [a\nprocesses: {}\n"],
      ["tabs as indentation", "processes:\n\thog: {}\n"],
      ["a file of more than 8 MiB", `${process}#${"x".repeat(8 * 1024 * 1024)}`],
      ["very deep nesting", `name: ${"[".repeat(20_000)}`],
    ];
    const told = texts.map(([what = "", text = ""]) =>
      `${what}:${refusal(text)}`.replace(/1:\d+: (.*deeply)\n[^]*/, "$1"),
    );
    expect(told.join("\n")).toMatchInlineSnapshot(`
      "nothing at all:
      x.yaml: expected a scenario; got an empty file

      blank lines:
      x.yaml: expected a scenario; got an empty file

      comments:
      x.yaml: expected a scenario; got an empty file

      empty documents:
      x.yaml: expected a scenario; got an empty file

      null:
      x.yaml: expected a scenario; got an empty file

      a list:
      x.yaml:1:1: expected a scenario: a mapping with name, cgroups, processes and expect; got a list
          - a
          ^

      a number:
      x.yaml:1:1: expected a scenario: a mapping with name, cgroups, processes and expect; got 5
          5
          ^

      no process:
      x.yaml:1:1: expected the key processes: nothing presses
          name: x
          ^ such as processes: { hog: { stress: { anon: 64Mi } } }

      an empty list of processes:
      x.yaml:1:12 processes: expected at least one process
          processes: {}
                     ^

      keys without values:
      x.yaml:1:9 cgroups: expected cgroups such as { nginx: { memory.max: 200Mi } }; got nothing
          cgroups:
                  ^
      x.yaml:2:11 processes: expected processes such as { nginx: { cgroup: nginx, stress: { anon: 256Mi } } }; got nothing
          processes:
                    ^

      a Pod:
      x.yaml:4:7: spec.containers: Required value
          spec: {}
                ^

      a scenario with Pods:
      x.yaml:1:7 pods: expected a list of Pods such as [{ manifest: pod.yaml }]; got an empty list
          pods: []
                ^

      an unclosed quote:
      x.yaml:1:10: expected YAML: missing closing 'quote
          name: 'abc
                   ^

      an unclosed list:
      x.yaml:2:1: expected YAML: flow sequence in block collection must be sufficiently indented and end with a ]
          processes: {}
          ^

      tabs as indentation:
      x.yaml:2:1: expected YAML: tabs are not allowed as indentation
           hog: {}
          ^ indent with spaces

      a file of more than 8 MiB:
      x.yaml: expected a scenario; got a file of more than 8 MiB

      very deep nesting:
      x.yaml:expected YAML: it is nested too deeply"
    `);
  });
});

describe("names", () => {
  test("of cgroups stay below oomlab's own and apart from the kernel's files", () => {
    const names = [
      "/abs",
      "..",
      "a/../b",
      ".",
      "./a",
      "a//b",
      "a/",
      "",
      "a\\0b",
      "a\\nb",
      "n".repeat(256),
      "memory.max",
      "a/cgroup.procs",
      "tasks",
      "__proto__",
      "\\e[31m",
    ];
    const told = names.map((name) =>
      refusal(`cgroups: { "${name}": {} }\n${process}`)
        .split("\n")[1]
        ?.replace(/n{200,}/, "nnn..."),
    );
    expect(told.join("\n")).toMatchInlineSnapshot(`
      "x.yaml:1:12 cgroups./abs: expected a cgroup's path such as nginx or parent/child: a cgroup is named relative to oomlab's own
      x.yaml:1:12 cgroups...: expected a cgroup's path such as nginx or parent/child: a cgroup's path has no ..
      x.yaml:1:12 cgroups.a/../b: expected a cgroup's path such as nginx or parent/child: a cgroup's path has no ..
      x.yaml:1:12 cgroups..: expected a cgroup's path such as nginx or parent/child: a cgroup's path has no .
      x.yaml:1:12 cgroups../a: expected a cgroup's path such as nginx or parent/child: a cgroup's path has no .
      x.yaml:1:12 cgroups.a//b: expected a cgroup's path such as nginx or parent/child: a path has no empty part
      x.yaml:1:12 cgroups.a/: expected a cgroup's path such as nginx or parent/child: a path has no empty part
      x.yaml:1:12 cgroups.: expected a cgroup's path such as nginx or parent/child: a name cannot be empty
      x.yaml:1:12 cgroups.a\\x00b: expected a cgroup's path such as nginx or parent/child: a name has no control characters and no line ends
      x.yaml:1:12 cgroups.a\\x0ab: expected a cgroup's path such as nginx or parent/child: a name has no control characters and no line ends
      x.yaml:1:12 cgroups.nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn: expected a cgroup's path such as nginx or parent/child: a name has at most 255 bytes
      x.yaml:1:12 cgroups.memory.max: expected a cgroup's path such as nginx or parent/child: memory.max is named like the kernel's own files
      x.yaml:1:12 cgroups.a/cgroup.procs: expected a cgroup's path such as nginx or parent/child: cgroup.procs is named like the kernel's own files
      x.yaml:1:12 cgroups.tasks: expected a cgroup's path such as nginx or parent/child: tasks is named like the kernel's own files
      x.yaml:1:12 cgroups.__proto__: expected a cgroup's path such as nginx or parent/child: this name means something to JavaScript
      x.yaml:1:12 cgroups.\\x1b[31m: expected a cgroup's path such as nginx or parent/child: a name has no control characters and no line ends"
    `);
  });

  test("of processes are plain", () => {
    const names = ["", " ", "a/b", "a\\0b", "a\\nb", "p".repeat(256), "__proto__"];
    const told = names.map((name) =>
      refusal(`processes: { "${name}": { command: x } }`)
        .split("\n")[1]
        ?.replace(/p{200,}/, "ppp..."),
    );
    expect(told.join("\n")).toMatchInlineSnapshot(`
      "x.yaml:1:14 processes.: expected the name of a process: a name cannot be empty
      x.yaml:1:14 processes. : expected the name of a process: a name cannot be empty
      x.yaml:1:14 processes.a/b: expected the name of a process: a name with / is a container of a Pod
      x.yaml:1:14 processes.a\\x00b: expected the name of a process: a name has no control characters and no line ends
      x.yaml:1:14 processes.a\\x0ab: expected the name of a process: a name has no control characters and no line ends
      x.yaml:1:14 processes.pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp...pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp: expected the name of a process: a name has at most 255 bytes
      x.yaml:1:14 processes.__proto__: expected the name of a process: this name means something to JavaScript"
    `);
  });

  test("with dots, spaces, other scripts and as numbers are good", () => {
    const yaml =
      "cgroups: { web.slice/café 1: {}, 5: {} }\nprocesses: { 'my process': { command: x }, 404: { cgroup: '5', command: x } }";
    expect(refusal(yaml)).toBe("accepted");
  });

  test("that nothing has are told wherever they stand", () => {
    expect(
      refusal(`cgroups: { app/web: {} }
processes: { hog: { cgroup: app/wbe, command: x } }
steps:
  - start: [hgo]
  - move: { process: hog, cgroup: nowhere }
  - kill: { cgroup: app }
  - wait: { cgroup: ap, memory.current: 1 }
expect:
  limit: web
  survivors: [somebody]
  exit: { Hog: 0 }
  counters: { App: { memory.peak: 1 } }
`),
    ).toMatchInlineSnapshot(`
      "
      x.yaml:2:29 processes.hog.cgroup: no cgroup is named "app/wbe"
          processes: { hog: { cgroup: app/wbe, command: x } }
                                      ^ did you mean app/web?
      x.yaml:4:13 steps[0].start[0]: no process is named "hgo"
          - start: [hgo]
                    ^ did you mean hog?
      x.yaml:5:35 steps[1].move.cgroup: no cgroup is named "nowhere"; known here: app/web, app
          - move: { process: hog, cgroup: nowhere }
                                          ^
      x.yaml:7:21 steps[3].wait.cgroup: no cgroup is named "ap"
          - wait: { cgroup: ap, memory.current: 1 }
                            ^ did you mean app?
      x.yaml:9:10 expect.limit: no cgroup is named "web"
          limit: web
                 ^ did you mean app/web?
      x.yaml:10:15 expect.survivors[0]: no process is named "somebody"; known here: hog
          survivors: [somebody]
                      ^
      x.yaml:11:11 expect.exit.Hog: no process is named "Hog"
          exit: { Hog: 0 }
                  ^ did you mean hog?
      x.yaml:12:15 expect.counters.App: no cgroup is named "App"
          counters: { App: { memory.peak: 1 } }
                      ^ did you mean app?
      "
    `);
  });
});

describe("control files", () => {
  test("that are misspelt, read only or no setting say what to do", () => {
    const files = [
      "memory.mx: 1",
      "max: 1",
      "memory.limit: 1Mi",
      "memory.current: 1",
      "memory.events: 1",
      "cgroup.procs: 1",
      "memory.reclaim: 1Mi",
      "pids.max: 5",
      "memory.oom.group: 2",
      "memory.swappiness: 201",
      "cgroup.type: thread",
      "cpuset.cpus: 3-1",
      "memory.max: ",
      "memory.max: [1]",
    ];
    expect(files.map((file) => refusal(`cgroups: { app: { ${file} } }\n${process}`)).join("")).toMatchInlineSnapshot(`
      "
      x.yaml:1:19 cgroups.app.memory.mx: unknown control file
          cgroups: { app: { memory.mx: 1 } }
                            ^ did you mean memory.max?

      x.yaml:1:19 cgroups.app.max: unknown control file
          cgroups: { app: { max: 1 } }
                            ^ did you mean memory.max?

      x.yaml:1:19 cgroups.app.memory.limit: unknown control file
          cgroups: { app: { memory.limit: 1Mi } }
                            ^ did you mean memory.max?

      x.yaml:1:19 cgroups.app.memory.current: memory.current can only be read
          cgroups: { app: { memory.current: 1 } }
                            ^ compare it under expect.counters

      x.yaml:1:19 cgroups.app.memory.events: memory.events can only be read
          cgroups: { app: { memory.events: 1 } }
                            ^ compare it under expect.counters

      x.yaml:1:19 cgroups.app.cgroup.procs: oomlab places processes itself
          cgroups: { app: { cgroup.procs: 1 } }
                            ^ name its cgroup under the process

      x.yaml:1:19 cgroups.app.memory.reclaim: memory.reclaim acts when it is written, it holds no setting
          cgroups: { app: { memory.reclaim: 1Mi } }
                            ^ write it with a step: write

      x.yaml:1:19 cgroups.app.pids.max: unknown control file: oomlab writes those of memory, cpuset and cgroup
          cgroups: { app: { pids.max: 5 } }
                            ^

      x.yaml:1:37 cgroups.app.memory.oom.group: expected 0 or 1; got 2
          cgroups: { app: { memory.oom.group: 2 } }
                                              ^

      x.yaml:1:38 cgroups.app.memory.swappiness: expected a whole number from 0 to 200; got 201
          cgroups: { app: { memory.swappiness: 201 } }
                                               ^

      x.yaml:1:32 cgroups.app.cgroup.type: expected threaded; got thread
          cgroups: { app: { cgroup.type: thread } }
                                         ^ did you mean threaded?

      x.yaml:1:32 cgroups.app.cpuset.cpus: expected numbers such as 0-1,3; got 3-1
          cgroups: { app: { cpuset.cpus: 3-1 } }
                                         ^

      x.yaml:1:32 cgroups.app.memory.max: expected a size such as 200Mi, or max; got nothing
          cgroups: { app: { memory.max:  } }
                                         ^

      x.yaml:1:31 cgroups.app.memory.max: expected a size such as 200Mi, or max; got a list
          cgroups: { app: { memory.max: [1] } }
                                        ^
      "
    `);
  });

  test("in a step may be any that can be written, one a step", () => {
    const steps = [
      "{ memory.max: 1Mi }",
      "{ cgroup: app }",
      "{ cgroup: app, memory.max: 1, memory.high: 1 }",
      "{ cgroup: app, memory.max: 1xx }",
      "{ cgroup: app, memory.max: 1, errno: EBUSSY }",
      "{ cgroup: app, cgroup.procs: 0 }",
    ];
    expect(steps.map((step) => refusal(`cgroups: { app: }\n${process}steps: [{ write: ${step} }]`)).join(""))
      .toMatchInlineSnapshot(`
      "
      x.yaml:3:18 steps[0].write: expected the key cgroup
          steps: [{ write: { memory.max: 1Mi } }]
                           ^

      x.yaml:3:18 steps[0].write: expected one control file beside cgroup, such as memory.max: 20Mi; got 0
          steps: [{ write: { cgroup: app } }]
                           ^

      x.yaml:3:18 steps[0].write: expected one control file beside cgroup, such as memory.max: 20Mi; got 2
          steps: [{ write: { cgroup: app, memory.max: 1, memory.high: 1 } }]
                           ^

      x.yaml:3:45 steps[0].write.memory.max: expected a size such as 200Mi, or max; got 1xx
          steps: [{ write: { cgroup: app, memory.max: 1xx } }]
                                                      ^

      x.yaml:3:55 steps[0].write.errno: expected one of EBUSY, EINVAL, EPERM, EACCES, EAGAIN, ENOMEM, ENOENT, ENODEV, ENXIO, EIO, EINTR, ENOSPC, ERANGE, EROFS, ESRCH, EEXIST, E2BIG, EOPNOTSUPP, ENOTSUP, ENOSYS, EFAULT; got EBUSSY
          steps: [{ write: { cgroup: app, memory.max: 1, errno: EBUSSY } }]
                                                                ^ did you mean EBUSY?

      x.yaml:3:33 steps[0].write.cgroup.procs: oomlab places processes itself
          steps: [{ write: { cgroup: app, cgroup.procs: 0 } }]
                                          ^ use the step move
      "
    `);
  });
});

describe("YAML", () => {
  test("with a key twice, a merge of no mapping or of itself, a tag, a dangling alias or a key that is no text is refused at that place", () => {
    const texts = [
      `name: a\n${process}name: b\n`,
      `cgroups: { a: {}, b: {}, "a": {} }\n${process}`,
      `cgroups: { a: { <<: 5 }, b: { <<: [ { memory.max: 1 }, x ] } }\n${process}`,
      `cgroups: { a: &m { <<: *m } }\n${process}`,
      `name: !!binary eA==\n${process}`,
      `cgroups: { a: *nothing }\n${process}`,
      `? [a]\n: 1\n${process}`,
      `${process}---\n${process}`,
    ];
    expect(texts.map((text) => refusal(text)).join("")).toMatchInlineSnapshot(`
      "
      x.yaml:3:1 name: the key stands twice; first in line 1
          name: b
          ^

      x.yaml:1:26 cgroups.a: the key stands twice; first in line 1
          cgroups: { a: {}, b: {}, "a": {} }
                                   ^

      x.yaml:1:17 cgroups.a: expected << to name a mapping, or a list of them
          cgroups: { a: { <<: 5 }, b: { <<: [ { memory.max: 1 }, x ] } }
                          ^ such as <<: *name
      x.yaml:1:31 cgroups.b: expected << to name a mapping, or a list of them
          cgroups: { a: { <<: 5 }, b: { <<: [ { memory.max: 1 }, x ] } }
                                        ^ such as <<: *name

      x.yaml:1:20 cgroups.a: a mapping cannot merge itself
          cgroups: { a: &m { <<: *m } }
                             ^

      x.yaml:1:16 name: expected a value without a tag
          name: !!binary eA==
                         ^

      x.yaml:1:15 cgroups.a: *nothing stands for nothing: no &nothing before it
          cgroups: { a: *nothing }
                        ^

      x.yaml:1:3: expected a key of plain text
          ? [a]
            ^

      x.yaml:3:1 name: the name "x" stands twice in this file; first in line 1
          processes: { hog: { stress: { anon: 1Mi } } }
          ^ give it a name of its own: name: ...
      "
    `);
  });

  test("merges mappings: what one says itself counts, of several the first", () => {
    const merged = `cgroups:
  a: &a { memory.max: 8Mi, memory.swap.max: 0 }
  b: &b { memory.max: 16Mi, memory.high: 12Mi }
  c: { <<: [*a, *b], memory.swap.max: 4Mi }
  d: { "<<": *a }
`;
    const files = (text: string, name: string): string[] =>
      parseScenarios(text, "x.yaml")[0]!
        .cgroups.find((cgroup) => cgroup.name === name)!
        .files.map(({ file, raw }) => `${file}=${raw}`)
        .toSorted();
    const text = merged.replace(/ {2}d.*\n/, "") + process;
    expect(files(text, "c")).toEqual(["memory.high=12Mi", "memory.max=8Mi", "memory.swap.max=4Mi"]);
    expect(files(text, "b")).toEqual(["memory.high=12Mi", "memory.max=16Mi"]);
    expect(() => parseScenarios(merged + process, "x.yaml")).toThrow("<<");
  });

  test("merges that multiply end in one plain error, soon", () => {
    const lines = ["m0: &m0 { a: 1, b: 2 }"];
    for (let depth = 1; depth < 40; depth++)
      lines.push(
        `m${depth}: &m${depth} { k${depth}: { <<: [*m${depth - 1}] , x: *m${depth - 1}, y: *m${depth - 1} } }`,
      );
    const began = performance.now();
    expect(() => parseScenarios(`${lines.join("\n")}\n${process}`, "x.yaml")).toThrow("unknown key");
    expect(performance.now() - began).toBeLessThan(5000);
  });

  test("aliases that multiply end in one plain error, soon", () => {
    const list = `&a [${"x, ".repeat(2000)}x]`;
    const processes = Array.from({ length: 200 }, (_, index) => `p${index}: { command: *a }`).join(", ");
    const start = performance.now();
    const error = thrown(`processes: { p: { command: ${list} }, ${processes} }`);
    expect(error?.message).toContain("more than 50000 values through aliases");
    expect(error?.errors).toHaveLength(1);
    expect(performance.now() - start).toBeLessThan(5000);
  });

  test("an alias inside its own anchor ends", () => {
    expect(refusal("processes: &p { hog: *p }")).toContain("unknown key");
  });

  test("reserve without a kind that the kernel reserves is refused", () => {
    expect(refusal("processes: { p: { stress: { file: 1Mi, reserve: true } } }")).toMatchInlineSnapshot(`
      "
      x.yaml:1:27 processes.p.stress: reserve is for anon, shared, shm, mlock, brk: expected one of them beside it
          processes: { p: { stress: { file: 1Mi, reserve: true } } }
                                    ^
      "
    `);
    expect(refusal("processes: { p: { stress: { file: 1Mi, anon: 1Mi, reserve: true } } }")).toBe("accepted");
  });

  test("a file full of mistakes is told up to 200 of them", () => {
    const error = thrown(Array.from({ length: 5000 }, (_, index) => `wrong${index}: x`).join("\n"));
    expect(error?.errors).toHaveLength(200);
    expect(error?.errors.at(-1)?.message).toContain("too many problems");
  });

  test("keys that mean something to JavaScript are keys like others", () => {
    const text = `processes:
  constructor: { command: { run: x, env: { __proto__: evil, toString: t } } }
expect: { exit: { constructor: 0 } }
`;
    const [scenario] = parseScenarios(text, "x.yaml");
    expect(JSON.stringify(scenario?.processes[0]?.workload)).toContain('"env":{"__proto__":"evil","toString":"t"}');
    expect(scenario?.expect.exit).toEqual([{ process: "constructor", exit: 0 }]);
    expect(({} as { evil?: unknown }).evil).toBeUndefined();
    expect(refusal("__proto__: 1\nconstructor: 2\nprocesses: { p: { toString: 1, stress: { valueOf: 1, anon: 1 } } }"))
      .toMatchInlineSnapshot(`
        "
        x.yaml:1:1 __proto__: unknown key; known here: name, description, tags, machine, cgroups, processes, node, pods, steps, expect, timeout
            __proto__: 1
            ^
        x.yaml:2:1 constructor: unknown key; known here: name, description, tags, machine, cgroups, processes, node, pods, steps, expect, timeout
            constructor: 2
            ^
        x.yaml:3:19 processes.p.toString: unknown key; known here: cgroup, stress, node, command, oom_score_adj, user, cpuset, mempolicy, rlimits
            processes: { p: { toString: 1, stress: { valueOf: 1, anon: 1 } } }
                              ^
        x.yaml:3:42 processes.p.stress.valueOf: unknown key; known here: anon, shared, file, fileWrite, shmem, tmpfs, shm, mlock, hugetlb, stack, brk, pipes, sockets, kernelStacks, touch, stride, content, populate, hugePages, reserve, rate, delay, hold, steps, retouch, repeat, workers, threads, shareVm, exitMainThread, dir
            processes: { p: { toString: 1, stress: { valueOf: 1, anon: 1 } } }
                                                     ^
        "
      `);
  });
});

describe("what is printed", () => {
  test("shows control, bidirectional and invisible characters of the file as escapes", () => {
    expect(refusal("name: x\n\u001b[2Jfoo: \u202Etxt\u200b\n")).toMatchInlineSnapshot(`
      "
      x.yaml:1:1: expected the key processes: nothing presses
          name: x
          ^ such as processes: { hog: { stress: { anon: 64Mi } } }
      x.yaml:2:1 \\x1b[2Jfoo: unknown key; known here: name, description, tags, machine, cgroups, processes, node, pods, steps, expect, timeout
          \\x1b[2Jfoo: \\u202etxt\\u200b
          ^
      "
    `);
    expect(refusal("nmae: x\n", "a\u001b[31m\nb.yaml")).toContain("a\\x1b[31m\\x0ab.yaml:1:1");
  });

  test("keeps the caret under its character after wide ones", () => {
    expect(refusal(`expect: { log: [日本語, e\u0301], omo: 1 }\n${process}`)).toMatchInlineSnapshot(`
      "
      x.yaml:1:27 expect.omo: unknown key
          expect: { log: [日本語, é], omo: 1 }
                                      ^ did you mean oom?
      "
    `);
  });

  test("cuts long lines around the caret", () => {
    const text = `processes: { ${Array.from({ length: 30 }, (_, index) => `process${index}: { command: x }`).join(", ")}, bad: { comand: x } }`;
    expect(refusal(text)).toMatchInlineSnapshot(`
      "
      x.yaml:1:821 processes.bad.comand: unknown key
          ... x }, process29: { command: x }, bad: { comand: x } }
                                                     ^ did you mean command?
      "
    `);
  });
});

describe("any input", () => {
  const key = fc.constantFrom(
    "name",
    "cgroups",
    "processes",
    "steps",
    "expect",
    "machine",
    "hog",
    "stress",
    "anon",
    "memory.max",
    "start",
    "wait",
    "cgroup",
    "process",
    "command",
    "oom",
    "counters",
    "swap",
    "__proto__",
    "x",
  );
  const leaf = fc.oneof(
    fc.constantFrom("1Mi", "max", "50%", "memcg", "hog", "5s", "", "-1", "__proto__", "0-1"),
    fc.integer(),
    fc.double(),
    fc.boolean(),
    fc.constant(null),
    fc.string(),
  );
  const value = fc.letrec<{ any: unknown }>((tie) => ({
    any: fc.oneof(
      { maxDepth: 6 },
      leaf,
      fc.array(tie("any"), { maxLength: 3 }),
      fc.array(fc.tuple(key, tie("any")), { maxLength: 4 }).map(Object.fromEntries),
    ),
  })).any;

  test("as JSON is read or refused with all places inside the file", () => {
    fc.assert(
      fc.property(fc.dictionary(key, value), (input) => {
        const text = JSON.stringify(input, null, 1);
        const lines = text.split("\n");
        const outside = (thrown(text)?.errors ?? []).filter(
          ({ line, column }) =>
            line !== null && (column === null || column < 1 || column > (lines[line - 1]?.length ?? -1) + 1),
        );
        expect(outside).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  test("as broken YAML is read or refused, never anything else", () => {
    const good = `name: x
cgroups: { app: &a { memory.max: 200Mi }, b: *a }
processes:
  hog: { cgroup: app, stress: { anon: 256Mi, rate: 50Mi/s }, user: 5 }
steps:
  - wait: { process: hog, touched: 40Mi }
expect: { oom: memcg, counters: { app: { memory.peak: "<=30Mi" } } }
`;
    const cut = fc.record({
      at: fc.nat({ max: good.length }),
      remove: fc.nat({ max: 8 }),
      insert: fc.oneof(
        fc.string({ unit: "binary", maxLength: 6 }),
        fc.constantFrom(
          ": ",
          "- ",
          "{",
          "}",
          "[",
          "&a ",
          "*a",
          "\t",
          "\n",
          "---\n",
          "'",
          '"',
          "|\n",
          "? ",
          "!!x ",
          "%",
          "#",
        ),
      ),
    });
    fc.assert(
      fc.property(fc.array(cut, { minLength: 1, maxLength: 4 }), (cuts) => {
        const text = cuts.reduce(
          (now, { at, remove, insert }) => now.slice(0, at) + insert + now.slice(at + remove),
          good,
        );
        // oxlint-disable-next-line no-control-regex -- what must not reach a terminal
        expect(thrown(text)?.message ?? "").not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u202e]/);
      }),
      { numRuns: 600 },
    );
  });
});
