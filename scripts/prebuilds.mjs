// @ts-check
/** `npm pack`: puts the compiled native part of this machine where an installed package finds it, prebuilds/linux-ARCH/. */
import { copyFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
if (process.platform !== "linux") throw new Error("the package is made on Linux: its native part is compiled there");
const folder = join(root, `prebuilds/linux-${process.arch}`);
mkdirSync(folder, { recursive: true });
for (const file of ["oomlab.node", "stress"])
  copyFileSync(join(root, "native/build/Release", file), join(folder, file));
