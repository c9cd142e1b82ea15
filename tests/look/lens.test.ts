import { describe, expect, it } from "vitest";
import { loadWeights } from "../../src/formats/index.js";
import { type Tensor, compile, input, logicalNot, observing } from "../../src/graph/index.js";
import { Lens, type SeenTensor, sightOf } from "../../src/look/index.js";
import {
  type EncoderSystem,
  MBart,
  Bart,
  Bert,
  T5,
  Transformer,
  Xlm,
  type XlmInputs,
  Xlnet,
  bartTable,
  bertTable,
  decoderOf,
  encoderOf,
  mbartTable,
  mt5Table,
  t5Table,
  transformerTable,
  unilmTable,
  xlmTable,
  xlnetTable,
} from "../../src/models/index.js";
import { type ConfigTable, type EncoderDecoder, Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  type Recorded,
  type Values,
  encoderInputs,
  graphInputs,
  recorded,
  referenceJson,
} from "../models/encoders.js";
import { Reference } from "../support/reference.js";

const runtime = createRuntime();
const looked = new Reference("look");

/** transformers' tensors of one kind, by layer. */
async function wanted(name: string): Promise<(kind: string) => Float32Array[]> {
  const tensors = await looked.tensors(`${name}.safetensors`);
  return (kind) =>
    [...tensors]
      .filter(([key]) => key.replace(/\.\d+$/, "") === kind)
      .sort(([a], [b]) => Number(a.split(".")[1]) - Number(b.split(".")[1]))
      .map(([, values]) => values);
}

/**
 * Holds tensors `[batch, ..., length, width]` to transformers'. Rows of padding are left out: nothing reads them, and there
 * is no right value.
 * @param mask 1 for a real token, `[batch, length]`
 */
function expectSame(
  got: readonly SeenTensor[],
  right: readonly Float32Array[],
  mask: ArrayLike<number>,
): void {
  expect(got.length).toBe(right.length);
  expect(right.length).toBeGreaterThan(1);
  got.forEach(({ data, shape }, layer) => {
    expect(data.length, `layer ${layer}`).toBe(right[layer]!.length);
    const [batch, length, width] = [shape[0]!, shape.at(-2)!, shape.at(-1)!];
    const perRow = data.length / batch;
    let [worst, scale] = [0, 0];
    data.forEach((value, index) => {
      const row = Math.floor(index / perRow);
      const place = Math.floor(index / width) % length;
      if (mask[row * length + place] === 0) return;
      worst = Math.max(worst, Math.abs(value - right[layer]![index]!));
      scale = Math.max(scale, Math.abs(right[layer]![index]!));
    });
    expect(worst / scale, `layer ${layer}`).toBeLessThan(1e-5);
  });
}

const ones = (count: number) => Int32Array.from({ length: count }, () => 1);
const tensorOf = (rows: number[][]) => ({
  data: Int32Array.from(rows.flat()),
  shape: [rows.length, rows[0]!.length],
});
const bools = ({ data, shape }: { data: ArrayLike<number>; shape: readonly number[] }) => ({
  data: Uint8Array.from(data),
  shape,
});

/** Weights of a recorded task whose names begin with a prefix, in a network without a head. */
function bareWeights(
  network: Parameters<typeof namedParameters>[0],
  task: Recorded,
  prefix: string,
): Weights {
  const weights = Weights.allocate(runtime, network);
  for (const name of namedParameters(network).keys())
    weights.get(name).write(task.weights.get(`${prefix}.${name}`)!.data as Float32Array);
  return weights;
}

