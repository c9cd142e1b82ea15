/** lineage's side of the translation bench, in a process of its own: one JSON request a line in, one JSON line out. */
import { createInterface } from "node:readline";
import { loadWeights } from "../src/formats/index.js";
import { readJson } from "../src/base/files.js";
import { Decoder, beamSearch } from "../src/generation/index.js";
import { transformer } from "../src/models/index.js";
import type { WeightSet } from "../src/nn/index.js";
import { quantizeWeights } from "../src/quantization/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { peakMiB, respond } from "./harness.js";

type Request =
  | { readonly engine: string; readonly folder: string; readonly slots: number }
  | { readonly sources: number[][]; readonly beams: number; readonly length: number };

const runtime = createRuntime({ threads: Number(process.argv[2]) });
let make: ((beams: number) => Promise<Decoder>) | undefined;
const decoders = new Map<number, Promise<Decoder>>();
respond({ version: runtime.version });

async function open(engine: string, folder: string, slots: number): Promise<void> {
  const model = transformer.create(transformer.config.read(await readJson(`${folder}/config.json`)));
  const loaded = await loadWeights(runtime, model, folder, { optional: transformer.optional });
  let weights: WeightSet = { runtime, tensors: {}, constants: { tensors: loaded.tensors, packed: {} } };
  if (engine.endsWith("int8")) {
    weights = await quantizeWeights(model, loaded, { bits: 8, blockSize: "row" });
    loaded.dispose();
  }
  make = (beams) => Decoder.create({ model, weights, slots, beams });
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line) as Request;
  if ("engine" in asked) {
    await open(asked.engine, asked.folder, asked.slots);
    respond({ seconds: [], peakMiB: peakMiB() });
    continue;
  }
  const { sources, beams, length } = asked;
  if (!decoders.has(beams)) {
    for (const decoder of decoders.values()) (await decoder).dispose();
    decoders.clear();
    decoders.set(beams, make!(beams));
  }
  const decoder = await decoders.get(beams)!;
  const start = performance.now();
  const found = await Promise.all(
    sources.map((source) =>
      beamSearch(decoder, { source }, { maxNewTokens: length, minNewTokens: length, stopIds: [0] }),
    ),
  );
  const seconds = [(performance.now() - start) / 1000];
  respond({ seconds, peakMiB: peakMiB(), ids: found.map(([best]) => best!.ids) });
}
