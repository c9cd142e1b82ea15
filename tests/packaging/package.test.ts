import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import webpack from "webpack";
import { filesUnder, installPacked } from "../support/packed.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
let folder: string;
let said: string;
let entries: string[];
let packed: Set<string>;
interface Manifest {
  readonly version: string;
  readonly exports: Record<string, string | { readonly types: string; readonly default: string }>;
}
let manifest: Manifest;

beforeAll(async () => {
  ({ folder, said } = await installPacked());
  const library = path.join(folder, "node_modules/lineage");
  packed = new Set((await filesUnder(library)).map((file) => `./${file}`));
  manifest = JSON.parse(await readFile(path.join(library, "package.json"), "utf8")) as Manifest;
  entries = Object.entries(manifest.exports)
    .filter(([, target]) => typeof target === "object")
    .map(([entry]) => entry.replace(/^\./, "lineage"));
  // Tools that a user brings, and the peer that the browser's entry asks for.
  for (const name of ["typescript", "@types/node", "undici-types", "onnxruntime-web", "onnxruntime-common"]) {
    const place = path.join(folder, "node_modules", name);
    if (existsSync(place)) continue;
    await mkdir(path.dirname(place), { recursive: true });
    await symlink(path.join(root, "node_modules", name), place);
  }
  // npm packs and installs: minutes on a machine that has other work.
}, 600_000);
afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** Runs a file of the user's project. */
const run = (name: string): string =>
  execFileSync(process.execPath, [name], {
    cwd: folder,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });

/** Writes a file of the user's project. */
async function write(name: string, source: string): Promise<string> {
  const file = path.join(folder, name);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, source);
  return file;
}

const use = `
  const x = graph.input("x", "float32", [2]);
  const engine = runtime.createRuntime();
  graph.compile(engine, { y: x.mul(3) })
    .then((program) => program.run({ x: engine.createTensor("float32", [2], Float32Array.of(1, 2)) }))
    .then(({ y }) => console.log([...y.view()].join()));`;
const imported = `import * as graph from "lineage/graph";\nimport * as runtime from "lineage";\n`;

