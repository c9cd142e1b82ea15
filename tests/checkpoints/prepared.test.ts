import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { temporaryName } from "../../src/base/temporary.js";
import { multipliesBytes } from "../../src/base/processor.js";
import { Decoder } from "../../src/generation/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { type InferenceOptions, loadForInference, saveGguf, saveModel } from "../../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
let place: string;
let gguf: string;
let folder: string;

beforeAll(async () => {
  place = mkdtempSync(path.join(os.tmpdir(), "lineage-prepared-"));
  gguf = path.join(place, "model.gguf");
  folder = path.join(place, "model");
  mkdirSync(folder);
  const tokenizer = trainByteLevelBpe(["the cat sat on the mat"], { vocabSize: 270 });
  const model = new Llama(
    llamaConfig({
      vocabSize: tokenizer.vocabSize,
      contextLength: 64,
      hiddenSize: 128,
      numLayers: 2,
      numHeads: 4,
      numKeyValueHeads: 2,
      intermediateSize: 192,
      initializerRange: 0.1,
    }),
  );
  using weights = Weights.initialize(runtime, model, 3);
  await saveGguf(
    gguf,
    { system: systems.llama, model, weights, tokenizer },
    { format: "Q4_0", name: "prepared" },
  );
  await saveModel(folder, { system: systems.llama, model, weights, tokenizer });
});
afterAll(() => {
  rmSync(place, { recursive: true });
});

/** A folder for prepared weights, and what was reported of them. */
function store(name: string) {
  const reports: string[] = [];
  const options = {
    folder: path.join(place, "prepared", name),
    least: 1,
    report: (sentence: string) => void reports.push(sentence),
  };
  const files = () => readdirSync(options.folder).sort();
  return { options, reports, files };
}

/** Logits after a prompt that is long enough for a reader, and after one more token. */
async function logits(source: string, options: InferenceOptions): Promise<Float32Array[]> {
  const loaded = await loadForInference(runtime, source, options);
  using weights = loaded.weights;
  using decoder = await Decoder.create({ model: loaded.model, weights, capacity: 48 });
  const ids = Array.from({ length: 24 }, (_, index) => (7 * index) % 250);
  const slot = decoder.open();
  const result = [(await decoder.read(slot, ids)).slice(), (await decoder.step([slot], [5]))[0]!.slice()];
  await loaded.kept;
  return result;
}

/** Elsewhere there is no copy that reads prompts. */
const copies = multipliesBytes() !== false;

