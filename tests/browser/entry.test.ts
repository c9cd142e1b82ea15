import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

/** What a file imports or re-exports for its values, types left out. */
function importsOf(file: string): string[] {
  const text = readFileSync(file, "utf8");
  const statement = /^(?:import|export)(?!\s+type\b)\s(?:[^;'"]*?\sfrom\s)?\s*"([^"]+)";/gm;
  return [...text.matchAll(statement)].map((match) => match[1]!);
}

it("the browser's entry reaches no file that needs Node", () => {
  const entry = fileURLToPath(new URL("../../src/browser.ts", import.meta.url));
  const from = new Map<string, string>([[entry, ""]]);
  const queue = [entry];
  const needsNode: string[] = [];
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    for (const name of importsOf(file)) {
      if (/^node:|^koffi$|^onnxruntime-node$/.test(name)) {
        const chain = [name];
        for (let at = file; at !== ""; at = from.get(at)!)
          chain.unshift(path.relative(path.dirname(entry), at));
        needsNode.push(chain.join(" -> "));
      }
      if (!name.startsWith(".")) continue;
      const target = path.resolve(path.dirname(file), name.replace(/\.js$/, ".ts"));
      if (from.has(target)) continue;
      from.set(target, file);
      queue.push(target);
    }
  }
  expect(from.size).toBeGreaterThan(30);
  for (const part of ["tokenizers/tokenizer.ts", "tokenizers/chat-template.ts", "graph/compile.ts"])
    expect(from.has(path.join(path.dirname(entry), part)), part).toBe(true);
  expect(needsNode).toEqual([]);
});