describe("Attention and hidden states are transformers' output_attentions and output_hidden_states", () => {
  it.each(["gpt1-tiny", "gpt2-tiny", "llama-tiny", "llama-grouped-tiny", "mistral-tiny", "qwen2-tiny"])(
    "of a decoder, one row padded: %s",
    async (name) => {
      const reference = new Reference(name);
      const json = reference.json("config.json");
      const system = decoderOf(json);
      const model = system.create(system.config.read(json));
      using weights = await loadWeights(runtime, model, reference.path());
      using lens = await Lens.create(model, weights);
      const inputIds = tensorOf((reference.json("values.json") as { inputIds: number[][] }).inputIds);
      const mask = Uint8Array.from({ length: 32 }, (_, index) => Number(index < 16 + 11));
      const seen = await lens.look({ inputIds, attentionMask: { data: mask, shape: inputIds.shape } });
      const right = await wanted(name);
      expect(seen.hidden.length).toBe(model.config.numLayers + 1);
      expectSame(seen.attention, right("attention"), mask);
      expectSame(seen.hidden, right("hidden"), mask);
    },
  );

  it.each([
    ["albert", "token"],
    ["bert", "token"],
    ["deberta", "sequence"],
    ["deberta-v2", "sequence"],
    ["deberta-v3", "choice"],
    ["electra", "sequence"],
    ["roberta", "sequence"],
    ["xlnet", "token"],
  ])("of an encoder, rows padded: %s", async (name, file) => {
    const task = await recorded(`${name}/${file}.safetensors`);
    const json = referenceJson(`${name}/config.json`);
    const system: EncoderSystem = encoderOf(json);
    const network = system.create(system.config.read(json), { pooler: false });
    using weights = bareWeights(network, task, system.prefix);
    using lens = await Lens.create(network, weights);
    const flat = (key: string): Values & { data: Int32Array } => {
      const { data, shape } = task.inputs.get(key)!;
      const length = shape.at(-1)!;
      return { data: data as Int32Array, shape: [data.length / length, length] };
    };
    const types = task.inputs.has("token_type_ids") && { tokenTypeIds: flat("token_type_ids") };
    const mask = flat("attention_mask");
    const seen = await lens.look({ inputIds: flat("input_ids"), attentionMask: bools(mask), ...types });
    const right = await wanted(name);
    expectSame(seen.attention, right("attention"), mask.data);
    expectSame(seen.hidden, right("hidden"), mask.data);
  });

  it.each([
    ["t5-tiny", t5Table as ConfigTable<unknown>, (config: never) => new T5(config)],
    ["mt5-tiny", mt5Table as ConfigTable<unknown>, (config: never) => new T5(config)],
    ["bart-tiny", bartTable as ConfigTable<unknown>, (config: never) => new Bart(config)],
    ["mbart-tiny", mbartTable as ConfigTable<unknown>, (config: never) => new MBart(config)],
    ["marian-tiny", transformerTable as ConfigTable<unknown>, (config: never) => new Transformer(config)],
  ] as const)("of an encoder-decoder, the source padded: %s", async (name, table, create) => {
    const reference = new Reference(name);
    const network: EncoderDecoder = create(table.read(reference.json("config.json")) as never);
    using weights = await loadWeights(runtime, network, reference.path());
    using lens = await Lens.create(network, weights);
    const values = reference.json("values.json") as Record<"source" | "mask" | "decoderInputIds", number[][]>;
    const decoderInputIds = tensorOf(values.decoderInputIds);
    const mask = tensorOf(values.mask);
    const seen = await lens.look({
      inputIds: tensorOf(values.source),
      attentionMask: bools(mask),
      decoderInputIds,
    });
    const right = await wanted(name);
    const written = ones(decoderInputIds.data.length);
    expectSame(seen.encoder!.attention, right("encoder_attention"), mask.data);
    expectSame(seen.encoder!.hidden, right("encoder_hidden"), mask.data);
    expectSame(seen.attention, right("decoder_attention"), written);
    expectSame(seen.hidden, right("decoder_hidden"), written);
    expectSame(seen.cross!, right("cross_attention"), written);
  });
});

