/**
 * Encoders against PyTorch with transformers and, in inference, transformers.js, in one run:
 *
 *   npm run build && node dist/bench/encoders.js [--python PATH] [--data FOLDER] [--smoke]
 *
 * BERT-base shapes with random weights. "Real lengths" are those of SST-2's sentences in `FOLDER/sst2`, in words and two
 * special tokens. The peers get the sentences in the order of the file, padded to the longest of each batch; here those of
 * like length share a batch, which is the whole point.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { compile, input } from "../src/graph/index.js";
import { saveOnnx } from "../src/formats/index.js";
import { bert, bertConfig, bertForMaskedLm, bertSizes, configJson } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import { type MaskedRow, maskedBatch, maskTokens, maskedLmObjective } from "../src/objectives/index.js";
import { Random } from "../src/base/random.js";
import { createRuntime } from "../src/runtime/index.js";
import { GradientNorm, TrainingStep, adamW, clippingFactor } from "../src/training/index.js";
import { Peer, timed } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    data: { type: "string", default: "../shared/data" },
    smoke: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
const runtime = createRuntime();
const { smoke } = options;
const config = smoke
  ? bertConfig({
      hiddenSize: 64,
      numLayers: 2,
      numHeads: 2,
      vocabSize: 512,
      hiddenDropout: 0,
      attentionDropout: 0,
    })
  : { ...bertSizes["bert-base-uncased"].config, hiddenDropout: 0, attentionDropout: 0 };
const random = new Random(1);

/** Lengths of SST-2's sentences, shuffled; drawn from a like distribution where the file is not there. */
function realLengths(file: string): number[] {
  const name = path.join(options.data, "sst2", file);
  const lengths = existsSync(name)
    ? readFileSync(name, "utf8")
        .trim()
        .split("\n")
        .map((line) => line.split("\t")[0]!.split(" ").length + 2)
    : Array.from({ length: 1000 }, () => 4 + random.integer(20) + random.integer(20));
  return Array.from(random.permutation(lengths.length), (index) => lengths[index]!);
}

const inBatches = (lengths: readonly number[], size: number): number[][] =>
  Array.from({ length: lengths.length / size }, (_, index) =>
    lengths.slice(index * size, (index + 1) * size),
  );
const byLength = (lengths: readonly number[]): number[] => [...lengths].sort((a, b) => b - a);
const total = (seconds: readonly number[]): number => seconds.reduce((a, b) => a + b, 0);
const ids = (length: number): number[] =>
  Array.from(
    { length },
    () => (1000 % config.vocabSize) + random.integer(config.vocabSize - (1000 % config.vocabSize)),
  );

function report(
  name: string,
  sentences: number,
  own: number,
  peers: Record<string, number | undefined>,
): void {
  const rate = (seconds: number) => `${(sentences / seconds).toFixed(1)} sentences/s`;
  const ratios = Object.entries(peers)
    .filter((entry): entry is [string, number] => entry[1] !== undefined)
    .map(([peer, seconds]) => `   ${peer} ${rate(seconds)}: ${(seconds / own).toFixed(2)}x its speed`);
  console.log(`${name.padEnd(42)} ${rate(own)}${ratios.join("")}`);
}

