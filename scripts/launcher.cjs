#!/usr/bin/env node
"use strict";
// Starts the command line: the bundle beside this file, with V8's compiled code of it where it is this very Node's:
// V8 takes another release's too where its own version is the same, and crashes.
const fs = require("node:fs");
const only = process.argv.length === 3 ? process.argv[2] : undefined;
if (only === "--version" || only === "-V") {
  fs.writeSync(1, "@VERSION@\n");
} else {
  // A log is often short: what reads it loads nothing else.
  const bundle = process.argv[2] === "explain" ? "@EXPLAIN@" : "@BUNDLE@";
  const filename = `${__dirname}/${bundle}.cjs`;
  let cachedData;
  try {
    cachedData = fs.readFileSync(`${__dirname}/${bundle}-${process.version}-${process.arch}.cache`);
  } catch {
    // Slower, not wrong.
  }
  const script = new (require("node:vm").Script)(fs.readFileSync(filename, "latin1"), { filename, cachedData });
  /** @type {{ exports: { main?: (argv: string[]) => Promise<number>, isWritten?: () => boolean } }} */
  const cli = { exports: {} };
  script.runInThisContext()(cli.exports, require, cli, filename, __dirname);
  cli.exports.main?.(process.argv.slice(2)).then(
    (code) => {
      process.exitCode = code;
      // Taking V8's heap apart takes what reads a log a tenth of its time; a command's guard ends behind us.
      if ((bundle === "@EXPLAIN@" || process.argv[2] === "exec") && cli.exports.isWritten?.()) process.exit();
    },
    (error) => {
      console.error(error);
      process.exitCode = 3;
    },
  );
}
