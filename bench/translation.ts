/**
 * Translation of the sentences of Multi30k's test_2016_flickr (or of lengths like theirs, where they are not there) by a
 * Transformer of base shape with random weights, beside CTranslate2, PyTorch with transformers and, greedily, transformers.js, in one run:
 *
 *   npm run bench -- translation [--python PATH] [--sentences N] [--data FOLDER]
 *
 * Random weights never end a text by themselves: every engine writes as many tokens as the reference has words and marks,
 * in a batch as many as its references have at the mean. The engines take turns on each batch, all in processes of their own.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { gunzipSync } from "node:zlib";
import { Random } from "../src/base/random.js";
import { exportEncoderDecoderForTransformersJs } from "../src/checkpoints/index.js";
import { saveWeightFiles, tensorsToSave } from "../src/formats/index.js";
import { transformer, transformerSizes } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { characterTokenizer } from "../src/tokenizers/index.js";
import { type Answer, Peer, median } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    data: { type: "string", default: "../shared/data" },
    sentences: { type: "string", default: "1000" },
    smoke: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
const { smoke } = options;
const runtime = createRuntime();
const random = new Random(1);

// ---- Sentences ----------------------------------------------------------------------------------------------------

function lengthsOf(language: string): number[] | undefined {
  const file = path.join(options.data, "multi30k", `test_2016_flickr.${language}.gz`);
  if (!existsSync(file)) return undefined;
  const lines = gunzipSync(readFileSync(file)).toString("utf8").trim().split("\n");
  // Words and marks, and the token at the end.
  return lines.map((line) => (line.match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu)?.length ?? 0) + 1);
}

const [german, english] = [lengthsOf("de"), lengthsOf("en")];
if (!german || !english)
  console.log(`${options.data}/multi30k is not there: lengths are drawn from a like distribution`);
const drawn = (): number => 8 + random.integer(7) + random.integer(7);
const pairs = Array.from({ length: german?.length ?? 1000 }, (_, index) => ({
  source: german?.[index] ?? drawn(),
  target: english?.[index] ?? drawn(),
}));

// ---- Model --------------------------------------------------------------------------------------------------------

const vocabSize = smoke ? 500 : 37_000;
const published = transformerSizes["transformer-base"].config;
const config = transformer.config.create({
  ...published,
  ...(smoke && {
    hiddenSize: 64,
    numLayers: 2,
    numDecoderLayers: 2,
    numHeads: 4,
    numDecoderHeads: 4,
    intermediateSize: 128,
    decoderIntermediateSize: 128,
  }),
  vocabSize,
  // Marian's padding is the last token; its row of the table is zero.
  padTokenId: vocabSize - 1,
  decoderStartTokenId: vocabSize - 1,
  initializerRange: 0.05,
});
const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-bench-"));
const exported = path.join(folder, "exported");
{
  const model = transformer.create(config);
  using weights = Weights.initialize(runtime, model, 1);
  const table = weights.get("model.shared.weight").view();
  table.fill(0, (vocabSize - 1) * config.hiddenSize);
  await saveWeightFiles(folder, tensorsToSave(weights));
  await writeFile(
    path.join(folder, "config.json"),
    JSON.stringify({
      architectures: [transformer.className],
      ...transformer.config.write(config),
      eos_token_id: 0,
    }),
  );
  // The tokenizer is never asked: every engine reads and writes ids.
  await exportEncoderDecoderForTransformersJs(
    exported,
    { system: transformer, model, weights, tokenizer: characterTokenizer("a"), stopIds: [0] },
    ["fp32"],
  );
}

// ---- Engines ------------------------------------------------------------------------------------------------------

interface Translated extends Answer {
  readonly ids?: number[][];
  readonly missing?: string;
}

const slots = 32;
/** It has no beam search. */
const greedyOnly = "transformers.js";
const engines = new Map<string, { peer: Peer; peak: number }>();
async function start(engine: string, command: string, script: string): Promise<void> {
  const peer = await Peer.start(command, script, runtime.threads);
  const answer = (await peer?.ask({ engine, folder, exported, slots })) as Translated | undefined;
  if (peer && answer?.missing === undefined) {
    engines.set(engine, { peer, peak: 0 });
    return;
  }
  peer?.stop();
  console.log(`without ${engine}: ${answer?.missing ?? command} is not there`);
}
await start("lineage float32", process.execPath, "translation-own.js");
await start("lineage int8", process.execPath, "translation-own.js");
for (const engine of ["CTranslate2 float32", "CTranslate2 int8", "PyTorch"])
  await start(engine, options.python, "translation.py");
