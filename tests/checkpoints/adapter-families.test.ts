import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, expect, it } from "vitest";
import {
  loadAdapter,
  mergeAdapter,
  networkForTask,
  saveAdapter,
  withRowNorms,
} from "../../src/checkpoints/index.js";
import { type Tensor, compile, input } from "../../src/graph/index.js";
import { headOf, systemsOfKind } from "../../src/models/index.js";
import {
  CausalLm,
  type EncoderDecoder,
  EncoderWithHead,
  type HeadName,
  type Module,
  type WeightSet,
  Weights,
  addLora,
  namedParameters,
  wholeNames,
} from "../../src/nn/index.js";
import { ModelWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { relativeError } from "../support/reference.js";

const runtime = createRuntime({ threads: 1 });
const root = mkdtempSync(path.join(os.tmpdir(), "adapter-families-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});

const vocabSize = 50;
const common = {
  vocab_size: vocabSize,
  max_position_embeddings: 64,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 64,
  initializer_range: 0.2,
  type_vocab_size: 2,
};
/** A small `config.json` of each family of encoders. */
const encoders: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  bert: {},
  albert: { embedding_size: 16 },
  electra: { embedding_size: 16 },
  roberta: { max_position_embeddings: 66, pad_token_id: 0 },
  deberta: { relative_attention: true, pos_att_type: ["c2p", "p2c"], type_vocab_size: 0 },
  "deberta-v2": {
    ...{ relative_attention: true, pos_att_type: ["c2p", "p2c"], position_buckets: 16 },
    ...{ share_att_key: true, norm_rel_ebd: "layer_norm", type_vocab_size: 0, conv_kernel_size: 3 },
  },
  xlm: {
    ...{ n_langs: 1, emb_dim: 32, n_layers: 2, n_heads: 2, use_lang_emb: false, init_std: 0.2 },
    ...{ pad_index: 0, n_words: vocabSize },
  },
  xlnet: { d_model: 32, n_layer: 2, n_head: 2, d_inner: 64, reuse_len: null, context_length: 64 },
};
const heads: readonly HeadName[] = ["classify", "choice"];

const sizes = { vocabSize, hiddenSize: 32, numLayers: 2, numHeads: 2, contextLength: 32 };
interface Case {
  readonly name: string;
  readonly create: () => Module;
  readonly head?: HeadName;
}
const cases: readonly Case[] = [
  ...Object.entries(encoders).flatMap(([type, entries]) =>
    heads.map((head) => ({
      name: `${type} for ${head}`,
      create: () => networkForTask({ model_type: type, ...common, ...entries }, head, 3),
      head,
    })),
  ),
  ...systemsOfKind("decoder").flatMap((system): Case[] => {
    const config = () => system.config.create(sizes) as never;
    return [
      { name: system.title, create: () => system.create(config()) },
      {
        name: `${system.title} for classify`,
        create: () => headOf(system, "classify").create(config(), 3),
        head: "classify",
      },
    ];
  }),
  ...systemsOfKind("encoder-decoder").map((system): Case => {
    const headSize = system.config.has("headSize") && { headSize: 16 };
    return {
      name: system.title,
      create: () => system.create(system.config.create({ ...sizes, ...headSize }) as never),
    };
  }),
];

const ids = Int32Array.from({ length: 24 }, (_, i) => 5 + ((i * 7) % 40));

/** What a model computes of some ids. */
async function outputOf(
  model: Module,
  head: HeadName | undefined,
  { tensors, constants }: WeightSet,
): Promise<Float32Array> {
  const shape = head === "choice" ? [1, 2, 12] : [2, 12];
  const inputIds = input("inputIds", "int32", shape);
  const output: Tensor =
    model instanceof CausalLm
      ? model.forward(inputIds)
      : model instanceof EncoderWithHead
        ? model.forward({ inputIds })
        : (model as EncoderDecoder).forward({ inputIds }, inputIds);
  using program = await compile(runtime, { output }, { constants });
  const results = await program.run({ ...tensors, inputIds: runtime.createTensor("int32", shape, ids) });
  return (await results["output"]!.read()) as Float32Array;
}

/** Base weights of which no vector is the identity. */
function frozen(model: Module): ModelWeights {
  const { tensors } = Weights.initialize(runtime, model, 3);
  for (const tensor of Object.values(tensors))
    tensor.view().forEach((value, i, view) => (view[i] = value + 0.05 * Math.sin(3 * i + view.length)));
  return new ModelWeights(runtime, { tensors: { ...tensors }, packed: {} });
}

it.each(cases.map((one, index) => ({ ...one, dora: index % 3 === 0 })))(
  "an adapter of $name computes the same beside, merged and loaded (DoRA: $dora)",
  async ({ name, create, head, dora }) => {
    const model = create();
    const names = [...namedParameters(model).keys()];
    const body = model instanceof EncoderWithHead ? model.encoder : undefined;
    const below = new Set(body && namedParameters(body).values());
    namedParameters(model);
    const base = frozen(model);
    const before = await outputOf(model, head, base);
    const whole = wholeNames(
      model,
      [...namedParameters(model)].flatMap(([one, parameter]) => (!body || below.has(parameter) ? [] : [one])),
    );
    const adapter = addLora(model, { rank: 2, alpha: 3, targets: "all-linear", dora, whole });
    for (const layer of adapter.layers.keys()) {
      expect(names).toContain(`${layer}.weight`);
      expect(adapter.whole.has(`${layer}.weight`)).toBe(false);
    }
    using weights = Weights.partlyFrozen(model, withRowNorms(adapter, base), 5);
    for (const one of adapter.updates.keys())
      if (!one.endsWith("magnitude_vector"))
        weights
          .get(one)
          .view()
          .forEach((_, i, view) => (view[i] = 0.2 * Math.sin(5 * i + view.length)));
    const beside = await outputOf(model, head, weights);
    expect(relativeError(beside, before)).toBeGreaterThan(1e-3);
    const folder = path.join(root, name.replaceAll(/\W/g, "-"), String(dora));
    await saveAdapter(folder, { model, adapter, weights, head });
    const other = create();
    const loaded = await loadAdapter(folder, { model: other, weights: frozen(other) });
    expect([...loaded.adapter.parameters.keys()]).toEqual([...adapter.parameters.keys()]);
    expect(relativeError(await outputOf(other, head, loaded.weights), beside)).toBeLessThan(1e-4);
    const merged = mergeAdapter(loaded);
    expect(relativeError(await outputOf(other, head, merged), beside)).toBeLessThan(1e-4);
    expect([...namedParameters(other).keys()]).toEqual(names);
  },
);
