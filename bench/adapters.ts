/**
 * Tokens a second of texts that are written side by side with adapters of their own: as many texts of the base, of one
 * adapter that is loaded alone, and of several that each text chooses from. The shape is SmolLM2-135M's, with random
 * numbers; adapters have all linear layers.
 *
 *   npm run bench -- adapters                         8 texts, 4 adapters of rank 16; float32 and 4 bits
 *   node dist/bench/adapters.js --rank 8 --adapters 16
 *   node dist/bench/adapters.js --smoke               seconds: checks that everything runs
 *
 * A step takes one token in each text; given is the median, of decoders that take turns.
 */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { loadAdapter, loadAdapters, saveAdapter } from "../src/checkpoints/index.js";
import { Decoder } from "../src/generation/index.js";
import { Llama, llamaConfig } from "../src/models/index.js";
import { Weights, addLora } from "../src/nn/index.js";
import { type ModelWeights, quantizeWeights } from "../src/quantization/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { median } from "./harness.js";

const { values: options } = parseArgs({
  options: {
    texts: { type: "string", default: "8" },
    adapters: { type: "string", default: "4" },
    rank: { type: "string", default: "16" },
    threads: { type: "string" },
    steps: { type: "string" },
    smoke: { type: "boolean", default: false },
  },
});
const { smoke } = options;
const [texts, count, rank] = [options.texts, options.adapters, options.rank].map(Number) as [
  number,
  number,
  number,
];
const threads = Number(options.threads ?? process.env["LINEAGE_THREADS"] ?? os.availableParallelism());
const steps = Number(options.steps ?? (smoke ? 4 : 48));
const context = smoke ? 8 : 128;

const runtime = createRuntime({ threads });
const create = () =>
  new Llama(
    llamaConfig({
      ...(smoke
        ? { hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 100 }
        : {
            hiddenSize: 576,
            numLayers: 30,
            numHeads: 9,
            numKeyValueHeads: 3,
            intermediateSize: 1536,
            vocabSize: 49_152,
          }),
      contextLength: 512,
      tieEmbeddings: true,
    }),
  );

/** A base of random numbers as it is run, in one form or another. */
async function baseOf(model: Llama, bits: 4 | undefined): Promise<ModelWeights> {
  using weights = Weights.initialize(runtime, model, 1);
  return await quantizeWeights(model, weights, { bits: bits ?? 8 }, { whole: () => bits === undefined });
}

async function writeAdapter(folder: string, seed: number): Promise<void> {
  const model = create();
  using base = Weights.initialize(runtime, model, 1);
  const adapter = addLora(model, { rank, alpha: rank, targets: "all-linear" });
  using weights = Weights.partlyFrozen(model, base, seed);
  for (const tensor of Object.values(weights.tensors))
    tensor.view().forEach((_, i, view) => (view[i] = 0.02 * Math.sin(seed * i)));
  await saveAdapter(folder, { model, adapter, weights });
}

/** Decoders that take turns, and what the texts of each choose. */
interface Subject {
  readonly name: string;
  readonly decoder: Decoder;
  readonly adapters: readonly (string | undefined)[];
}

const root = mkdtempSync(path.join(os.tmpdir(), "lineage-bench-adapters-"));
try {
  const folders = new Map(
    Array.from({ length: count }, (_, index) => [`a${index}`, path.join(root, `${index}`)]),
  );
  for (const [index, folder] of [...folders.values()].entries()) await writeAdapter(folder, index + 2);
  const names = [...folders.keys()];
  const rows = Array.from({ length: texts }, (_, row) => row);
  console.log(
    `${os.cpus()[0]?.model ?? "?"}, ${threads} threads, ${texts} texts, adapters of rank ${rank}${smoke ? "; smoke run" : ""}`,
  );
  console.log("\nbase     adapters                            tok/s   of the base   of one alone");
  for (const bits of [undefined, 4] as const) {
    const make = async (
      name: string,
      adapters: readonly (string | undefined)[],
      load: "none" | "alone" | "all",
    ): Promise<Subject> => {
      const model = create();
      const base = await baseOf(model, bits);
      const { weights } =
        load === "none"
          ? { weights: base }
          : load === "alone"
            ? await loadAdapter(folders.get("a0")!, { model, weights: base })
            : await loadAdapters(folders, { model, weights: base });
      return {
        name,
        adapters,
        decoder: await Decoder.create({ model, weights, slots: texts, capacity: context + steps + 2 }),
      };
    };
    const several = await make(
      `${count}, one for each text in turn`,
      rows.map((row) => names[row % count]),
      "all",
    );
    const subjects = [
      await make(
        "none",
        rows.map(() => undefined),
        "none",
      ),
      await make(
        "1, loaded alone",
        rows.map(() => undefined),
        "alone",
      ),
      several,
      { ...several, name: `${count} loaded, all texts one`, adapters: rows.map(() => names[0]) },
      { ...several, name: `${count} loaded, all texts none`, adapters: rows.map(() => undefined) },
    ];
    const times = subjects.map((): number[] => []);
    const turns = 4;
    for (let turn = 0; turn < turns; turn++)
      for (const [index, { decoder, adapters }] of subjects.entries()) {
        decoder.forget();
        const slots = adapters.map((adapter) => decoder.open([], { adapter }));
        for (const [row, slot] of slots.entries())
          await decoder.read(
            slot,
            Array.from({ length: context }, (_, i) => 5 + ((i * 79 + row * 31) % 90)),
          );
        await decoder.step(
          slots,
          rows.map(() => 7),
        );
        for (let token = 0; token < steps / turns; token++) {
          const started = performance.now();
          await decoder.step(
            slots,
            rows.map((row) => 9 + row),
          );
          times[index]!.push((performance.now() - started) / 1000);
        }
        for (const slot of slots) slot.close();
      }
    const medians = times.map(median);
    for (const [index, { name }] of subjects.entries())
      console.log(
        `${(bits === undefined ? "f32" : `${bits} bits`).padEnd(9)}${name.padEnd(32)}${(texts / medians[index]!).toFixed(1).padStart(9)}` +
          `${(medians[0]! / medians[index]!).toFixed(2).padStart(14)}${(medians[1]! / medians[index]!).toFixed(2).padStart(15)}`,
      );
    for (const decoder of new Set(subjects.map((subject) => subject.decoder))) decoder.dispose();
  }
} finally {
  rmSync(root, { recursive: true });
}