describe("What a function writes down can be seen without a lens", () => {
  async function computed(
    sight: Readonly<Record<string, readonly Tensor[]>>,
    weights: Weights,
    task: ReadonlyMap<string, Values>,
  ): Promise<Record<string, SeenTensor[]>> {
    const outputs = Object.fromEntries(
      Object.entries(sight).flatMap(([kind, tensors]) =>
        tensors.map((tensor, layer) => [`${kind}.${layer}`, tensor]),
      ),
    );
    using program = await compile(runtime, outputs);
    const given = Object.fromEntries(
      program.inputs
        .filter(({ name }) => task.has(name))
        .map(({ name, dtype }) => {
          const { data, shape } = task.get(name)!;
          return [
            name,
            dtype === "bool"
              ? runtime.createTensor(dtype, shape, Uint8Array.from(data))
              : runtime.createTensor(dtype, shape, data),
          ];
        }),
    );
    const results = await program.run({ ...weights.tensors, ...given });
    const seen: Record<string, SeenTensor[]> = {};
    for (const [kind, tensors] of Object.entries(sight))
      seen[kind] = await Promise.all(
        tensors.map(async (_, layer) => {
          const { shape } = results[`${kind}.${layer}`]!;
          return { data: (await results[`${kind}.${layer}`]!.read()) as Float32Array, shape };
        }),
      );
    for (const tensor of [...Object.values(given), ...Object.values(results)]) tensor.dispose();
    return seen;
  }

  it("of XLM with languages and positions that begin anew", async () => {
    const task = await recorded("xlm/translation.safetensors");
    const xlm = new Xlm(xlmTable.read(referenceJson("xlm/config.json")));
    using weights = bareWeights(xlm, task, "transformer");
    const given = graphInputs(task);
    const { attention, hidden } = sightOf(() =>
      xlm.encode({
        ...encoderInputs(given),
        positionIds: given["position_ids"],
        languageIds: given["langs"],
      } as XlmInputs),
    );
    const seen = await computed({ attention, hidden }, weights, task.inputs);
    const right = await wanted("xlm");
    const mask = task.inputs.get("attention_mask")!.data;
    expectSame(seen["attention"]!, right("attention"), mask);
    expectSame(seen["hidden"]!, right("hidden"), mask);
  });

  it("of UniLM under the mask of sequence to sequence, which forbids what it forbids", async () => {
    const task = await recorded("unilm/modes.safetensors");
    const mode = "sequence-to-sequence/";
    const inputs = new Map(
      [...task.inputs]
        .filter(([name]) => name.startsWith(mode))
        .map(([name, values]) => [name.slice(mode.length), values] as const),
    );
    const bert = new Bert(unilmTable.read(referenceJson("unilm/config.json")), { pooler: false });
    using weights = bareWeights(bert, task, "bert");
    const sight = sightOf(() => bert.encode(encoderInputs(graphInputs({ ...task, inputs }))));
    const seen = await computed({ ...sight }, weights, inputs);
    const right = await wanted("unilm");
    const allowed = inputs.get("attention_mask")!.data;
    expectSame(seen["attention"]!, right("attention"), ones(18));
    expectSame(seen["hidden"]!, right("hidden"), ones(18));
    for (const { data, shape } of seen["attention"]!)
      data.forEach((weight, index) => {
        const row = Math.floor(index / (shape[1]! * 81));
        if (allowed[row * 81 + (index % 81)] === 0) expect(weight).toBe(0);
      });
  });

  it("of XLNet's two streams, with memory before the text", async () => {
    const task = await recorded("xlnet/streamsWithMemory.safetensors");
    const xlnet = new Xlnet(xlnetTable.read(referenceJson("xlnet/config.json")));
    using weights = bareWeights(xlnet, task, "transformer");
    const given = graphInputs(task);
    const { attention, hidden } = sightOf(() =>
      xlnet.streams({
        inputIds: given["input_ids"]!,
        tokenTypeIds: given["token_type_ids"],
        visible: logicalNot(given["perm_mask"]!.cast("bool")),
        targets: given["targets"]!,
        memory: [given["memory.0"]!, given["memory.1"]!],
      }),
    );
    // The query stream stands at three targets, the content stream at ten places.
    const stream = (places: number) => ({
      attention: attention.filter((map) => map.dim(2) === places),
      hidden: hidden.filter((states) => states.dim(1) === places),
    });
    const [query, content] = [stream(3), stream(10)];
    const seen = await computed(
      {
        query_attention: query.attention,
        content_attention: content.attention,
        query_hidden: query.hidden,
        content_hidden: content.hidden,
      },
      weights,
      task.inputs,
    );
    const right = await wanted("xlnet-streams");
    for (const kind of Object.keys(seen))
      expectSame(seen[kind]!, right(kind), ones(kind.startsWith("query") ? 9 : 30));
  });

  it("of a module of any kind by its place in the model", () => {
    const bert = new Bert(bertTable.read(referenceJson("bert/config.json")), { pooler: false });
    const inputIds = input("inputIds", "int32", ["batch", "sequence"]);
    const { result, observations } = observing(() => bert.encode({ inputIds }));
    const outputs = new Map(
      observations.filter(({ kind }) => kind === "output").map(({ path, tensor }) => [path, tensor]),
    );
    expect(outputs.get("")).toBe(result);
    expect(outputs.get("encoder.layer.1")).toBe(result);
    expect(outputs.get("encoder.layer.0.intermediate.dense")!.shape).toEqual(["batch", "sequence", 36]);
  });
});

describe("A lens", () => {
  const model = (() => {
    const json = new Reference("gpt2-tiny").json("config.json");
    const system = decoderOf(json);
    return system.create(system.config.read(json));
  })();

  it("computes the layers that are asked for, and no others", async () => {
    using weights = await loadWeights(runtime, model, new Reference("gpt2-tiny").path());
    using lens = await Lens.create(model, weights, { layers: [1], hiddenStates: false });
    using all = await Lens.create(model, weights);
    const inputIds = tensorOf([[3, 5, 8]]);
    const [one, both] = [await lens.look({ inputIds }), await all.look({ inputIds })];
    expect(one.hidden).toEqual([]);
    expect(one.attention).toEqual([both.attention[1]]);
    await expect(Lens.create(model, weights, { layers: [2] })).rejects.toThrow("from 0 to 1");
  });
});
