/**
 * What a test needs from the machine it runs on. A test that lacks something is skipped and says what:
 *
 *     test("kills the hog", needs("root", process.getuid?.() === 0), () => { ... });
 *     describe("v2", needs({ "cgroup v2 memory controller": v2, root }), () => { ... });
 *
 * On CI (CI=true) a skipped test fails the run, unless all that it lacks is listed in `cannotExistHere`.
 */
export function needs(what: string, available: boolean): Needs;
export function needs(all: Readonly<Record<string, boolean>>): Needs;
export function needs(what: string | Readonly<Record<string, boolean>>, available?: boolean): Needs {
  const all = typeof what === "string" ? { [what]: available ?? false } : what;
  const lacking = Object.keys(all).filter((name) => !all[name]);
  return lacking.length === 0 ? {} : { skip: true, meta: { lacking } };
}

/** Options of `test` and `describe`. */
export interface Needs {
  skip?: true;
  meta?: { lacking: string[] };
}

/** What CI's machine cannot have, each with the reason. Everything else must be there: .ci/run installs it. */
export const cannotExistHere: Readonly<Record<string, string>> = {
  "cgroup v2 memory controller": "CI's kernel has the memory controller on cgroup v1",
};