describe("weights that were prepared once", () => {
  it.each([
    ["a GGUF's blocks", "gguf", {}],
    ...(copies ? [["blocks and the copy that reads prompts", "gguf", { fastPrompts: true }] as const] : []),
    ["a GGUF's blocks, rounded again", "gguf", { quantize: { bits: 8 } }],
    ["4 bits with zero points", "folder", { quantize: { bits: 4 } }],
    ["NF4", "folder", { quantize: { bits: "nf4", blockSize: 32 } }],
    ["rows", "folder", { quantize: { bits: 8, blockSize: "row" } }],
    ...(copies
      ? [["full precision with a copy that reads prompts", "folder", { fastPrompts: true }] as const]
      : []),
  ] as readonly (readonly [string, "gguf" | "folder", InferenceOptions])[])(
    "are the same the next time: %s",
    async (name, kind, options) => {
      const source = kind === "gguf" ? gguf : folder;
      const { options: prepared, reports, files } = store(name);
      const expected = await logits(source, options);
      expect(await logits(source, { ...options, prepared })).toEqual(expected);
      expect(files()).toHaveLength(1);
      expect(reports).toEqual([expect.stringMatching(/^cached the converted weights \([\d.]+ kB\) in /)]);
      const written = statSync(path.join(prepared.folder, files()[0]!)).ino;
      expect(await logits(source, { ...options, prepared })).toEqual(expected);
      expect(reports).toHaveLength(1);
      expect(statSync(path.join(prepared.folder, files()[0]!)).ino).toBe(written);
    },
  );

  it("lie in their file and take no memory of their own", async () => {
    const { options: prepared } = store("mapped");
    const before = runtime.allocatedBytes;
    const first = await loadForInference(runtime, gguf, { prepared });
    const own = runtime.allocatedBytes - before;
    // Disposed while they are being written.
    first.weights.dispose();
    await first.kept;
    expect(runtime.allocatedBytes).toBe(before);
    const second = await loadForInference(runtime, gguf, { prepared });
    expect(runtime.allocatedBytes - before).toBeLessThan(own / 10);
    second.weights.dispose();
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("are prepared anew for another file, another way of loading, and a file that has changed", async () => {
    const { options: prepared, files } = store("keys");
    await logits(gguf, { prepared });
    await logits(gguf, { prepared, fastPrompts: true });
    await logits(folder, { prepared, quantize: { bits: 4 } });
    await logits(folder, { prepared, quantize: { bits: 4, blockSize: 64 } });
    expect(files()).toHaveLength(4);
    utimesSync(gguf, new Date(), new Date(statSync(gguf).mtimeMs + 5000));
    await logits(gguf, { prepared });
    expect(files()).toHaveLength(5);
  });

  it("are made again where their file is damaged, and say so", async () => {
    const { options: prepared, reports, files } = store("damaged");
    const expected = await logits(gguf, { prepared });
    const file = path.join(prepared.folder, files()[0]!);
    const whole = readFileSync(file);
    const unnamed = Buffer.from(whole);
    unnamed.write("lineage.pecked", unnamed.indexOf("lineage.packed"));
    const oneBit = Buffer.from(whole);
    oneBit[whole.length - 1000]! ^= 4;
    for (const damaged of [
      whole.subarray(0, whole.length - 100),
      Buffer.from("no such thing"),
      unnamed,
      oneBit,
    ]) {
      writeFileSync(file, damaged);
      reports.length = 0;
      expect(await logits(gguf, { prepared })).toEqual(expected);
      expect(reports[0]).toMatch(/^the cached weights cannot be used and are made again: /);
      expect(readFileSync(file).equals(whole)).toBe(true);
    }
  });

  it("are not kept where that is not worth it or cannot be, which stops nobody", async () => {
    const small = store("small");
    await logits(gguf, { prepared: { ...small.options, least: 1e9 } });
    expect(() => small.files()).toThrow();
    expect(small.reports).toEqual([]);
    const blocked = store("blocked");
    mkdirSync(path.dirname(blocked.options.folder), { recursive: true });
    writeFileSync(blocked.options.folder, "a file where a folder should be");
    await logits(gguf, { prepared: blocked.options });
    expect(blocked.reports).toEqual([expect.stringMatching(/^converted weights are not cached: /)]);
  });

  it("go when they are too many, those unused for longest first", async () => {
    const { options, files } = store("many");
    const ways = [4, 8, "nf4"].map((bits) => ({ quantize: { bits } }) as InferenceOptions);
    await logits(folder, { ...ways[0], prepared: options });
    const [first] = files();
    await logits(folder, { ...ways[1], prepared: options });
    const second = files().find((name) => name !== first);
    const long = new Date(Date.now() - 60_000);
    for (const name of files()) utimesSync(path.join(options.folder, name), long, long);
    // Used now, so that the other one is the oldest.
    await logits(folder, { ...ways[0], prepared: options });
    // A name that a process of this number had before.
    const unfinished = temporaryName("tmp").replace(/-[0-9a-f]{8}-/, "-00000000-");
    writeFileSync(path.join(options.folder, unfinished), "left behind");
    const size = files().reduce((sum, name) => sum + statSync(path.join(options.folder, name)).size, 0);
    await logits(folder, { ...ways[2], prepared: { ...options, limit: size } });
    expect(files()).toContain(first);
    expect(files()).not.toContain(second);
    expect(files()).toHaveLength(2);
  });
});
