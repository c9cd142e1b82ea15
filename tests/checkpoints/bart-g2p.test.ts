import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadForInference, loadModel, saveModel } from "../../src/checkpoints/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { type BartConfig, Bart, bart } from "../../src/models/index.js";
import type { Weights } from "../../src/nn/index.js";
import { sequenceToSequenceObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Tokenizer, characterTokenizer } from "../../src/tokenizers/index.js";
import { TrainingStep } from "../../src/training/index.js";
import { Reference } from "../support/reference.js";

const data = path.join(
  process.env["LINEAGE_DATA"] ?? fileURLToPath(new URL("../../../shared/data", import.meta.url)),
  "bart_g2p",
);

/** Edits that make one text the other. */
function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + Number(a[i - 1] !== b[j - 1])));
    row = next;
  }
  return row.at(-1)!;
}

describe.skipIf(!existsSync(data))(
  "a published BART that spells English in phonemes (needs ../shared/data)",
  () => {
    const runtime = createRuntime();
    const published = () =>
      JSON.parse(readFileSync(path.join(data, "published_config.json"), "utf8")) as Record<string, unknown>;
    const pairs = () =>
      readFileSync(path.join(data, "cmudict_ref_1000.tsv"), "utf8")
        .trimEnd()
        .split("\n")
        .map((line) => line.split("\t") as [string, string]);
    const wanted = new Reference(".").json("bart-g2p.json") as {
      exact: number;
      errorRate: number;
      written: string[];
    };
    let folder = "";
    let config: BartConfig;
    let weights: Weights;
    const warnings: string[] = [];
    beforeAll(async () => {
      folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
      config = bart.config.read(published(), (sentence) => warnings.push(sentence));
      weights = await loadWeights(runtime, new Bart(config), data, {
        unused: bart.unused!,
        aliases: bart.aliases!,
        optional: bart.optional!,
      });
    });
    afterAll(async () => {
      weights?.dispose();
      await rm(folder, { recursive: true });
    });

    const idsOf = (word: string): number[] => {
      const letters = [...String(published()["grapheme_chars"])];
      const known = [...word].map((letter) => letters.lastIndexOf(letter));
      return [1, ...known.map((id) => (id < 0 ? 3 : id)), 2];
    };

    it("loads with its published configuration, whose two alphabets alone are not a network's", () => {
      expect(config).toMatchObject({
        contextLength: 64,
        hiddenSize: 128,
        numLayers: 1,
        intermediateSize: 1024,
      });
      expect(warnings.map((sentence) => /the entry (\w+)/.exec(sentence)?.[1])).toEqual([
        "grapheme_chars",
        "phoneme_chars",
      ]);
    });

    it("writes what transformers writes, word for word, at the published rates", async () => {
      const phonemes = [...String(published()["phoneme_chars"])];
      const words = pairs();
      using decoder = await Decoder.create({ model: new Bart(config), weights, slots: 32, capacity: 24 });
      const rows: number[][] = words.map(() => []);
      for await (const { row, id } of generate(
        decoder,
        words.map(([word]) => ({ source: idsOf(word) })),
        { temperature: 0, stopIds: [2], maxNewTokens: 20 },
      ))
        if (id !== undefined) rows[row]!.push(id);
      const written = rows.map(([first, ...ids]) => {
        expect(first).toBe(1);
        return ids.map((id) => phonemes[id]).join("");
      });
      expect(written).toEqual(wanted.written);
      const exact = written.filter((text, index) => text === words[index]![1]).length;
      expect(exact / words.length).toBe(0.357);
      const total = written.reduce((sum, text, index) => sum + edits(text, words[index]![1]), 0);
      // The rate counts the start of a text and both of its marks in.
      const length = words.reduce((sum, [, reference]) => sum + [...reference].length + 3, 0);
      expect((total / length).toFixed(3)).toBe("0.128");
      expect(wanted.errorRate).toBeCloseTo(total / length, 12);
    });

    it("comes back from a folder of its own, and trains on", async () => {
      const model = new Bart(config);
      const letters = String.fromCharCode(
        ...Array.from({ length: config.vocabSize }, (_, index) => 33 + index),
      );
      const tokenizer: Tokenizer = characterTokenizer(letters);
      await saveModel(folder, { system: bart, model, weights, tokenizer, stopIds: [2] });
      const loaded = await loadModel(runtime, folder, { kind: "encoder-decoder" });
      using learning = loaded.weights;
      expect(loaded.generation).toEqual({ startId: 1 });
      const mapped = await loadForInference(runtime, folder, { kind: "encoder-decoder" });
      expect(mapped.weights.constants.tensors["model.shared.weight"]!.view()).toEqual(
        weights.get("model.shared.weight").view(),
      );
      mapped.weights.dispose();
      const rows = pairs().slice(0, 64);
      const phonemes = [...String(published()["phoneme_chars"])];
      const targets = rows.map(([, text]) => [1, ...[...text].map((one) => phonemes.lastIndexOf(one)), 2]);
      const padded = (all: readonly number[][], padding: number) => {
        const width = Math.max(...all.map(({ length }) => length));
        return {
          shape: [all.length, width],
          data: Int32Array.from(
            all.flatMap((ids) => [...ids, ...Array<number>(width - ids.length).fill(padding)]),
          ),
        };
      };
      const sources = rows.map(([word]) => idsOf(word));
      const inputIds = padded(sources, 0);
      const batch = {
        tensors: {
          inputIds,
          attentionMask: {
            shape: inputIds.shape,
            data: Uint8Array.from(inputIds.data, (id) => Number(id !== 0)),
          },
          decoderInputIds: padded(
            targets.map((ids) => [1, ...ids.slice(0, -1)]),
            0,
          ),
          labels: padded(targets, -100),
        },
        counts: { tokens: targets.flat().length },
      };
      using gradients = learning.like();
      using step = await TrainingStep.create(sequenceToSequenceObjective(loaded.model), learning, gradients);
      const losses: number[] = [];
      for (let count = 0; count < 12; count++) {
        for (const tensor of Object.values(gradients.tensors)) (tensor.view() as Float32Array).fill(0);
        losses.push((await step.run(batch))["tokens"]! / batch.counts.tokens);
        for (const [name, tensor] of Object.entries(learning.tensors)) {
          const [values, slopes] = [tensor.view(), gradients.get(name).view()] as Float32Array[];
          for (let index = 0; index < values!.length; index++) values![index]! -= 0.05 * slopes![index]!;
        }
      }
      // It knows most of the words already, and learns the others.
      expect(losses[0]).toBeLessThan(1);
      expect(losses.at(-1)!).toBeLessThan(0.95 * losses[0]!);
    });
  },
);
