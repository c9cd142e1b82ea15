import { execFileSync } from "node:child_process";
import { readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { filesUnder, installPacked } from "../support/packed.js";

let folder: string;
beforeAll(async () => {
  folder = await installPacked();
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** Runs a file of the user's project. */
async function run(name: string, source: string): Promise<string> {
  await writeFile(path.join(folder, name), source);
  return execFileSync(process.execPath, [name], {
    cwd: folder,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });
}

const use = `
  const x = graph.input("x", "float32", [2]);
  const engine = runtime.createRuntime();
  graph.compile(engine, { y: x.mul(3) })
    .then((program) => program.run({ x: engine.createTensor("float32", [2], Float32Array.of(1, 2)) }))
    .then(({ y }) => console.log([...y.view()].join()));`;

describe("the packed library, in a folder with spaces and other letters", () => {
  it("loads from an ECMAScript module", async () => {
    const output = await run(
      "user.mjs",
      `import * as graph from "lineage/graph";\nimport * as runtime from "lineage/runtime";\n${use}`,
    );
    expect(output).toBe("3,6\n");
  });

  it("loads from CommonJS", async () => {
    const output = await run(
      "user.cjs",
      `const graph = require("lineage/graph");\nconst runtime = require("lineage/runtime");\n${use}`,
    );
    expect(output).toBe("3,6\n");
  });

  it("is one library for both: a tensor of one is a tensor of the other", async () => {
    const output = await run(
      "both.mjs",
      `import { createRequire } from "node:module";
       import { Tensor } from "lineage/graph";
       console.log(createRequire(import.meta.url)("lineage/graph").Tensor === Tensor);`,
    );
    expect(output).toBe("true\n");
  });

  it("has every entry that its manifest names, with types", async () => {
    const manifest = JSON.parse(
      await readFile(path.join(folder, "node_modules/lineage/package.json"), "utf8"),
    ) as { exports: Record<string, { types: string; default: string }>; bin: Record<string, string> };
    const packed = new Set(
      (await filesUnder(path.join(folder, "node_modules/lineage"))).map((file) => `./${file}`),
    );
    for (const { types, default: main } of Object.values(manifest.exports)) {
      expect(packed).toContain(types);
      expect(packed).toContain(main);
    }
    const entries = Object.keys(manifest.exports)
      .filter((entry) => entry !== "./browser")
      .map((entry) => entry.replace("./", "lineage/"));
    const output = await run(
      "all.cjs",
      `console.log(${JSON.stringify(entries)}.every((entry) => Object.keys(require(entry)).length > 0));`,
    );
    expect(output).toBe("true\n");
    for (const file of packed)
      expect(file).not.toMatch(/\.test\.|\.tsbuildinfo$|^\.\/(tests|bench|recipes)\//);
  });

  it("has the command line", () => {
    const main = path.join(folder, "node_modules/lineage/dist/src/cli/main.js");
    expect(execFileSync(process.execPath, [main, "--help"], { encoding: "utf8" })).toContain(
      "Usage: lineage",
    );
    expect(execFileSync(process.execPath, [main, "--version"], { encoding: "utf8" })).toMatch(
      /^\d+\.\d+\.\d+\n$/,
    );
  });
});
