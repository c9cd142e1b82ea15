import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, expect, it } from "vitest";
import { bleu } from "../../src/metrics/index.js";
import { lineage } from "../support/cli.js";

const folders: string[] = [];
afterEach(async () => {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true });
});

async function filesOf(...texts: string[]): Promise<string[]> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-score-"));
  folders.push(folder);
  return Promise.all(
    texts.map(async (text, index) => {
      const file = path.join(folder, `${index}.txt`);
      await writeFile(file, text);
      return file;
    }),
  );
}

it("score reads texts line by line, whatever ends a line", async () => {
  const files = await filesOf("the cat sat on the mat\r\na dog\r\n", "the cat sat on a mat\na dog barks");
  const { stdout, status } = await lineage("score", ...files, "--json");
  expect(status).toBe(0);
  const result = JSON.parse(stdout) as { bleu: { score: number }; texts: number };
  expect(result.texts).toBe(2);
  expect(result.bleu.score).toBe(
    bleu(["the cat sat on the mat", "a dog"], [["the cat sat on a mat", "a dog barks"]]).score,
  );
});

it("score names the files of unequal length with their lines", async () => {
  const [file, reference] = await filesOf("one\ntwo\n", "one\ntwo\nthree\n");
  const { stderr, status } = await lineage("score", file!, reference!);
  expect(status).toBe(1);
  expect(stderr).toContain(`${file} has 2 lines, but ${reference} has 3`);
});
