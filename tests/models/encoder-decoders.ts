import { describe, expect, it } from "vitest";
import { loadWeights } from "../../src/formats/index.js";
import { compile, input, sum } from "../../src/graph/index.js";
import { type ConfigTable, type EncoderDecoder, namedParameters } from "../../src/nn/index.js";
import { sequenceToSequenceObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { TrainingStep } from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";

interface Values {
  source: number[][];
  mask: number[][];
  decoderInputIds: number[][];
  labels: number[][];
  loss: number;
}

const runtime = createRuntime();

/** Holds a system to the values of a reference folder; its rows are padded. */
export function agreesWithTransformers<C extends { readonly dropout: number }>(
  name: string,
  table: ConfigTable<C>,
  create: (config: C) => EncoderDecoder,
): void {
  describe(`${name} agrees with Hugging Face transformers on random weights`, () => {
    const reference = new Reference(name);
    const values = reference.json("values.json") as Values;
    const warnings: string[] = [];
    const config = table.read(reference.json("config.json"), (warning) => void warnings.push(warning));
    const model = create(config);
    const tensorOf = (rows: number[][], make: (flat: number[]) => Int32Array | Uint8Array) => ({
      data: make(rows.flat()),
      shape: [rows.length, rows[0]!.length],
    });
    const batch = {
      inputIds: tensorOf(values.source, (flat) => Int32Array.from(flat)),
      attentionMask: tensorOf(values.mask, (flat) => Uint8Array.from(flat)),
      decoderInputIds: tensorOf(values.decoderInputIds, (flat) => Int32Array.from(flat)),
      labels: tensorOf(values.labels, (flat) => Int32Array.from(flat)),
    };
    const counted = values.labels.flat().filter((label) => label !== -100).length;

    it("knows every entry of the configuration, and writes them again", () => {
      expect(warnings).toEqual([]);
      // transformers leaves out what is its default.
      const json = { tie_word_embeddings: true, ...(reference.json("config.json") as object) };
      expect(table.read(table.write(config))).toEqual(config);
      expect(Object.keys(json)).toEqual(
        expect.arrayContaining(Object.keys(table.write(config)).filter((key) => key in json)),
      );
    });

    it.each([true, false])("in its states, logits and loss (fused operators: %s)", async (fused) => {
      using weights = await loadWeights(runtime, model, reference.path());
      const inputIds = input("inputIds", "int32", ["batch", "source"]);
      const attentionMask = input("attentionMask", "bool", ["batch", "source"]);
      const decoderInputIds = input("decoderInputIds", "int32", ["batch", "target"]);
      const labels = input("labels", "int32", ["batch", "target"]);
      const memory = model.encode({ inputIds, attentionMask });
      using program = await compile(
        runtime,
        {
          memory,
          logits: model.logits(model.hiddenStates(decoderInputIds, { memory, memoryMask: attentionMask })),
          loss: sum(model.losses({ inputIds, attentionMask }, decoderInputIds, labels)),
        },
        { fused },
      );
      const given = Object.fromEntries(
        Object.entries(batch).map(([key, { data, shape }]) => [
          key,
          data instanceof Uint8Array
            ? runtime.createTensor("bool", shape, data)
            : runtime.createTensor("int32", shape, data),
        ]),
      );
      const results = await program.run({ ...weights.tensors, ...given });
      const wanted = await reference.tensors("logits.safetensors");
      for (const part of ["memory", "logits"])
        expect(
          relativeError((await results[part]!.read()) as Float32Array, wanted.get(part)!),
          part,
        ).toBeLessThan(1e-5);
      expect(Number((await results["loss"]!.read())[0]) / counted).toBeCloseTo(values.loss, 4);
      for (const tensor of [...Object.values(results), ...Object.values(given)]) tensor.dispose();
    });

    it("in the gradient of every parameter that learns", async () => {
      const still = create({ ...config, dropout: 0 });
      using weights = await loadWeights(runtime, still, reference.path());
      using found = weights.like();
      using step = await TrainingStep.create(sequenceToSequenceObjective(still), weights, found);
      await step.run({ tensors: batch, counts: { tokens: counted } });
      const wanted = await reference.tensors("gradients.safetensors");
      const learning = [...namedParameters(still)]
        .filter(([key, { trainable }]) => trainable && !key.endsWith("k_proj.bias"))
        .map(([key]) => key);
      expect([...wanted.keys()].sort()).toEqual(learning.sort());
      for (const [parameter, gradient] of wanted)
        expect(relativeError(found.get(parameter).view(), gradient), parameter).toBeLessThan(1e-4);
    });
  });
}
