/** `oomlab doctor`: what this machine can run, what it lacks, and how to get it. */
import { existsSync, readFileSync } from "node:fs";
import type { Streams } from "../api.ts";
import { openOutputs } from "../api/outputs.ts";
import { OomlabError } from "../errors.ts";
import {
  cacheFolder,
  cacheProblem,
  containerFindings,
  hostMachine,
  kernelLogFindings,
  kubernetesFindings,
  knownAccelerator,
  kvmProblem,
  missingPrograms,
  traceProblem,
} from "../machine/index.ts";
import { loadAddon, stressPath } from "../native.ts";
import { formatBytes } from "../units.ts";

interface Finding {
  name: string;
  ok: boolean;
  /** What was found. */
  detail: string;
  /** What to do where something is missing. */
  hint: string | null;
  /** Without it no scenario runs here. */
  needed: boolean;
}

export async function doctor(flags: { reporter: string[] }, streams: Streams): Promise<number> {
  const { outputs, close } = openOutputs(flags.reporter, ["terminal", "json"], streams);
  try {
    const findings = [native(), ...(await host())];
    const ok = findings.every((finding) => finding.ok || !finding.needed);
    for (const { name, output } of outputs) {
      if (name === "json") output.write(`${JSON.stringify({ ok, findings }, null, 2)}\n`);
      else output.write(findingsText(findings, ok));
    }
    return ok ? 0 : 3;
  } finally {
    close();
  }
}

function findingsText(findings: readonly Finding[], able: boolean): string {
  const lines = findings.flatMap(({ name, ok, detail, hint, needed }) => [
    `${ok ? "✓" : needed ? "✗" : "-"} ${name}: ${detail}`,
    ...(ok || hint === null ? [] : [`    ${hint}`]),
  ]);
  return [...lines, `this machine ${able ? "can" : "cannot"} run host scenarios`, ""].join("\n");
}

/** What a VM needs is installed when the first one is asked for. */
function vm(): Finding {
  const missing = missingPrograms();
  return {
    name: "machine vm",
    ok: missing.length === 0,
    detail:
      missing.length === 0
        ? `QEMU and erofs-utils are there; ${acceleration()}`
        : `missing: ${missing.join(", ")}; ${acceleration()}`,
    hint: "as root on Debian or Ubuntu it is installed with the first VM; else: apt-get install qemu-system-x86 erofs-utils",
    needed: false,
  };
}

const container = async (): Promise<Finding> => ({
  name: "machine container",
  ...(await containerFindings()),
  needed: false,
});

const kubernetes = async (): Promise<Finding> => ({
  name: "machine kubernetes",
  ...(await kubernetesFindings()),
  needed: false,
});

/** Images, kernels and snapshots of VMs are kept. */
function cache(): Finding {
  const problem = cacheProblem();
  return {
    name: "the VM's cache",
    ok: problem === null,
    detail: problem ?? cacheFolder(),
    hint: "name another folder in XDG_CACHE_HOME",
    needed: false,
  };
}

function acceleration(): string {
  const problem = kvmProblem();
  if (problem !== null) return `software emulation, since ${problem}`;
  const known = knownAccelerator();
  if (known === "kvm") return "KVM: a guest starts with it";
  if (known === "tcg") return "software emulation: with KVM a guest's kernel does not start";
  return "KVM is tried with the first VM";
}

/** The fourth witness. */
function signals(): Finding {
  const problem = traceProblem(loadAddon());
  return {
    name: "senders of signals",
    ok: problem === null,
    detail: problem ?? "tracefs names the sender of each SIGKILL and SIGTERM",
    hint: "run as root; without it a SIGKILL that is no OOM kill has no name",
    needed: false,
  };
}

function native(): Finding {
  try {
    loadAddon();
    return { name: "native part", ok: true, detail: stressPath(), hint: null, needed: true };
  } catch (error) {
    const hint = error instanceof OomlabError ? (error.hint ?? null) : null;
    return { name: "native part", ok: false, detail: (error as Error).message, hint, needed: true };
  }
}