const peer = await Peer.start(options.python, "encoders.py", runtime.threads);
console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${runtime.threads} threads, ONNX Runtime ${runtime.version}, ${peer ? `PyTorch ${peer.version}` : "no PyTorch"}${smoke ? ", smoke run" : ""}\n`,
);

/** One masked-LM training step for each batch of sentences: forward, backward, norm, AdamW. */
async function train(
  name: string,
  batches: number[][],
  order: (lengths: number[]) => number[],
): Promise<void> {
  const model = bertForMaskedLm(config);
  const { encoder, head } = model;
  const objective = maskedLmObjective({
    model,
    encode: (inputs, context) => encoder.encode(inputs, context),
    maskedLosses: (hidden, labels) => head.losses(hidden, labels),
  });
  using weights = Weights.initialize(runtime, model, 1);
  using gradients = weights.like();
  using step = await TrainingStep.create(objective, weights, gradients);
  using optimizer = await adamW(weights, gradients);
  using norm = await GradientNorm.create(runtime, gradients);
  const vocabulary = { size: config.vocabSize, maskId: 103, specialIds: new Set([0, 101, 102, 103]) };
  const made = inBatches(order(batches.flat()), batches[0]!.length).map((lengths) =>
    maskedBatch(
      lengths.map((length): MaskedRow => {
        const row = ids(length);
        return { ids: row, typeIds: row.map(() => 0), ...maskTokens(row, vocabulary, {}, random) };
      }),
      0,
    ),
  );
  const run = async (batch: (typeof made)[number]): Promise<void> => {
    await step.run(batch);
    const length = await norm.measure();
    await optimizer.update({ learningRate: 1e-4, gradientScale: clippingFactor(length, 1) });
  };
  // The largest batch first, so that memory has its size.
  await run(made[0]!);
  const seconds: number[] = [];
  for (const batch of made) seconds.push(...(await timed(1, () => run(batch))));
  const theirs = await peer?.ask({ op: "train", config, batches });
  report(name, batches.flat().length, total(seconds), { PyTorch: theirs && total(theirs.seconds) });
}

/** Logits of every sentence, in batches. */
async function classify(batches: number[][]): Promise<void> {
  const model = bert.heads.classify.create(config, 2);
  using weights = Weights.initialize(runtime, model, 1);
  const perToken = ["batch", "sequence"];
  const logits = model.forward({
    inputIds: input("input_ids", "int64", perToken),
    attentionMask: input("attention_mask", "int64", perToken).cast("bool"),
    tokenTypeIds: input("token_type_ids", "int64", perToken),
  });
  // Weights that stay as they are: the engine packs them once, as it does for transformers.js.
  using program = await compile(runtime, { logits }, { constants: { tensors: weights.tensors, packed: {} } });
  const tensorsOf = (lengths: readonly number[]) => {
    const sequence = Math.max(...lengths);
    const shape = [lengths.length, sequence];
    const data = {
      ids: new BigInt64Array(lengths.length * sequence),
      mask: new BigInt64Array(lengths.length * sequence),
    };
    lengths.forEach((length, row) => {
      data.ids.set(ids(length).map(BigInt), row * sequence);
      data.mask.fill(1n, row * sequence, row * sequence + length);
    });
    return { shape, ...data, types: new BigInt64Array(data.ids.length) };
  };
  const own = inBatches(byLength(batches.flat()), batches[0]!.length).map(tensorsOf);
  const run = async ({ shape, ids: tokens, mask, types }: (typeof own)[number]): Promise<void> => {
    using tokenTensor = runtime.createTensor("int64", shape, tokens);
    using maskTensor = runtime.createTensor("int64", shape, mask);
    using typeTensor = runtime.createTensor("int64", shape, types);
    const result = await program.run({
      input_ids: tokenTensor,
      attention_mask: maskTensor,
      token_type_ids: typeTensor,
    });
    await result["logits"]!.read();
    result["logits"]!.dispose();
  };
  await run(own[0]!);
  const seconds: number[] = [];
  for (const batch of own) seconds.push(...(await timed(1, () => run(batch))));
  const theirs = await peer?.ask({ op: "classify", config, batches });

  // The same network, exported, in transformers.js.
  const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-bench-"));
  try {
    await saveOnnx(path.join(folder, "model.onnx"), { logits }, { weights });
    await writeFile(
      path.join(folder, "config.json"),
      JSON.stringify(configJson(bert, config, { head: "classify" })),
    );
    const { AutoModelForSequenceClassification, Tensor, env } = await import("@huggingface/transformers");
    env.allowRemoteModels = false;
    env.localModelPath = path.dirname(folder);
    const loaded = await AutoModelForSequenceClassification.from_pretrained(path.basename(folder), {
      dtype: "fp32",
      device: "cpu",
      subfolder: "",
    });
    const given = batches.map(tensorsOf).map(({ shape, ids: tokens, mask, types }) => ({
      input_ids: new Tensor("int64", tokens, shape),
      attention_mask: new Tensor("int64", mask, shape),
      token_type_ids: new Tensor("int64", types, shape),
    }));
    await loaded(given[0]!);
    const transformersJs: number[] = [];
    for (const inputs of given) transformersJs.push(...(await timed(1, () => loaded(inputs))));
    report("BERT-base inference, SST-2 lengths, by 32", batches.flat().length, total(seconds), {
      PyTorch: theirs && total(theirs.seconds),
      "transformers.js": total(transformersJs),
    });
    await loaded.dispose();
  } finally {
    await rm(folder, { recursive: true });
  }
}

const [rows, sequence, repeats] = smoke ? [4, 16, 2] : [8, 128, 4];
const wanted = (part: string) => options.only === undefined || options.only === part;
if (wanted("equal")) {
  const equal = Array.from({ length: repeats }, () => Array.from({ length: rows }, () => sequence));
  await train(`BERT-base masked LM, ${rows} x ${sequence} tokens`, equal, (lengths) => lengths);
}
if (wanted("real")) {
  const lengths = realLengths("train.tsv").slice(0, (smoke ? 2 : 4) * 32);
  await train("BERT-base masked LM, SST-2 lengths, by 32", inBatches(lengths, 32), byLength);
}
if (wanted("inference")) await classify(inBatches(realLengths("dev.tsv").slice(0, smoke ? 64 : 512), 32));
peer?.stop();
