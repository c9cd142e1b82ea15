import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { spawned } from "../support/cli.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "memory-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

const words = "the old miller walked slowly over a bridge while seven grey geese slept near cold water".split(
  " ",
);
const text = (count: number): string =>
  Array.from({ length: count }, (_, i) => words[(i * i + 3 * i) % words.length]!).join(" ");

/** Has the process say at its end what the system counted, kB. */
const told =
  "data:text/javascript,process.on('exit',()=>console.error('peak='+process.resourceUsage().maxRSS))";

it.each([
  [
    "next to nothing",
    4000,
    "--steps 400 --eval-every 200 --layers 1 --hidden 16 --heads 2 --context 16 --batch 1 --tokenizer characters",
  ],
  [
    "a small model of characters",
    40_000,
    "--steps 6 --eval-every 3 --layers 2 --hidden 64 --tokenizer characters",
  ],
  ["the default model", 40_000, "--steps 6 --eval-every 3 --vocab-size 2048"],
])("states the memory of %s within a tenth of what it takes", async (name, length, options) => {
  const data = path.join(folder, "text.txt");
  await writeFile(data, text(length));
  const { stdout, stderr, status } = spawned(
    ["train", "--data", data, ...options.split(" "), "--json"].concat("--out", path.join(folder, name)),
    { env: { NODE_OPTIONS: `--import=${told}` } },
  );
  expect(status, stderr).toBe(0);
  const lines = stdout.split("\n").filter((line) => line.includes('"memory"'));
  const { memory } = JSON.parse(lines[0]!) as { memory: { total: number } };
  const measured = 1024 * Number(/peak=(\d+)/.exec(stderr)![1]);
  expect(Math.abs(memory.total / measured - 1), `${memory.total} of ${measured}`).toBeLessThan(0.1);
});
