import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { afterAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const snippetsOf = (file: string): string[] =>
  [...readFileSync(path.join(root, file), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(
    ([, code]) => code!,
  );

// Beside the sources, where the name of the package leads to it.
const folder = mkdtempSync(path.join(root, ".snippets-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function write(name: string, code: string): string {
  const file = path.join(folder, `${name}.ts`);
  writeFileSync(file, code);
  return file;
}

describe("The TypeScript of the documentation", () => {
  it("is right by the types of the package", () => {
    const readme = snippetsOf("README.md");
    expect(readme.length).toBeGreaterThan(4);
    const files = [
      // A snippet goes on where the one before ended: the model of the first is the model of the second.
      write(
        "readme",
        readme
          .join("\n")
          .replaceAll(/^import .*$/gm, "")
          .replace(/^/, `${importsOf(readme)}\n`),
      ),
      ...snippetsOf("docs/own-architecture.md").map((code, index) => write(`own-${index}`, code)),
    ];
    const program = ts.createProgram(files, {
      strict: true,
      noEmit: true,
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts"],
      types: ["node"],
      skipLibCheck: true,
    });
    const problems = ts
      .getPreEmitDiagnostics(program)
      .map(({ file, start, messageText }) =>
        [
          file && `${path.basename(file.fileName)}:${file.getLineAndCharacterOfPosition(start!).line + 1}`,
          ts.flattenDiagnosticMessageText(messageText, " "),
        ].join(" "),
      );
    expect(problems).toEqual([]);
  });

  it("builds an architecture of one's own, trains it, loads it and writes with it", async () => {
    const out = await mkdtemp(path.join(os.tmpdir(), "lineage-own-"));
    try {
      const [code] = snippetsOf("docs/own-architecture.md");
      const compiled = ts.transpileModule(code!, {
        compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
      });
      const file = path.join(folder, "own.mjs");
      writeFileSync(file, compiled.outputText);
      const written = execFileSync(process.execPath, [file, path.join(out, "run"), "20"], {
        encoding: "utf8",
      });
      expect(written.length).toBeGreaterThan(20);
    } finally {
      await rm(out, { recursive: true });
    }
  });
});

/** One import of each module that the snippets name, with all that any of them takes from it. */
function importsOf(snippets: readonly string[]): string {
  const names = new Map<string, Set<string>>();
  for (const code of snippets)
    for (const [, list, module] of code.matchAll(/^import \{ (.*?) \} from "(.*?)";$/gm)) {
      const taken = names.get(module!) ?? new Set();
      for (const name of list!.split(", ")) taken.add(name);
      names.set(module!, taken);
    }
  return [...names]
    .map(([module, taken]) => `import { ${[...taken].join(", ")} } from "${module}";`)
    .join(" ");
}
