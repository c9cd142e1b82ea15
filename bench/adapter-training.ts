/**
 * A training step of LoRA and QLoRA against PyTorch with peft (and bitsandbytes, where Python has it), in one run:
 *
 *   npm run build && node dist/bench/adapter-training.js [--python PATH] [--data FOLDER] [--only smollm2|1.1b] [--smoke]
 *
 * The shapes are those of SmolLM2-135M and TinyLlama-1.1B with random weights; adapters of rank 16 beside all linear layers;
 * AdamW. Every case has a process of its own on either side, and its peak memory counts from the first step on. "Chat lengths"
 * are those of the Alpaca rows in `FOLDER/chat`, four characters a token, with the loss on the answers. The peer gets eight rows
 * at a time (two of the large shape) in the order of the file, padded to the longest, as transformers' collator has them; here they are packed.
 */
import { existsSync, readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Random } from "../src/base/random.js";
import { type LlamaConfig, llamaConfig } from "../src/models/index.js";
import { createRuntime } from "../src/runtime/index.js";
import type { AdapterCase } from "./adapter-training-own.js";
import { type Answer, Peer, inOwnProcess } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    data: { type: "string", default: "../shared/data" },
    smoke: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
const { smoke } = options;
const { threads, version } = createRuntime();

const shapes: Readonly<Record<string, LlamaConfig>> = smoke
  ? {
      smollm2: llamaConfig({
        vocabSize: 512,
        hiddenSize: 64,
        intermediateSize: 128,
        numLayers: 2,
        numHeads: 2,
        numKeyValueHeads: 1,
        contextLength: 512,
        tieEmbeddings: true,
      }),
    }
  : {
      smollm2: llamaConfig({
        vocabSize: 49_152,
        hiddenSize: 576,
        intermediateSize: 1536,
        numLayers: 30,
        numHeads: 9,
        numKeyValueHeads: 3,
        contextLength: 2048,
        tieEmbeddings: true,
      }),
      "1.1b": llamaConfig({
        vocabSize: 32_000,
        hiddenSize: 2048,
        intermediateSize: 5632,
        numLayers: 22,
        numHeads: 32,
        numKeyValueHeads: 4,
        contextLength: 2048,
        tieEmbeddings: false,
      }),
    };

type Rows = AdapterCase["rows"];

/** Tokens of prompts and answers of Alpaca's rows, shuffled; drawn from a like distribution where the file is not there. */
function chatRows(count: number): Rows {
  const random = new Random(1);
  const file = path.join(options.data, "chat", "alpaca_en_demo.json");
  if (!existsSync(file))
    return Array.from({ length: count }, () => [12 + random.integer(30), 20 + random.integer(280)] as const);
  const rows = JSON.parse(readFileSync(file, "utf8")) as {
    instruction: string;
    input: string;
    output: string;
  }[];
  const order = random.permutation(rows.length).subarray(0, count);
  return Array.from(order, (place) => {
    const { instruction, input, output } = rows[place]!;
    const tokens = (text: string) => Math.ceil(text.length / 4);
    return [10 + tokens(instruction + input), Math.min(480, 1 + tokens(output))] as const;
  });
}

const batched = (rows: Rows, size: number): Rows[] =>
  Array.from({ length: rows.length / size }, (_, index) => rows.slice(index * size, (index + 1) * size));

interface Measured extends Answer {
  readonly processor: number;
  readonly missing?: string;
}

async function compare(name: string, own: AdapterCase, theirs: readonly Rows[]): Promise<void> {
  const tokens = own.rows.flat().reduce((a, b) => a + b, 0);
  const told = ({ seconds, processor, peakMiB }: Measured) =>
    `${(tokens / seconds[0]!).toFixed(0)} tokens/s, ${processor.toFixed(1)} s of processor time, ${peakMiB.toFixed(0)} MiB`;
  const { config, kind, rank } = own;
  const peer = await Peer.start(options.python, "adapter-training.py", threads);
  const request = { config, kind, rank, batches: theirs, checkpointing: own.gradientCheckpointing };
  const their = (await peer?.ask(request)) as Measured | undefined;
  peer?.stop();
  const mine = await inOwnProcess<Measured>("adapter-training-own.js", own);
  console.log(`  ${name}`);
  if (mine) console.log(`    lineage  ${told(mine)}`);
  if (their?.missing !== undefined) console.log(`    no peer: ${their.missing}`);
  else if (their) {
    console.log(`    PyTorch ${peer!.version}  ${told(their)}`);
    if (mine)
      console.log(
        `    ${(their.seconds[0]! / mine.seconds[0]!).toFixed(2)}x its speed (${(their.processor / mine.processor).toFixed(2)}x by processor time), ${(mine.peakMiB / their.peakMiB).toFixed(2)} of its memory`,
      );
  } else console.log("    PyTorch with peft is not here");
}

console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${threads} threads, ONNX Runtime ${version}${smoke ? ", smoke run" : ""}`,
);
for (const [name, config] of Object.entries(shapes)) {
  if (options.only !== undefined && options.only !== name) continue;
  console.log(`\n${name}: ${config.numLayers} layers of ${config.hiddenSize}`);
  const large = config.hiddenSize > 1000;
  // More of the large one's rows would take the peer more memory than a small machine has.
  const perBatch = large ? 2 : 8;
  const [batchSize, sequenceLength] = smoke ? [2, 32] : large ? [1, 256] : [4, 256];
  const equal: Rows = Array.from({ length: (large ? 2 : 3) * batchSize }, () => [0, sequenceLength] as const);
  const chats = chatRows((smoke ? 2 : 4) * perBatch);
  const packing = smoke
    ? { batchSize: 2, sequenceLength: 512 }
    : { batchSize: large ? 1 : 2, sequenceLength: 512 };
  for (const kind of ["lora", "qlora"] as const) {
    const common = { config, kind, rank: 16, gradientCheckpointing: false };
    await compare(
      `${kind}, ${batchSize} rows of ${sequenceLength} tokens`,
      { ...common, rows: equal, shape: { batchSize, sequenceLength } },
      batched(equal, batchSize),
    );
    await compare(
      `${kind}, chat lengths, ${chats.length} rows`,
      { ...common, rows: chats, shape: packing },
      batched(chats, perBatch),
    );
    if (!large)
      await compare(
        `${kind}, ${batchSize} rows of ${sequenceLength} tokens, gradient checkpointing`,
        { ...common, rows: equal, shape: { batchSize, sequenceLength }, gradientCheckpointing: true },
        batched(equal, batchSize),
      );
  }
}