await start(greedyOnly, process.execPath, "translation-transformers-js.js");

// ---- Runs ---------------------------------------------------------------------------------------------------------

const ids = (length: number): number[] =>
  Array.from({ length }, (_, place) => (place === length - 1 ? 0 : 2 + random.integer(vocabSize - 3)));

/** Sentences of like length together, for every engine; each batch writes one number of tokens. */
function batchesOf(size: number, count: number) {
  const chosen = pairs.slice(0, count).sort((a, b) => b.source - a.source || b.target - a.target);
  return Array.from({ length: Math.ceil(chosen.length / size) }, (_, index) => {
    const rows = chosen.slice(index * size, (index + 1) * size);
    const mean = rows.reduce((sum, { target }) => sum + target, 0) / rows.length;
    return { sources: rows.map(({ source }) => ids(source)), length: Math.round(mean) };
  });
}

async function compare(name: string, beams: number, size: number, count: number): Promise<void> {
  if (options.only !== undefined && !name.includes(options.only)) return;
  const batches = batchesOf(size, count);
  const tokens = batches.reduce((sum, { sources, length }) => sum + sources.length * length, 0);
  const seconds = new Map<string, number[]>();
  const first = new Map<string, string>();
  const order = [...engines.keys()].filter((engine) => beams === 1 || engine !== greedyOnly);
  // The first batch once before, so that everything is there.
  for (const engine of order) await engines.get(engine)!.peer.ask({ ...batches[0]!, beams });
  for (const [turn, batch] of batches.entries()) {
    for (const place of order.keys()) {
      // Another engine begins each time.
      const engine = order[(place + turn) % order.length]!;
      const one = engines.get(engine)!;
      const answer = (await one.peer.ask({ ...batch, beams })) as Translated;
      seconds.set(engine, [...(seconds.get(engine) ?? []), answer.seconds[0]!]);
      one.peak = Math.max(one.peak, answer.peakMiB);
      if (turn === 0) first.set(engine, JSON.stringify(answer.ids));
    }
  }
  const total = (engine: string): number => seconds.get(engine)!.reduce((a, b) => a + b, 0);
  console.log(`\n${name}: ${count} sentences, ${tokens} tokens`);
  for (const engine of order) {
    const own = engine.endsWith("int8") ? "lineage int8" : "lineage float32";
    // Of batches one after the other, what a disturbance of the machine hits counts little in the median.
    const ratio = median(seconds.get(engine)!.map((each, turn) => each / seconds.get(own)![turn]!));
    const versus = engine === own ? "" : `   ${own} has ${ratio.toFixed(2)}x its speed`;
    const same =
      first.get(engine) === first.get("lineage float32") ? "" : "   (other texts than lineage float32)";
    console.log(
      `${engine.padEnd(22)} ${(tokens / total(engine)).toFixed(0).padStart(6)} tokens/s   peak ${engines.get(engine)!.peak.toFixed(0).padStart(5)} MiB${versus}${same}`,
    );
  }
}

const all = smoke ? 8 : Number(options.sentences);
// One by one each sentence takes a run of its own: a part of them tells as much.
const single = Math.max(4, Math.ceil(all / 10));
await compare("greedy, batches of 32", 1, smoke ? 4 : 32, all);
await compare("beam 4, batches of 32", 4, smoke ? 4 : 32, all);
await compare("greedy, one by one", 1, 1, single);
await compare("beam 4, one by one", 4, 1, single);

for (const { peer } of engines.values()) peer.stop();
await rm(folder, { recursive: true });
