/** Steps that act on a whole machine: done only in one that oomlab made. */
import { readFileSync, writeFileSync } from "node:fs";
import { type Addon, type ExitInfo, type SystemCallError } from "../native.ts";
import type { PlannedStep } from "../plan.ts";
import { findProgram } from "./process.ts";

export type MachineStep = Extract<PlannedStep, { do: "swapoff" | "swapon" | "sysrq" | "dropCaches" }>;

/** Swap devices as they were before a `swapoff`, for the `swapon` after it. */
let devices: string[] = [];

/** Does one step; what went otherwise than stated, or null. */
export async function machineStep(addon: Addon, step: MachineStep): Promise<string | null> {
  switch (step.do) {
    case "sysrq":
      return write("/proc/sysrq-trigger", step.key);
    case "dropCaches":
      return write("/proc/sys/vm/drop_caches", String(step.value));
    case "swapoff":
    case "swapon": {
      const active = swaps();
      if (step.do === "swapoff") devices = active;
      const wanted = step.do === "swapoff" ? active : devices.filter((device) => !active.includes(device));
      if (wanted.length === 0) return step.do === "swapoff" ? "there is no swap" : "there is no swap to turn on";
      for (const device of wanted) {
        let { code, signal } = await runTool(addon, step.do, device);
        // A swapoff that called the OOM killer gives up itself; what it made room for is gone by the next try.
        for (let again = 0; code !== 0 && again < 2; again++)
          ({ code, signal } = await runTool(addon, step.do, device));
        if (code !== 0)
          return `${step.do} ${device} ended with ${signal === null ? `status ${code}` : `signal ${signal}`}`;
      }
      return null;
    }
  }
}

const swaps = (): string[] =>
  readFileSync("/proc/swaps", "latin1")
    .split("\n")
    .slice(1)
    .flatMap((line) => line.split(/\s/)[0] || []);

function write(path: string, value: string): string | null {
  try {
    writeFileSync(path, value);
    return null;
  } catch (error) {
    return `writing ${value} to ${path} failed with ${(error as SystemCallError).code}`;
  }
}

/** A process of its own: the kernel's OOM killer takes whoever is in swapoff first. */
function runTool(addon: Addon, name: string, device: string): Promise<ExitInfo> {
  const child = addon.spawn({
    file: findProgram(name, "/"),
    args: [name, device],
    env: [],
    oomScoreAdj: 0,
    stdio: [-1, -1, -1],
    setsid: true,
    pdeathsig: 9,
  });
  return new Promise((resolve) => addon.onExit(child, resolve));
}
