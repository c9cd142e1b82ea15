import { afterAll, describe, expect, it } from "vitest";
import { RandomStream, compile, constant, gradients, input } from "../../src/graph/index.js";
import { DebertaV3Pretraining, debertaV2Config } from "../../src/models/index.js";
import { Weights, namedParameters } from "../../src/nn/index.js";
import {
  replaceTokens,
  replacedTokenBatch,
  replacedTokenObjective,
  sampleTokens,
} from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import type { DeviceTensor } from "../../src/runtime/types.js";

const runtime = createRuntime();
const made: { dispose(): void }[] = [];
afterAll(() => {
  for (const each of made) each.dispose();
});

describe("replaced-token detection", () => {
  it("draws from the generator's distribution, anew with every seed", async () => {
    const rows = 4000;
    const logits = constant("float32", [1, 3], [Math.log(0.5), Math.log(0.3), Math.log(0.2)]).expand([
      rows,
      3,
    ]);
    const random = new RandomStream(input("seed", "uint32", []));
    const program = await compile(runtime, { drawn: sampleTokens(logits, random) });
    made.push(program);
    const draw = async (seed: number) => {
      const given = runtime.createTensor("uint32", [], Uint32Array.of(seed));
      const { drawn } = await program.run({ seed: given });
      return [...((await drawn!.read()) as Int32Array)];
    };
    const first = await draw(1);
    for (const [token, share] of [0.5, 0.3, 0.2].entries())
      // Four standard deviations of 4,000 draws are 3.2%.
      expect(Math.abs(first.filter((id) => id === token).length / rows - share)).toBeLessThan(0.032);
    expect(await draw(1)).toEqual(first);
    expect(await draw(2)).not.toEqual(first);
  });

  it("evaluates on draws as it trains on draws, on the same ones every time", async () => {
    const [masked, share] = [2000, 0.4];
    const logits = constant("float32", [1, 2], [Math.log(1 - share), Math.log(share)]);
    // Token 0 stands everywhere; a discriminator that always answers 1 loses softplus(1), less 1 where a token was replaced.
    const objective = replacedTokenObjective({
      model: new DebertaV3Pretraining(debertaV2Config({ hiddenSize: 8, numLayers: 2, numHeads: 2 })),
      generator: {
        encode: ({ inputIds }) => inputIds.cast("float32").reshape([1, masked, 1]),
        logits: (hidden) => logits.expand([hidden.dim(0), 2]),
      },
      discriminator: {
        encode: ({ inputIds }) => inputIds.cast("float32"),
        logits: (hidden) => hidden.mul(0).add(1),
      },
    });
    const places = Array.from({ length: masked }, (_, place) => place);
    const zeros = places.map(() => 0);
    const losses = objective.losses(
      {
        inputIds: constant("int32", [1, masked], zeros),
        tokenTypeIds: constant("int32", [1, masked], zeros),
        attentionMask: constant(
          "bool",
          [1, masked],
          zeros.map(() => 1),
        ),
        maskedPositions: constant("int32", [masked], places),
        maskedLabels: constant("int32", [masked], zeros),
      },
      {},
    );
    const program = await compile(runtime, { loss: losses["replacedTokens"]! });
    made.push(program);
    const replaced = async () =>
      Math.log1p(Math.E) - Number((await (await program.run({}))["loss"]!.read())[0]) / masked;
    const first = await replaced();
    // Four standard deviations of 2,000 draws are 4.4%.
    expect(Math.abs(first - share)).toBeLessThan(0.044);
    expect(await replaced()).toBe(first);
  });

  it("puts draws at the hidden places, calls a draw of the original original, and leaves ignored places alone", async () => {
    const ids = constant("int32", [2, 4], [1, 9, 9, 2, 1, 9, 7, 2]);
    const places = constant("int32", [4], [1, 2, 5, 0]);
    const labels = constant("int32", [4], [5, 6, 8, -100]);
    const drawn = constant("int32", [4], [5, 4, 7, 3]);
    const { corrupted, replaced } = replaceTokens(ids, places, labels, drawn);
    const program = await compile(runtime, { corrupted, replaced: replaced.cast("int32") });
    made.push(program);
    const results = await program.run({});
    expect([...((await results["corrupted"]!.read()) as Int32Array)]).toEqual([1, 5, 4, 2, 1, 7, 7, 2]);
    expect([...((await results["replaced"]!.read()) as Int32Array)]).toEqual([0, 0, 1, 0, 0, 1, 0, 0]);
  });

  it("counts every real token for the discriminator, and the hidden ones for the generator", () => {
    const row = (length: number) => ({
      ids: new Array<number>(length).fill(5),
      typeIds: new Array<number>(length).fill(0),
      inputIds: new Int32Array(length).fill(5),
      positions: Int32Array.of(1),
      labels: Int32Array.of(5),
    });
    expect(replacedTokenBatch([row(3), row(6)], 0).counts).toEqual({ maskedLm: 2, replacedTokens: 9 });
  });

  it("keeps the two networks' gradients apart where their embeddings are disentangled", async () => {
    const model = new DebertaV3Pretraining(
      debertaV2Config({
        vocabSize: 20,
        contextLength: 8,
        hiddenSize: 8,
        numLayers: 2,
        numHeads: 2,
        positionBuckets: 4,
        hiddenDropout: 0,
        attentionDropout: 0,
      }),
    );
    const weights = Weights.initialize(runtime, model, 2);
    const objective = replacedTokenObjective({
      model,
      generator: {
        encode: (inputs, context) => model.generator.encoder.decode(inputs, context),
        logits: (hidden) => model.generator.head.forward(hidden),
      },
      discriminator: {
        encode: (inputs, context) => model.discriminator.encoder.encode(inputs, context),
        logits: (hidden) => model.discriminator.head.forward(hidden),
      },
    });
    const given = replacedTokenBatch(
      [
        {
          ids: [1, 5, 6, 7, 8, 2],
          typeIds: [0, 0, 0, 0, 0, 0],
          inputIds: Int32Array.of(1, 3, 6, 3, 8, 2),
          positions: Int32Array.of(1, 3),
          labels: Int32Array.of(5, 7),
        },
      ],
      0,
    );
    const inputs = Object.fromEntries(
      Object.entries(objective.inputs).map(([name, { dtype, shape }]) => [name, input(name, dtype, shape)]),
    );
    const losses = objective.losses(inputs, {});
    const parameters = namedParameters(model);
    const table = (network: string) =>
      parameters.get(`${network}.deberta.embeddings.word_embeddings.weight`)!.tensor;
    const tables = [table("generator"), table("discriminator")];
    const [words, difference] = [
      gradients(losses["maskedLm"]!, tables, { allowUnused: true }),
      gradients(losses["replacedTokens"]!, tables, { allowUnused: true }),
    ];
    const program = await compile(runtime, {
      wordsOfGenerator: words[0]!,
      wordsOfDiscriminator: words[1]!,
      replacedOfGenerator: difference[0]!,
      replacedOfDiscriminator: difference[1]!,
    });
    made.push(program, weights);
    const all: Record<string, DeviceTensor> = { ...weights.tensors };
    for (const [name, { data, shape }] of Object.entries(given.tensors))
      all[name] = runtime.createTensor(objective.inputs[name]!.dtype, shape, data);
    const results = await program.run(
      Object.fromEntries(program.inputs.map(({ name }) => [name, all[name]!])),
    );
    const largest = async (name: string) =>
      Math.max(...((await results[name]!.read()) as Float32Array).map(Math.abs));
    expect(await largest("wordsOfGenerator")).toBeGreaterThan(1e-4);
    expect(await largest("wordsOfDiscriminator")).toBe(0);
    expect(await largest("replacedOfGenerator")).toBe(0);
    expect(await largest("replacedOfDiscriminator")).toBeGreaterThan(1e-6);
  });
});
