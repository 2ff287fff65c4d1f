/** What ends a command whose oomlab was killed by SIGKILL: a shell that outlives it, and that a terminal's signals do not end. */
import { closeSync } from "node:fs";
import { type Addon, loadAddon } from "../native.ts";
import { instancePath, shareTracefs } from "./trace.ts";

/**
 * When its standard input closes, it kills what is in the cgroup and below it, as often as something forks, and removes
 * the cgroup and the trace's instance: what is gone already needs nothing.
 */
const script = `trap "" INT TERM HUP QUIT TSTP
read -r _
tries=0
while [ -d "$1" ] && [ $tries -lt 500 ]; do
  find "$1" -name cgroup.procs -exec cat {} + 2>/dev/null | while read -r pid; do kill -9 "$pid"; done
  find "$1" -depth -type d -exec rmdir {} + && break
  tries=$((tries + 1))
  sleep 0.02
done
tries=0
while [ -d "$2" ] && ! rmdir "$2" && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.02; done`;

/** It begins when this process ends. `directory`: the run's own cgroup; `name`: its trace instance's. */
export function startGuard(directory: string, name: string, addon: Addon = loadAddon()): void {
  const tracefs = shareTracefs(addon);
  // Our end closes with this process.
  const [, theirs] = addon.socketpair();
  try {
    const guard = addon.spawn({
      file: "/bin/sh",
      args: ["oomlab-guard", "-c", script, "oomlab-guard", directory, instancePath(tracefs === null ? null : 3, name)],
      env: [`PATH=${process.env["PATH"] ?? "/usr/bin:/bin"}`],
      stdio: tracefs === null ? [theirs, -1, -1] : [theirs, -1, -1, tracefs],
    });
    // Not waited for: it ends after this process, whose event loop its end would keep alive.
    if (guard.pidfd >= 0) closeSync(guard.pidfd);
  } finally {
    closeSync(theirs);
    if (tracefs !== null) closeSync(tracefs);
  }
}