/** The user instance of systemd, which gives a user without root a cgroup of their own. */
function userInstance(uid: number): Finding {
  const runtime = process.env["XDG_RUNTIME_DIR"] ?? `/run/user/${uid}`;
  const ok = existsSync(`${runtime}/systemd/private`) || existsSync(`${runtime}/bus`);
  const controllers = readOr(`/sys/fs/cgroup/user.slice/user-${uid}.slice/user@${uid}.service/cgroup.controllers`);
  return {
    name: "systemd user instance",
    ok,
    detail: ok
      ? `runs for uid ${uid}: it can delegate a scope${controllers === "" ? "" : ` with the controllers ${controllers}`}`
      : `none runs for uid ${uid}: no delegated scope without root`,
    hint: "log in through ssh or a console (su and sudo start none), or type `sudo loginctl enable-linger $USER` and set XDG_RUNTIME_DIR=/run/user/$(id -u)",
    needed: false,
  };
}

function readOr(path: string): string {
  try {
    return readFileSync(path, "latin1").trim();
  } catch {
    return "";
  }
}

async function host(): Promise<Finding[]> {
  if (process.platform !== "linux")
    return [
      {
        name: "Linux",
        ok: false,
        detail: `this is ${process.platform}`,
        hint: "oomlab runs scenarios on Linux; `oomlab explain` works everywhere",
        needed: true,
      },
    ];
  const caps = await hostMachine().probe();
  const some = caps.hierarchies.length > 0;
  const version = (number: 1 | 2): Finding => {
    const found = caps.hierarchies.find((hierarchy) => hierarchy.version === number);
    return {
      name: `cgroup v${number}`,
      ok: found !== undefined,
      detail: found ? `memory controller usable at ${found.directory}` : (caps.cgroupProblems[number] ?? "not usable"),
      hint: some ? null : "a container: run it with --privileged; a machine: run oomlab as root",
      // The version that this machine does not use is not missing.
      needed: !some && number === (caps.memoryController ?? 2),
    };
  };
  const has = (name: string, why: string): Finding => ({
    name: `CAP_${name}`,
    ok: caps.capabilities.includes(name),
    detail: caps.capabilities.includes(name) ? `there: ${why}` : `missing: no ${why}`,
    hint: "run as root with this capability (a container: --privileged or --cap-add); scenarios that need it are skipped",
    needed: false,
  });
  return [
    {
      name: "kernel",
      ok: true,
      detail: `${caps.kernel}, ${caps.cpus} CPUs, ${formatBytes(Math.floor(caps.memAvailable / 1048576) * 1048576)} of memory available, ${caps.swapTotal === 0 ? "no swap" : `${formatBytes(Math.floor(caps.swapTotal / 1048576) * 1048576)} of swap`}`,
      hint: null,
      needed: false,
    },
    version(1),
    version(2),
    // Without one a scenario runs all the same: what then stays open is said before a run.
    { name: "kernel log", ...kernelLogFindings(caps), needed: false },
    signals(),
    {
      name: "pid namespace",
      ok: caps.initPidNamespace,
      detail: caps.initPidNamespace
        ? "the initial one: pids are the kernel log's"
        : "a private one: kills are matched by their cgroup",
      hint: null,
      needed: false,
    },
    has("SYS_RESOURCE", "lowering oom_score_adj, raising rlimits"),
    has("SETUID", "running processes as another user"),
    {
      name: "userspace OOM killers",
      ok: caps.oomKillers.length === 0,
      detail:
        caps.oomKillers.length === 0
          ? "none running"
          : `${caps.oomKillers.join(", ")} may send SIGKILL first; verdicts name it`,
      hint: null,
      needed: false,
    },
    ...(caps.uid !== 0 && existsSync("/run/systemd/system") ? [userInstance(caps.uid)] : []),
    {
      name: "systemd",
      ok: caps.systemd !== null || some,
      detail:
        caps.systemd === null
          ? "delegates nothing to oomlab here"
          : `${caps.systemd.manager === "user" ? "this user's instance" : "it"} owns the cgroup tree: a run gets a delegated scope`,
      hint: null,
      needed: false,
    },
    vm(),
    cache(),
    await container(),
    await kubernetes(),
  ];
}