describe("the packed library, installed in a folder with spaces and other letters", () => {
  it("installs without a word from npm, and without running a script of any package", async () => {
    expect(said.replace(/npm notice.*\n/g, "")).toBe("");
    const lock = JSON.parse(await readFile(path.join(folder, "package-lock.json"), "utf8")) as {
      packages: Record<string, { hasInstallScript?: boolean }>;
    };
    expect(Object.keys(lock.packages).filter((name) => lock.packages[name]!.hasInstallScript)).toEqual([]);
  });

  it("holds what a user needs and no more", () => {
    for (const target of Object.values(manifest.exports))
      for (const file of typeof target === "string" ? [target] : [target.types, target.default])
        expect(packed).toContain(file);
    for (const file of packed)
      expect(file).toMatch(
        /^\.\/(dist\/src\/.*\.(js|d\.ts)|dist\/engine\/(LICENSE|package\.json|bin\/.*\/[^/]+\.(so\.1|dylib|dll))|docs\/.*\.(md|svg|png)|LICENSE|README\.md|package\.json)$/,
      );
    for (const platform of ["linux/x64", "linux/arm64", "darwin/arm64", "win32/x64", "win32/arm64"])
      expect([...packed].filter((file) => file.includes(`/${platform}/`))).not.toEqual([]);
    for (const file of packed) expect(file).not.toMatch(/\.test\./);
  });

  it("has every source that it was built from, and nothing that an earlier build left", async () => {
    const sources = (await filesUnder(path.join(root, "src"))).flatMap(
      (file) => /^(.*)\.ts$/.exec(file)?.[1] ?? [],
    );
    const built = [...packed].flatMap((file) => /^\.\/dist\/src\/(.*)\.js$/.exec(file)?.[1] ?? []);
    expect(built.sort()).toEqual(sources.sort());
  });

  it("loads from an ECMAScript module", async () => {
    await write("user.mjs", imported + use);
    expect(run("user.mjs")).toBe("3,6\n");
  });

  it("loads from CommonJS, every entry", async () => {
    await write(
      "user.cjs",
      `const graph = require("lineage/graph");\nconst runtime = require("lineage");\n${use}`,
    );
    expect(run("user.cjs")).toBe("3,6\n");
    await write(
      "all.cjs",
      `console.log(${JSON.stringify(entries)}.every((entry) => Object.keys(require(entry)).length > 0));`,
    );
    expect(run("all.cjs")).toBe("true\n");
  });

  it("is one library for both: a tensor of one is a tensor of the other", async () => {
    await write(
      "both.mjs",
      `import { createRequire } from "node:module";
       import { Tensor } from "lineage/graph";
       console.log(createRequire(import.meta.url)("lineage/graph").Tensor === Tensor);`,
    );
    expect(run("both.mjs")).toBe("true\n");
  });

  it("trains a model, loads it, and generates and measures with it, by the front door alone", async () => {
    const source = `import { writeFileSync } from "node:fs";
import { type DecoderModel, finetune, load, systems, train } from "lineage";

writeFileSync("my.txt", "the cat sat on the mat.\\n".repeat(80));
const sizes = { hiddenSize: 16, numLayers: 1, numHeads: 2, contextLength: 16 };
const result = await train({
  system: "llama", data: "my.txt", sizes, tokenizer: "characters", steps: 12, batch: 4, evalEvery: 6, out: "run",
});
const best: number | undefined = result.best;
using model: DecoderModel = await load("run", { kind: "decoder" });
let text = "";
for await (const piece of model.generate("the ", { temperature: 0, maxNewTokens: 5 })) text += piece;
// @ts-expect-error a decoder has no vectors
void model.embed;
const said: { best: boolean; outcome: string; title: string; length: number; tuner: string } = {
  best: best !== undefined && best < Math.log(result.options.vocabSize),
  outcome: result.outcome,
  title: systems.llama.title,
  length: text.length,
  tuner: typeof finetune,
};
console.log(JSON.stringify(said));
`;
    await write("door/main.mts", source);
    await write(
      "door/tsconfig.json",
      JSON.stringify({
        compilerOptions: {
          strict: true,
          module: "nodenext",
          target: "es2022",
          lib: ["es2022", "esnext.disposable"],
          types: ["node"],
        },
        files: ["main.mts"],
      }),
    );
    const { stdout } = spawnSync(
      process.execPath,
      [path.join(folder, "node_modules/typescript/bin/tsc"), "-p", "door", "--preserveSymlinks"],
      { cwd: folder, encoding: "utf8" },
    );
    expect(stdout).toBe("");
    expect(JSON.parse(run("door/main.mjs"))).toEqual({
      best: true,
      outcome: "finished",
      title: "LLaMA",
      length: 5,
      tuner: "function",
    });
  });

  it("runs in a worker thread", async () => {
    await write("worker.mjs", imported + use);
    await write("main.mjs", `import { Worker } from "node:worker_threads";\nnew Worker("./worker.mjs");`);
    expect(run("main.mjs")).toBe("3,6\n");
  });

  it("has the command line", () => {
    const lineage = (...args: string[]) =>
      execFileSync(path.join(folder, "node_modules/.bin/lineage"), args, { encoding: "utf8" });
    expect(lineage("--help")).toContain("Usage: lineage");
    expect(lineage("--version")).toBe(`${manifest.version}\n`);
  });

  it.each([
    { module: "nodenext", extensions: ["mts", "cts"] },
    { module: "esnext", moduleResolution: "bundler", extensions: ["ts"] },
  ])(
    "is sound to a strict TypeScript project that checks its libraries too: $module, $extensions",
    async ({ extensions, ...modules }) => {
      const names = entries.map((_, index) => `entry${index}`);
      const imports = entries.map(
        (entry, index) => `import * as entry${index} from ${JSON.stringify(entry)};`,
      );
      const source = `${imports.join("\n")}\nexport const all = [${names.join(", ")}];\n`;
      for (const extension of extensions) await write(`typed/entries.${extension}`, source);
      const compilerOptions = { strict: true, noEmit: true, target: "es2022", types: ["node"], ...modules };
      await write(
        "typed/tsconfig.json",
        JSON.stringify({ compilerOptions, files: extensions.map((extension) => `entries.${extension}`) }),
      );
      const { stdout } = spawnSync(
        process.execPath,
        [path.join(folder, "node_modules/typescript/bin/tsc"), "-p", "typed", "--preserveSymlinks"],
        { cwd: folder, encoding: "utf8" },
      );
      expect(stdout).toBe("");
    },
  );
});

