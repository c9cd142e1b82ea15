import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { loadGguf, loadModel, saveGguf } from "../../src/checkpoints/index.js";
import { load, train } from "../../src/index.js";
import { LlamaTransformer, defineSystem, depthByName, llamaArchitecture } from "../../src/models/index.js";
import {
  CausalLm,
  type ConfigOf,
  type Linear,
  configEntries,
  configTable,
  entry,
} from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

// A system that src knows nothing of: LLaMA's network with the output embeddings always tied, under a type of its own.

const { size } = configEntries;
const table = configTable({
  type: "own-tiny",
  title: "Own",
  fields: {
    vocabSize: entry("vocab", size),
    contextLength: entry("context", size, { absent: 64 }),
    hiddenSize: entry("width", size),
    numLayers: entry("depth", size),
    numHeads: entry("heads", size),
    intermediateSize: entry("inner", size, {
      absent: ({ hiddenSize }: { hiddenSize: number }) => 3 * hiddenSize,
    }),
  },
});
type OwnConfig = ConfigOf<typeof table>;

class Own extends CausalLm {
  static override readonly names = { transformer: "model", head: "lm_head" };
  readonly transformer: LlamaTransformer;
  readonly head: Linear | undefined = undefined;

  constructor(readonly config: OwnConfig) {
    super();
    this.transformer = new LlamaTransformer({
      ...config,
      numKeyValueHeads: config.numHeads,
      headSize: config.hiddenSize / config.numHeads,
      ropeTheta: 10_000,
      rmsNormEpsilon: 1e-6,
      initializerRange: 0.02,
    });
  }
}

const { contextLength, hiddenSize, intermediateSize, numLayers, numHeads } = llamaArchitecture.metadata;
const own = defineSystem({
  kind: "decoder",
  className: "OwnForCausalLM",
  config: table,
  sizes: {},
  create: (config) => new Own(config),
  depth: depthByName(/^model\.embed_tokens\./, /^model\.layers\.(\d+)\./),
  tokenizer: { kind: "byte-level BPE" },
  gguf: {
    architecture: "own",
    names: llamaArchitecture.names,
    metadata: { contextLength, hiddenSize, intermediateSize, numLayers, numHeads },
  },
});

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterAll(() => rm(folder, { recursive: true }));

it("a system outside src trains, saves, loads, generates and converts to GGUF", async () => {
  const runtime = createRuntime();
  const out = path.join(folder, "run");
  await writeFile(
    path.join(folder, "text.txt"),
    "one two three four five six seven eight nine ten\n".repeat(80),
  );
  const { best } = await train({
    system: own,
    data: path.join(folder, "text.txt"),
    sizes: { hiddenSize: 32, numLayers: 1, numHeads: 2, contextLength: 32 },
    vocabSize: 280,
    steps: 250,
    learningRate: 1e-2,
    out,
  });
  // Uniform guesses cost ln 280.
  expect(best).toBeLessThan(Math.log(280) / 2);

  await expect(load(out)).rejects.toThrow('model_type is "own-tiny"');
  const greedy = { temperature: 0, maxNewTokens: 8 };
  using model = await load(out, { systems: [own], kind: "decoder", runtime });
  let text = "";
  for await (const piece of model.generate("one two", greedy)) text += piece;
  expect(text).toMatch(/^ three four/);

  const loaded = await loadModel(runtime, out, { kind: "decoder", systems: [own] });
  using weights = loaded.weights;
  const gguf = path.join(folder, "own.gguf");
  await saveGguf(gguf, loaded, { format: "F32" });
  const back = await loadGguf(runtime, gguf, { systems: [own] });
  using again = back.weights;
  expect(back.model.config).toEqual(loaded.model.config);
  for (const [name, tensor] of Object.entries(weights.tensors))
    expect(again.get(name).view(), name).toEqual(tensor.view());
});
