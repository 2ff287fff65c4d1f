/**
 * `npm run build`: src -> dist.
 *
 *   *.js, *.d.ts     the library (tsc)
 *   *index.d.cts     its types for `require` under moduleResolution node16
 *   cli-HASH.cjs     the command line with its packages, one file
 *   explain-HASH.cjs the same with `explain` alone, which starts sooner
 *   *-HASH-NODE-ARCH.cache   V8's compiled code of them, as this Node makes it
 *   oomlab.cjs       the launcher: loads one of them and its compiled code
 *   agent.cjs        the same for the program of a guest: agent-HASH.cjs (its compiled code is made with the guest's image)
 *   workload.cjs     the program of the `node` workload
 *
 * A launcher is written last and names its bundle by content, so a build under way never breaks a command that starts.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { createRequire } from "node:module";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = join(root, "dist");
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** @param {string} file @param {string[]} args */
function node(file, ...args) {
  const { status, stdout } = spawnSync(process.execPath, [file, ...args], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });
  // What commands say while they are warmed up is for nobody.
  if (status !== 0) process.stdout.write(stdout);
  if (status !== 0) process.exit(status ?? 1);
}

/**
 * Modules of Node that are not there yet when a program starts: loading all of them costs a fifth of Node's own start, and
 * most commands use few. In the bundle each is loaded when something of it is first used.
 * @type {import("esbuild").Plugin}
 */
const lazyBuiltins = {
  name: "lazy-builtins",
  setup(bundler) {
    const filter =
      /^(?:node:)?(child_process|crypto|fs\/promises|net|os|readline|stream|timers\/promises|tty|v8|worker_threads|zlib)$/;
    bundler.onResolve({ filter }, ({ path, namespace }) =>
      namespace === "lazy" ? { path, external: true } : { path: path.replace("node:", ""), namespace: "lazy" },
    );
    bundler.onLoad({ filter: /./, namespace: "lazy" }, ({ path }) => {
      const names = Object.keys(createRequire(import.meta.url)(path));
      return {
        contents: `let m; const load = () => (m ??= require("node:${path}"));
          for (const name of ${JSON.stringify(names)}) Object.defineProperty(exports, name, { enumerable: true, get: () => load()[name] });`,
      };
    });
  },
};

/**
 * Leaves out of the command line what other commands load when they run.
 * @type {import("esbuild").Plugin}
 */
const explainOnly = {
  name: "explain-only",
  setup(bundler) {
    bundler.onResolve({ filter: /^\.\// }, ({ kind, path, importer }) =>
      kind === "dynamic-import" && /\/src\/(?:cli|report\/index)\.ts$/.test(importer) && path !== "./cli/explain.ts"
        ? { path, namespace: "absent" }
        : undefined,
    );
    bundler.onLoad({ filter: /./, namespace: "absent" }, () => ({ contents: "" }));
  },
};

/**
 * @param {string} entry
 * @param {{ open?: string, close?: string }} [wrapper]
 * @param {import("esbuild").Plugin[]} [plugins]
 */
async function bundle(entry, { open = "", close = "" } = {}, plugins = []) {
  const { outputFiles } = await build({
    entryPoints: [join(root, "src", entry)],
    absWorkingDir: root,
    bundle: true,
    write: false,
    format: "cjs",
    platform: "node",
    target: "node20.19",
    minify: true,
    legalComments: "none",
    // One byte a character: read as latin1, and V8 keeps it so.
    charset: "ascii",
    // The bundle runs in vm.Script, where import() needs a loader of its own.
    supported: { "dynamic-import": false },
    define: { "import.meta.url": "__oomlabUrl", "process.env.OOMLAB_VERSION": JSON.stringify(version) },
    banner: { js: `${open}const __oomlabUrl=require("node:url").pathToFileURL(__filename).href;` },
    footer: { js: close },
    plugins: [lazyBuiltins, ...plugins],
    logLevel: "warning",
  });
  const [output] = outputFiles;
  if (!output) throw new Error(`esbuild made nothing of ${entry}`);
  return output.text;
}

/** @param {string} name @param {string | Buffer} content @param {number} mode */
function place(name, content, mode = 0o644) {
  const path = join(dist, name);
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, content, { mode });
  chmodSync(temporary, mode);
  renameSync(temporary, path);
}