describe("bundlers take the packed library without configuration:", () => {
  it.each(["esm", "cjs"] as const)("esbuild, for Node, %s", async (format) => {
    const { warnings } = await esbuild.build({
      absWorkingDir: folder,
      stdin: { contents: imported + use, resolveDir: folder },
      bundle: true,
      platform: "node",
      format,
      outfile: `out/esbuild.${format === "esm" ? "mjs" : "cjs"}`,
      logLevel: "silent",
    });
    expect(format === "esm" ? warnings : []).toEqual([]);
    expect(run(`out/esbuild.${format === "esm" ? "mjs" : "cjs"}`)).toBe("3,6\n");
  });

  it("a bundle that lies where the library is not installed says so", async () => {
    const elsewhere = `${folder} elsewhere`;
    await mkdir(elsewhere);
    try {
      const outfile = path.join(elsewhere, "bundle.mjs");
      await esbuild.build({
        stdin: { contents: imported + use, resolveDir: folder },
        bundle: true,
        platform: "node",
        format: "esm",
        outfile,
        logLevel: "silent",
      });
      const { stderr, status } = spawnSync(process.execPath, [outfile], { encoding: "utf8" });
      expect(status).not.toBe(0);
      expect(stderr).toMatch(/LineageError: .*install.*beside the bundle/);
    } finally {
      await rm(elsewhere, { recursive: true });
    }
  });

  /** What webpack says of a bundle besides its size: every error, and warnings of this library's files. */
  const bundleByWebpack = (target: "node" | "web", entry: string) =>
    new Promise<string[]>((resolve, reject) => {
      webpack(
        {
          mode: "production",
          target,
          entry,
          context: folder,
          performance: { hints: false },
          output: { path: path.join(folder, "out", `webpack ${target}`) },
        },
        (error, stats) => {
          if (error) reject(error);
          const { errors = [], warnings = [] } =
            stats?.toJson({ all: false, errors: true, warnings: true }) ?? {};
          const own = warnings.filter(({ moduleName = "" }) => moduleName.includes("/lineage/"));
          resolve([...errors, ...own].map(({ message }) => message));
        },
      );
    });

  it("webpack, for Node", async () => {
    await write("user.mjs", imported + use);
    expect(await bundleByWebpack("node", "./user.mjs")).toEqual([]);
    expect(run("out/webpack node/main.js")).toBe("3,6\n");
  });

  const page = `import { Gpt2 } from "lineage/browser";
    import { trainByteLevelBpe } from "lineage/tokenizers";
    console.log(Gpt2.name, trainByteLevelBpe.name);`;

  it("webpack, for the browser", async () => {
    await write("page.mjs", page);
    expect(await bundleByWebpack("web", "./page.mjs")).toEqual([]);
  });

  it("Vite, for the browser", async () => {
    await write("site/main.js", page);
    await write("site/index.html", '<script type="module" src="/main.js"></script>');
    const warnings: string[] = [];
    await build({
      root: path.join(folder, "site"),
      configFile: false,
      logLevel: "warn",
      customLogger: {
        hasWarned: false,
        info: () => undefined,
        warn: (message) => void warnings.push(message),
        warnOnce: (message) => void warnings.push(message),
        error: (message) => void warnings.push(message),
        clearScreen: () => undefined,
        hasErrorLogged: () => false,
      },
    });
    expect(warnings.filter((message) => message.includes("node_modules/lineage/"))).toEqual([]);
    expect((await filesUnder(path.join(folder, "site/dist"))).some((file) => file.endsWith(".wasm"))).toBe(
      true,
    );
  });
});
