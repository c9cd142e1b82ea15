import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, Tensor as PeerTensor, env } from "@huggingface/transformers";
import * as ort from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Decoder, generate } from "../../src/generation/index.js";
import { compile, input } from "../../src/graph/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { Gpt2, gpt2Config, Llama, llamaConfig, systems } from "../../src/models/index.js";
import { exportForTransformersJs, saveDecoderOnnx } from "../../src/checkpoints/index.js";
import { type CausalLm, Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

const models: [string, CausalLm][] = [
  [
    "GPT-2",
    new Gpt2(gpt2Config({ hiddenSize: 32, numLayers: 2, numHeads: 2, vocabSize: 60, contextLength: 32 })),
  ],
  [
    "LLaMA with grouped queries",
    new Llama(
      llamaConfig({
        hiddenSize: 64,
        intermediateSize: 96,
        numLayers: 2,
        numHeads: 4,
        numKeyValueHeads: 2,
        vocabSize: 60,
        contextLength: 32,
      }),
    ),
  ],
];

const ids = (rows: readonly (readonly number[])[]) =>
  new ort.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);

describe.each(models)("%s exported with its cache, in plain onnxruntime-node", (name, model) => {
  let session: ort.InferenceSession;
  let weights: Weights;
  beforeAll(async () => {
    weights = Weights.initialize(runtime, model, 3);
    const file = path.join(folder, `${name}.onnx`);
    await saveDecoderOnnx(file, model, weights);
    session = await ort.InferenceSession.create(file);
  });
  afterAll(() => {
    weights.dispose();
  });

  /** Logits of each row's last token, read in two calls. */
  async function last(rows: number[][], mask: number[][], positions: number[][], first: number) {
    const [, heads, , headSize] = model.cacheShape(rows.length, 0) as number[];
    let past: Record<string, ort.Tensor> = {};
    for (let layer = 0; layer < model.config.numLayers; layer++) {
      for (const part of ["key", "value"]) {
        past[`past_key_values.${layer}.${part}`] = new ort.Tensor("float32", new Float32Array(), [
          rows.length,
          heads!,
          0,
          headSize!,
        ]);
      }
    }
    let logits: ort.Tensor | undefined;
    for (const [start, end] of [
      [0, first],
      [first, rows[0]!.length],
    ] as const) {
      const part = (table: number[][], from: number) => ids(table.map((row) => row.slice(from, end)));
      const results = await session.run({
        input_ids: part(rows, start),
        attention_mask: part(mask, 0),
        position_ids: part(positions, start),
        ...past,
      });
      logits = results["logits"]!;
      past = Object.fromEntries(
        Object.entries(results)
          .filter(([key]) => key.startsWith("present"))
          .map(([key, value]) => [key.replace("present", "past_key_values"), value]),
      );
    }
    const data = logits!.data as Float32Array;
    const { vocabSize } = model.config;
    const length = logits!.dims[1]!;
    return rows.map((_, row) =>
      data.slice((row * length + length - 1) * vocabSize, (row + 1) * length * vocabSize),
    );
  }

  async function own(row: number[]): Promise<Float32Array> {
    const inputIds = input("inputIds", "int64", ["batch", "sequence"]);
    using program = await compile(runtime, { logits: model.forward(inputIds) });
    using given = runtime.createTensor("int64", [1, row.length], BigInt64Array.from(row, BigInt));
    const { logits } = await program.run({ ...weights.tensors, inputIds: given });
    return ((await logits!.read()) as Float32Array).slice(-model.config.vocabSize);
  }

  const difference = (a: Float32Array, b: Float32Array) =>
    Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));

  it("gives the model's own logits, in one go and continued", async () => {
    const row = [3, 1, 4, 1, 5, 9, 2, 6];
    const positions = row.map((_, index) => index);
    const [logits] = await last([row], [row.map(() => 1)], [positions], 5);
    expect(difference(logits!, await own(row))).toBeLessThan(1e-5);
  });

  it("gives padded rows what they give alone, on whichever side the padding is", async () => {
    const [long, short] = [
      [3, 1, 4, 1, 5, 9],
      [2, 7, 1],
    ];
    const padded = [0, 0, 0, ...short];
    const [a, b] = await last(
      [long, padded],
      [long.map(() => 1), [0, 0, 0, 1, 1, 1]],
      [long.map((_, index) => index), [0, 0, 0, 0, 1, 2]],
      5,
    );
    expect(difference(a!, await own(long))).toBeLessThan(1e-5);
    expect(difference(b!, await own(short))).toBeLessThan(1e-5);
  });
});

describe("transformers.js", () => {
  it("loads an exported folder and writes the same greedy text", async () => {
    const text = "the cat sat on the mat and the dog sat on the log while the hen ran to the den";
    const tokenizer = trainByteLevelBpe([text], { vocabSize: 280 });
    const model = new Gpt2(
      gpt2Config({
        hiddenSize: 32,
        numLayers: 2,
        numHeads: 2,
        vocabSize: tokenizer.vocabSize,
        contextLength: 64,
      }),
    );
    using weights = Weights.initialize(runtime, model, 3);
    // Initial weights write one token for ever; larger ones write something to compare.
    const values = weights.flat.view();
    for (let i = 0; i < values.length; i++) values[i]! *= 8;
    await exportForTransformersJs(path.join(folder, "tiny"), {
      system: systems.gpt2,
      model,
      weights,
      tokenizer,
    });

    const prompt = tokenizer.encode("the cat");
    using decoder = await Decoder.create({ model, weights, capacity: 64 });
    const own: number[] = [];
    for await (const { id } of generate(decoder, [prompt], { temperature: 0, maxNewTokens: 20 }))
      if (id !== undefined) own.push(id);

    env.allowRemoteModels = false;
    env.localModelPath = folder;
    const peer = await AutoModelForCausalLM.from_pretrained("tiny", { dtype: "fp32" });
    const theirTokenizer = await AutoTokenizer.from_pretrained("tiny");
    expect([...(theirTokenizer.encode("the cat") as number[])]).toEqual([...prompt]);
    const output = (await peer.generate({
      inputs: new PeerTensor("int64", BigInt64Array.from(prompt, BigInt), [1, prompt.length]),
      max_new_tokens: 20,
      do_sample: false,
    } as never)) as PeerTensor;
    expect(Array.from(output.data as BigInt64Array, Number).slice(prompt.length)).toEqual(own);
    expect(new Set(own).size).toBeGreaterThan(3);
    await peer.dispose();
  });
});