mkdirSync(dist, { recursive: true });
node(join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json");

/**
 * Types for `require`: under moduleResolution node16 a CommonJS file may take values from no ES module. Each value is
 * declared anew, with the ES module's type.
 * @param {string} name
 */
async function placeCommonTypes(name) {
  const values = Object.entries(await import(pathToFileURL(join(dist, `${name}.js`)).href));
  const mode = '{ "resolution-mode": "import" }';
  const lines = values.flatMap(([value, what]) => [
    `export declare const ${value}: Module["${value}"];`,
    ...(/^class\b/.test(String(what)) ? [`export type ${value} = InstanceType<Module["${value}"]>;`] : []),
  ]);
  const head = [
    `export type * from "./index.js" with ${mode};`,
    `type Module = typeof import("./index.js", { with: ${mode} });`,
  ];
  place(`${name}.d.cts`, `${[...head, ...lines].join("\n")}\n`);
}

await placeCommonTypes("index");
await placeCommonTypes("kmsg/index");
place("workload.cjs", await bundle("workload.ts"));
const wrapper = { open: "(function(exports,require,module,__filename,__dirname){", close: "})" };
const launcher = readFileSync(join(root, "scripts/launcher.cjs"), "utf8");
const kept = new Set();

/**
 * A bundle in dist, named by its content. With commands: V8's compiled code of it too, after these have run once.
 * @param {string} kind @param {string} entry @param {string[]} commands @param {import("esbuild").Plugin[]} [plugins]
 */
async function placeBundle(kind, entry, commands, plugins = []) {
  const text = await bundle(entry, wrapper, plugins);
  // The launcher reads it as latin1; a regular expression's literal is not escaped by `charset: ascii`.
  const foreign = /[\u0080-\uffff]/.exec(text);
  if (foreign)
    throw new Error(
      `the bundle is not ASCII at ${foreign.index}: write it as \\u in ${JSON.stringify(text.slice(foreign.index - 30, foreign.index + 10))}`,
    );
  const name = `${kind}-${createHash("sha256").update(text).digest("hex").slice(0, 12)}`;
  place(`${name}.cjs`, text);
  kept.add(`${name}.cjs`);
  if (commands.length > 0) {
    const cache = `${name}-${process.version}-${process.arch}.cache`;
    node(join(root, "scripts/codecache.cjs"), join(dist, `${name}.cjs`), join(dist, cache), ...commands);
    kept.add(cache);
  }
  return name;
}

/** @param {string} program @param {string} name @param {string} [explain] */
const placeLauncher = (program, name, explain = name) =>
  place(
    program,
    launcher.replaceAll("@VERSION@", version).replaceAll("@EXPLAIN@", explain).replaceAll("@BUNDLE@", name),
    0o755,
  );

placeLauncher("agent.cjs", await placeBundle("agent", "agent.ts", []));
const explain = await placeBundle("explain", "cli.ts", ["explain"], [explainOnly]);
placeLauncher("oomlab.cjs", await placeBundle("cli", "cli.ts", ["validate", "run"]), explain);

// What an earlier build left of sources that are gone.
for (const file of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
  const source = /^(.*)\.(?:js|d\.ts)$/.exec(file)?.[1];
  if (source !== undefined && !existsSync(join(root, "src", `${source}.ts`))) rmSync(join(dist, file));
}
for (const file of readdirSync(dist)) {
  if (/^(?:cli|agent|explain)-.*\.(?:cjs|cache)/.test(file) && !kept.has(file)) rmSync(join(dist, file));
}
