import { defineConfig, type ViteUserConfig } from "vitest/config";
import { SkipReporter } from "./test/helpers/reporter.ts";

const ci = process.env["CI"] === "true";

/**
 * A real kernel under emulation, on a machine that others use: on CI a test has a second attempt, and the reporter tells
 * of each that needed it. Nowhere else, and never unit tests.
 */
const retry = ci ? 1 : 0;

/** Unit tests run side by side; tests that press on the kernel have it to themselves, one file after another. */
const config: ViteUserConfig = defineConfig({
  test: {
    pool: "forks",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ["default", new SkipReporter(), ...(ci ? ["json" as const] : [])],
    outputFile: { json: "test-results/vitest.json" },
    projects: [
      {
        extends: true,
        test: { name: "unit", include: ["test/*.test.ts", "test/unit/**/*.test.ts"], sequence: { groupOrder: 0 } },
      },
      {
        extends: true,
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          retry,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: "distro",
          include: ["test/distro/**/*.test.ts"],
          retry,
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 600_000,
          sequence: { groupOrder: 2 },
        },
      },
      {
        extends: true,
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          retry,
          fileParallelism: false,
          testTimeout: 180_000,
          sequence: { groupOrder: 3 },
        },
      },
    ],
  },
});

export default config;
