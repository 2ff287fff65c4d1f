import { describe, expect, test } from "vitest";
import { decode, encode, lineSplitter } from "../../src/machine/agent.ts";
import { disksOf, qemuArguments } from "../../src/machine/qemu.ts";
import { type Capabilities, type Plan, type PlanOptions, planScenario } from "../../src/plan.ts";
import { parseScenarios } from "../../src/scenario/index.ts";
import { machineWith } from "../helpers/capabilities.ts";

function plan(yaml: string, caps: Capabilities = machineWith(), options: Partial<PlanOptions> = {}): Plan {
  const [scenario] = parseScenarios(yaml, "test.yaml");
  if (!scenario) throw new Error("no scenario");
  return planScenario(scenario, caps, { runId: "abc12345", machine: "auto", ...options });
}

const mebibyte = 1048576;
const limited =
  "cgroups: { app: { memory.max: 90Mi } }\nprocesses: { hog: { cgroup: app, stress: { anon: 100Mi } } }\n";
const free = "processes: { hog: { stress: { anon: 8Gi } } }\n";

describe("where a scenario runs", () => {
  test.each([
    ["a limited process", limited, "host"],
    ["a process without a limit", free, "vm"],
    ["stated memory", `${limited}machine: { memory: 1Gi }`, "vm"],
    ["stated swap", `${limited}machine: { swap: 64Mi }`, "vm"],
    ["a sysctl", `${limited}machine: { sysctl: { vm.panic_on_oom: 1 } }`, "vm"],
    ["sysrq", `${limited}steps: [{ sysrq: f }]`, "vm"],
    ["what the host's cgroup version cannot do", limited.replace("90Mi", "90Mi, memory.oom.group: 1"), "vm"],
    ["v1's own files on a v2 host", limited.replace("memory.max", "memory.limit_in_bytes"), "vm"],
  ])("auto: %s", (_, yaml, machine) => {
    const only: (1 | 2)[] = yaml.includes("limit_in_bytes") ? [2] : [1];
    const planned = plan(yaml, machineWith({}, only));
    expect([planned.machine, planned.skip]).toEqual([machine, null]);
  });

  test("hybrid cgroups: a host that has them, else a VM; memory on v1 unless v2 is stated", () => {
    const hybrid = { hybrid: true } as const;
    expect(plan(limited, machineWith({ hybrid: true }, [1]), hybrid)).toMatchObject({ machine: "host", skip: null });
    const made = plan(limited, machineWith({}, [1]), hybrid);
    expect(made).toMatchObject({ machine: "vm", skip: null, cgroupVersion: 1, vm: { hybrid: true } });
    const mixed = plan(`${limited}machine: { cgroup: v2 }`, machineWith({}, [1]), hybrid);
    expect(mixed).toMatchObject({ machine: "vm", skip: null, cgroupVersion: 2, vm: { hybrid: true } });
    expect(plan(limited, machineWith({}, [1]), { ...hybrid, machine: "host" }).skip).toBe(
      "it needs a VM of its own: hybrid cgroups were asked for, and this machine's are not",
    );
  });

  test("what neither can do has the reason of the machine it belongs on", () => {
    const both = plan(limited.replace("90Mi", "90Mi, memory.high: 80Mi"), machineWith(), { cgroupVersion: 1 });
    expect([both.machine, both.skip]).toEqual([
      "host",
      "cgroup app: memory.high throttles; v1 has no such limit (cgroup v2 only)",
    ]);
  });

  test("machine vm is taken at its word, host too", () => {
    expect(plan(limited, machineWith(), { machine: "vm" }).machine).toBe("vm");
    expect(plan(free, machineWith(), { machine: "host" }).skip).toMatch(
      /^it needs a VM of its own: process hog has no/,
    );
  });

  test("the host must have the guest's memory free", () => {
    const planned = plan(`${limited}machine: { memory: 4Gi }`, machineWith({ memAvailable: 3 * 2 ** 30 }));
    expect(planned.skip).toBe(
      "its VM takes 4480Mi of memory, and 3Gi are available on this machine, which keeps 512Mi for itself",
    );
  });

  test("a guest too small for the engine is skipped", () => {
    expect(plan(`${limited}machine: { memory: 95Mi }`).skip).toMatch(/^the VM's 95Mi are too little/);
  });

  test("a kernel that the command line names must be the one stated", () => {
    const yaml = `${limited}machine: { memory: 1Gi, kernel: 6.1 }`;
    expect(plan(yaml, machineWith(), { kernel: "6.12" }).skip).toBe(
      "it states kernel 6.1, and --kernel 6.12 was asked for",
    );
    expect(plan(yaml, machineWith(), { kernel: "6.1" }).vm?.kernel).toBe("6.1");
    expect(plan(yaml).vm?.kernel).toBe("6.1");
  });
});

describe("the guest", () => {
  test("has 512Mi, or room for what its limits let in", () => {
    const memory = (yaml: string): number => (plan(yaml, machineWith(), { machine: "vm" }).vm?.memory ?? 0) / mebibyte;
    expect(memory(limited)).toBe(512);
    expect(memory(free)).toBe(512);
    expect(memory(limited.replace("90Mi", "600Mi").replace("100Mi", "700Mi"))).toBe(856);
    expect(memory(`${limited}machine: { memory: 300Mi }`)).toBe(300);
    expect(memory(`${limited}machine: { numa: [512Mi, 1Gi] }`)).toBe(1536);
  });

  test("has cgroup v2 at its root, v1 where the scenario needs it", () => {
    const v2 = plan(limited, machineWith(), { machine: "vm" });
    expect([v2.cgroupVersion, v2.top.path]).toEqual([2, "/oomlab-abc12345"]);
    expect(plan(`${limited}machine: { memory: 1Gi, cgroup: v1 }`).cgroupVersion).toBe(1);
    expect(
      plan(limited.replace("memory.max", "memory.limit_in_bytes"), machineWith(), { machine: "vm" }).cgroupVersion,
    ).toBe(1);
  });

  test("percent are of its memory", () => {
    const planned = plan("machine: { memory: 1Gi }\nprocesses: { hog: { stress: { anon: 50% } } }");
    expect(planned.processes[0]?.argv).toContain(String(512 * mebibyte));
  });

  test("gets a disk for swap and one for files only where they are needed", () => {
    const disks = (yaml: string): string[] => disksOf(plan(yaml).vm!).map(({ serial }) => serial);
    expect(disks(free)).toEqual([]);
    expect(disks(`${limited}machine: { swap: 64Mi }`)).toEqual(["swap"]);
    expect(disks(`${limited}machine: { swap: { size: 64Mi, kind: zram } }`)).toEqual([]);
    expect(disks(`${limited.replace("anon", "fileWrite")}machine: { swap: 64Mi }`)).toEqual(["swap", "scratch"]);
  });
});

describe("QEMU's arguments", () => {
  const parts = { kernel: "/k", initrd: "/i", image: "/a,b/image.erofs", accelerator: "tcg" as const };
  const args = (yaml: string): string => qemuArguments(plan(yaml).vm!, parts).join(" ");

  test("no network, no configuration of the user's, a monitor that only we can reach", () => {
    expect(args(free)).toMatch(/^-nodefaults -no-user-config /);
    expect(args(free)).not.toMatch(/-(nic|netdev|monitor|qmp)/);
    expect(args(free)).toMatch(/-chardev socket,id=monitor,fd=4 -mon chardev=monitor,mode=control/);
    expect(args(free)).toContain('"filename":"/a,b/image.erofs"');
  });

  test("firmware other than QEMU's own only where it is named", () => {
    expect(args(free)).not.toContain("-bios");
    const withFirmware = { ...parts, firmware: "/share/qboot.rom" };
    expect(qemuArguments(plan(free).vm!, withFirmware).join(" ")).toContain("-bios /share/qboot.rom -kernel /k");
  });

  test("NUMA nodes share the CPUs", () => {
    expect(args(`${limited}machine: { numa: [512Mi, 256Mi], cpus: 3 }`)).toContain(
      "-m 768 -object memory-backend-ram,id=mem0,size=512M -numa node,nodeid=0,cpus=0,cpus=2,memdev=mem0 -object memory-backend-ram,id=mem1,size=256M -numa node,nodeid=1,cpus=1,memdev=mem1",
    );
  });
});

describe("the agent's channel", () => {
  test("a message is a line, whatever the pieces it comes in", () => {
    const got: unknown[] = [];
    const lines = lineSplitter((line) => got.push(decode(line)));
    const text = encode({ type: "event", event: { type: "timeout", ms: 5 } }) + encode({ type: "done" });
    for (const letter of text) lines.push(letter);
    expect(got).toEqual([{ type: "event", event: { type: "timeout", ms: 5 } }, { type: "done" }]);
    expect(lines.rest()).toBe("");
  });

  test.each(["", "{", "null", "3", '{"type":7}', "\u0000"])("noise is none: %j", (line) => {
    expect(decode(line)).toBeNull();
  });
});
