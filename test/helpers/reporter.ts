import type { Reporter, TestCase, TestModule, TestSuite } from "vitest/node";
import { cannotExistHere } from "./needs.ts";

declare module "vitest" {
  interface TaskMeta {
    /** What the machine lacks for this test or suite. */
    lacking?: string[];
  }
}

/**
 * Tells every test that passed at its second attempt only, with what failed at the first; and every skipped test with its
 * reason: on CI one that could have run there and did not fails the run.
 */
export class SkipReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    for (const test of modules.flatMap((module) => [...module.children.allTests("passed")])) {
      if (test.diagnostic()?.flaky !== true) continue;
      const errors = test.result().errors?.map(({ message, diff }) => `${message}${diff ? `\n${diff}` : ""}`) ?? [];
      console.log(
        `passed at a second attempt: ${test.module.relativeModuleId} > ${test.fullName}: ${errors.join("; ")}`,
      );
    }
    const skipped = modules.flatMap((module) => [...module.children.allTests("skipped")]);
    if (skipped.length === 0) return;
    const strict = process.env["CI"] === "true";
    const reasons = new Map<string, TestCase[]>();
    for (const test of skipped) {
      const reason = reasonOf(test) ?? "no reason given: use needs() of test/helpers/needs.ts";
      reasons.set(reason, [...(reasons.get(reason) ?? []), test]);
    }
    for (const [reason, tests] of reasons) {
      const forbidden = strict && !tests.every(mayBeSkipped);
      console.log(`${forbidden ? "error: not run, though CI must run it" : "skipped"}: ${tests.length} x ${reason}`);
      if (!forbidden) continue;
      for (const test of tests) console.log(`    ${test.module.relativeModuleId} > ${test.fullName}`);
      process.exitCode = 1;
    }
  }
}

function lackingOf(test: TestCase): string[] {
  const lacking: string[] = [];
  for (let task: TestCase | TestSuite | TestModule = test; task.type !== "module"; task = task.parent) {
    lacking.push(...(task.meta().lacking ?? []));
  }
  return [...new Set(lacking)];
}

function reasonOf(test: TestCase): string | undefined {
  const lacking = lackingOf(test);
  if (lacking.length > 0) return `needs ${lacking.join(", ")}`;
  const result = test.result();
  return result.state === "skipped" ? result.note : undefined;
}

function mayBeSkipped(test: TestCase): boolean {
  const lacking = lackingOf(test);
  return lacking.length > 0 && lacking.every((name) => name in cannotExistHere);
}
