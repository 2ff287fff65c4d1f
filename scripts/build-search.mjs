// @ts-check
/** Compiles src/kmsg/assembly/search.ts into src/kmsg/search.wasm.ts. Run it after a change; a test compares the two. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "oomlab-search-"));
const output = join(folder, "search.wasm");
try {
  const flags = [
    "--enable",
    "simd",
    "--runtime",
    "stub",
    "--noAssert",
    "-O3",
    "--converge",
    "--importMemory",
    "--noExportMemory",
  ];
  execFileSync(join(root, "node_modules/.bin/asc"), ["src/kmsg/assembly/search.ts", ...flags, "-o", output], {
    cwd: root,
    stdio: "inherit",
  });
  const lines =
    readFileSync(output)
      .toString("base64")
      .match(/.{1,100}/g) ?? [];
  writeFileSync(
    process.argv[2] ?? join(root, "src/kmsg/search.wasm.ts"),
    `// Made from assembly/search.ts by scripts/build-search.mjs.\nexport const SEARCH_WASM: string =\n${lines.map((line) => `  "${line}"`).join(" +\n")};\n`,
  );
} finally {
  rmSync(folder, { recursive: true });
}
