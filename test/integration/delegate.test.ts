import { chmodSync, existsSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { probeCgroups, readProcs } from "../../src/cgroup/index.ts";
import { delegatedScope } from "../../src/engine/delegate.ts";
import { loadAddon } from "../../src/native.ts";
import { canRun, eventually } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

/**
 * systemd cannot be PID 1 here, so `systemd-run` is a script that does what its --scope does: makes the scope's cgroup
 * beside ours, enters it, and becomes the command.
 */
describe("a scope delegated by systemd", needs(canRun), () => {
  const [hierarchy] = probeCgroups("/").hierarchies;
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "oomlab-delegate-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const script = (body: string): string => {
    const path = join(folder, "systemd-run");
    writeFileSync(path, `#!/bin/sh\n${body}`);
    chmodSync(path, 0o755);
    return path;
  };

  test("is held by a process of ours, found by its cgroup, and let go", async () => {
    if (!hierarchy) return;
    const name = `oomlab-scope${process.pid}`;
    const log = join(folder, "arguments");
    const stand = script(
      `echo "$@" > ${log}
while [ "$1" != sleep ]; do shift; done
mkdir "${hierarchy.directory}/${name}.scope" && echo $$ > "${hierarchy.directory}/${name}.scope/cgroup.procs" && exec "$@"
`,
    );
    const scope = await delegatedScope(loadAddon(), name, hierarchy.version, hierarchy.mount, stand);
    expect(scope.directory).toBe(join(hierarchy.directory, `${name}.scope`));
    expect(readFileSync(log, "utf8")).toMatch(
      new RegExp(`^(--user )?--scope --quiet --collect --unit=${name} -p Delegate=yes sleep infinity\n$`),
    );
    await scope.close();
    await eventually(() => readProcs(join(scope.directory, "cgroup.procs")).length === 0, "the holder's end");
    // systemd removes its scope itself; here nobody does.
    rmdirSync(scope.directory);
    expect(existsSync(scope.directory)).toBe(false);
  });

  test("that is refused is told in systemd-run's own words", async () => {
    if (!hierarchy) return;
    const refusing = script("echo 'Failed to start transient scope unit: Access denied' >&2; exit 1\n");
    await expect(
      delegatedScope(loadAddon(), "oomlab-refused", hierarchy.version, hierarchy.mount, refusing),
    ).rejects.toThrow(
      "systemd-run could not make a delegated scope: Failed to start transient scope unit: Access denied",
    );
  });
});
