import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import {
  AutoModelForSeq2SeqLM,
  AutoTokenizer,
  Tensor as PeerTensor,
  env,
  pipeline,
} from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type OnnxDtype, exportEncoderDecoderForTransformersJs } from "../../src/checkpoints/index.js";
import { loadTokenizer, loadWeights } from "../../src/formats/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { load } from "../../src/index.js";
import { encoderDecoderOf, systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";
import { Reference, relativeError } from "../support/reference.js";
import { tokenizer, writeTinyTransformer } from "../support/tiny-transformer.js";

const runtime = createRuntime({ threads: 1 });
let folder = "";
const at = (...names: string[]) => path.join(folder, ...names);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  env.allowRemoteModels = false;
  env.localModelPath = folder;
});
afterAll(() => rm(folder, { recursive: true }));

type Outputs = Record<string, PeerTensor>;
interface Peer {
  (inputs: Record<string, unknown>): Promise<Outputs>;
  generate(inputs: Record<string, unknown>): Promise<PeerTensor>;
  dispose(): Promise<unknown>;
}
type PeerOptions = Parameters<typeof AutoModelForSeq2SeqLM.from_pretrained>[1];
const peerOf = async (name: string, options?: PeerOptions): Promise<Peer> =>
  (await AutoModelForSeq2SeqLM.from_pretrained(name, options)) as unknown as Peer;

const idsOf = (rows: readonly (readonly number[])[]): PeerTensor =>
  new PeerTensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);

/** Rows of one length, with their mask. */
function padded(rows: readonly (readonly number[])[]): { input_ids: PeerTensor; attention_mask: PeerTensor } {
  const length = Math.max(...rows.map((row) => row.length));
  const fill = (row: readonly number[], value: number) => [
    ...row,
    ...Array<number>(length - row.length).fill(value),
  ];
  return {
    input_ids: idsOf(rows.map((row) => fill(row, 3))),
    attention_mask: idsOf(rows.map((row) => fill(Array<number>(row.length).fill(1), 0))),
  };
}

const rowsOf = (ids: PeerTensor): number[][] =>
  (ids.tolist() as bigint[][]).map((row) => row.map((id) => Number(id)));

/** A row without what is behind its end. */
function upTo(row: readonly number[], end: number): number[] {
  const place = row.findIndex((id, index) => index > 0 && id === end);
  return place < 0 ? [...row] : row.slice(0, place + 1);
}

/** Logits `[row][position]` of texts that are given: the first ids in one pass, the others one by one with the cache. */
async function logitsOf(
  peer: Peer,
  source: Record<string, PeerTensor>,
  texts: readonly (readonly number[])[],
  first: number,
): Promise<Float32Array[][]> {
  const found: Float32Array[][] = texts.map(() => []);
  const take = ({ logits }: Outputs): void => {
    const [, length, size] = logits!.dims as [number, number, number];
    for (const [row, all] of found.entries())
      for (let position = 0; position < length; position++) {
        const start = (row * length + position) * size;
        all.push((logits!.data as Float32Array).slice(start, start + size));
      }
  };
  let outputs = await peer({
    ...source,
    decoder_input_ids: idsOf(texts.map((text) => text.slice(0, first))),
  });
  take(outputs);
  let past: Record<string, PeerTensor> = {};
  for (let step = first; step < texts[0]!.length; step++) {
    const present = Object.entries(outputs).filter(([name]) => name.startsWith("present."));
    for (const [name, tensor] of present) {
      const isSource = name.includes(".encoder.");
      // Later passes compute nothing of the source again.
      if (isSource && step > first) expect(tensor.dims[2]).toBe(0);
      else past = { ...past, [name.replace("present", "past_key_values")]: tensor };
    }
    outputs = await peer({
      ...source,
      past_key_values: past,
      decoder_input_ids: idsOf(texts.map((text) => [text[step]!])),
    });
    take(outputs);
  }
  return found;
}

const logProbability = (logits: Float32Array, id: number): number => {
  const most = Math.max(...logits);
  return logits[id]! - most - Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
};

interface Values {
  readonly source: number[][];
  readonly mask: number[][];
  readonly decoderInputIds: number[][];
  readonly greedy: number[][];
}
interface Generated {
  readonly sources: number[][];
  readonly cases: { options: Record<string, unknown>; sequences: number[][]; scores: number[] | null }[];
}
const names = ["t5-tiny", "t5-gated-tiny", "mt5-tiny", "bart-tiny", "mbart-tiny", "marian-tiny"];

async function exported(name: string, ...dtypes: OnnxDtype[]): Promise<string> {
  const reference = new Reference(name);
  const json = reference.json("config.json") as { eos_token_id: number };
  const system = encoderDecoderOf(json);
  const model = system.create(system.config.read(json));
  using weights = await loadWeights(runtime, model, reference.path());
  const checkpoint = { system, model, weights, tokenizer, stopIds: [json.eos_token_id] };
  const out = `${name}-${dtypes.join("-")}`;
  await exportEncoderDecoderForTransformersJs(at(out), checkpoint, dtypes);
  return out;
}

describe.each(names)("%s exported, in transformers.js", (name) => {
  const reference = new Reference(name);
  const values = reference.json("values.json") as Values;
  const { eos_token_id: end } = reference.json("config.json") as { eos_token_id: number };
  const sources = values.source.map((row, index) =>
    row.filter((_, place) => values.mask[index]![place] === 1),
  );

  it("writes greedily PyTorch's ids, side by side and alone", async () => {
    const peer = await peerOf(await exported(name, "fp32"));
    const wanted = values.greedy.map((row) => upTo(row, end));
    const found = await peer.generate({ ...padded(sources), max_new_tokens: 20 });
    expect(rowsOf(found).map((row) => upTo(row, end))).toEqual(wanted);
    for (const [index, source] of sources.entries()) {
      const [row] = rowsOf(await peer.generate({ ...padded([source]), max_new_tokens: 20 }));
      expect(row).toEqual(wanted[index]);
    }
    await peer.dispose();
  });

  it("gives PyTorch's logits, at once and token by token", async () => {
    const peer = await peerOf(await exported(name, "fp32"));
    const wanted = (await reference.tensors("logits.safetensors")).get("logits")!;
    const texts = values.decoderInputIds;
    for (const first of [texts[0]!.length, 1, 4]) {
      const found = await logitsOf(peer, padded(sources), texts, first);
      expect(
        relativeError(
          found.flat().flatMap((row) => [...row]),
          wanted,
        ),
        String(first),
      ).toBeLessThan(1e-4);
    }
    await peer.dispose();
  });

  // transformers.js has no beam search of its own; whoever adds one stands on these probabilities.
  it.skipIf(name === "mt5-tiny")(
    "gives the beams that transformers found the scores that it gave",
    async () => {
      const { models } = new Reference(".").json("generation.json") as { models: Record<string, Generated> };
      const { sources: all, cases } = models[name]!;
      const { sequences, scores } = cases.find(
        ({ options }) => options["num_return_sequences"] === 4 && options["length_penalty"] === 0,
      )!;
      const peer = await peerOf(await exported(name, "fp32"));
      const repeated = sequences.map((_, row) => all[Math.floor((row * all.length) / sequences.length)]!);
      const logits = await logitsOf(peer, padded(repeated), sequences, 1);
      for (const [row, ids] of sequences.entries()) {
        const written = upTo(ids, end);
        const sum = written
          .slice(1)
          .reduce((total, id, place) => total + logProbability(logits[row]![place]!, id), 0);
        expect(sum, written.join(" ")).toBeCloseTo(scores![row]!, 3);
      }
      await peer.dispose();
    },
  );

  it("runs with its matrices in fewer bits", async () => {
    const out = await exported(name, "fp16", "q8", "q4");
    const wanted = (await reference.tensors("logits.safetensors")).get("logits")!;
    for (const [dtype, close] of [
      ["fp16", 0.05],
      // Random weights with a gate amplify the rounding; trained ones do not.
      ["q8", 0.25],
    ] as const) {
      const peer = await peerOf(out, { dtype });
      const found = await logitsOf(peer, padded(sources), values.decoderInputIds, 1);
      expect(
        relativeError(
          found.flat().flatMap((row) => [...row]),
          wanted,
        ),
        dtype,
      ).toBeLessThan(close);
      await peer.dispose();
    }
    const config = JSON.parse(await readFile(at(out, "config.json"), "utf8")) as Record<string, unknown>;
    expect(config["transformers.js_config"]).toEqual({ use_external_data_format: true, dtype: "fp16" });
    const files = await readdir(at(out, "onnx"));
    expect(files.filter((file) => file.endsWith(".onnx")).sort()).toEqual([
      "decoder_model_merged_fp16.onnx",
      "decoder_model_merged_q4.onnx",
      "decoder_model_merged_quantized.onnx",
      "encoder_model_fp16.onnx",
      "encoder_model_q4.onnx",
      "encoder_model_quantized.onnx",
    ]);
  });
});

describe("texts", () => {
  it("are written in transformers.js as here, by a folder of the command line", async () => {
    await writeTinyTransformer(at("writer"), "t5-gated-tiny", { max_new_tokens: 12 });
    const made = await lineage("export", "--model", at("writer"), "--out", at("writer-onnx"));
    expect([made.status, made.stderr]).toEqual([0, `wrote ${at("writer-onnx")} for transformers.js\n`]);
    const { sources } = (new Reference(".").json("generation.json") as { models: Record<string, Generated> })
      .models["t5-gated-tiny"]!;
    const texts = sources.map((ids) => tokenizer.decode(ids));
    using model = await load(at("writer"), { kind: "encoder-decoder" });
    const own = await model.transform(texts);
    const writer = await pipeline("text2text-generation", "writer-onnx", { dtype: "fp32" });
    for (const [index, text] of texts.entries()) {
      const [found] = (await writer(text, { max_new_tokens: 12 })) as { generated_text: string }[];
      // The start token of this tokenizer is a space, which is no special token.
      expect(found!.generated_text).toBe(` ${own[index]!.text}`);
    }
    await writer.dispose();
  });

  it.each(["t5", "mt5", "bart", "marian", "mbart", "mbart50"])(
    "have the Python library's ids in transformers.js: %s",
    async (kind) => {
      const reference = new Reference(`encoder-decoder-tokenizers/${kind}`);
      const { encoded } = reference.json("values.json") as { encoded: { text: string; ids: number[] }[] };
      const published = await loadTokenizer(reference.path());
      const system = encoderDecoderOf(reference.json("config.json"));
      const config = system.config.read({
        ...system.config.write(system.config.create({ hiddenSize: 8, numLayers: 1, numHeads: 2 })),
        vocab_size: published.vocabSize,
        pad_token_id: published.padId,
        decoder_start_token_id: published.padId,
      });
      const model = system.create(config);
      using weights = Weights.initialize(runtime, model, 1);
      const checkpoint = { system, model, weights, tokenizer: published };
      await exportEncoderDecoderForTransformersJs(at(kind), checkpoint, ["fp32"]);
      const peer = await AutoTokenizer.from_pretrained(kind);
      // It has its own ways with runs of unknown characters, and keeps a text of one space.
      const known = encoded.filter(
        ({ text, ids }) => text.trim() !== "" && ![...ids, ...peer.encode(text)].includes(published.unkId!),
      );
      expect(known.length).toBeGreaterThanOrEqual(4);
      for (const { text, ids } of known) expect([text, peer.encode(text)]).toEqual([text, ids]);
    },
  );

  it("of a MASS are written as by the BART that it is", async () => {
    const { mass } = systems;
    const letters = characterTokenizer("abcdefgh");
    const config = mass.config.create({
      vocabSize: letters.vocabSize,
      contextLength: 16,
      hiddenSize: 16,
      numLayers: 2,
      numHeads: 2,
    });
    const model = mass.create(config);
    using weights = Weights.initialize(runtime, model, 3);
    const checkpoint = { system: mass, model, weights, tokenizer: letters };
    await exportEncoderDecoderForTransformersJs(at("mass"), checkpoint, ["fp32"]);
    const peer = await peerOf("mass");
    const source = [3, 4, 5];
    const [row] = rowsOf(await peer.generate({ ...padded([source]), max_new_tokens: 6 }));
    await peer.dispose();
    using decoder = await Decoder.create({ model, weights, capacity: 8 });
    const options = { temperature: 0, maxNewTokens: 6, stopIds: [] };
    const own: number[] = [];
    for await (const { id } of generate(decoder, [{ source }], options)) if (id !== undefined) own.push(id);
    expect(row).toEqual([config.decoderStartTokenId, ...own]);
  });

  it("of an encoder-decoder are no single file", async () => {
    await writeTinyTransformer(at("whole"), "bart-tiny");
    const { status, stderr } = await lineage("export", "--model", at("whole"), "--out", at("whole.onnx"));
    expect(status).toBe(1);
    expect(stderr).toContain("holds an encoder-decoder, which is two programs with a cache between them");
  });
});

const data = path.join(
  process.env["LINEAGE_DATA"] ?? fileURLToPath(new URL("../../../shared/data", import.meta.url)),
  "bart_g2p",
);

describe.skipIf(!existsSync(data))("a published BART (needs ../shared/data)", () => {
  it("spells words in transformers.js as transformers does", async () => {
    const published = JSON.parse(readFileSync(path.join(data, "published_config.json"), "utf8")) as {
      grapheme_chars: string;
      phoneme_chars: string;
    };
    const { bart } = systems;
    const config = bart.config.read(published, () => undefined);
    const model = bart.create(config);
    using weights = await loadWeights(runtime, model, data, {
      unused: bart.unused!,
      aliases: bart.aliases!,
      optional: bart.optional!,
    });
    const letters = Array.from({ length: config.vocabSize }, (_, id) => String.fromCodePoint(33 + id));
    const checkpoint = {
      ...{ system: bart, model, weights, tokenizer: characterTokenizer(letters.join("")) },
      stopIds: [2],
    };
    await exportEncoderDecoderForTransformersJs(at("g2p"), checkpoint, ["fp32"]);
    const { written } = new Reference(".").json("bart-g2p.json") as { written: string[] };
    const words = readFileSync(path.join(data, "cmudict_ref_1000.tsv"), "utf8").trimEnd().split("\n");
    const [graphemes, phonemes] = [[...published.grapheme_chars], [...published.phoneme_chars]];
    const sources = words.map((line) => {
      const ids = [...line.split("\t")[0]!].map((letter) => graphemes.lastIndexOf(letter));
      return [1, ...ids.map((id) => (id < 0 ? 3 : id)), 2];
    });
    const peer = await peerOf("g2p");
    const count = 200;
    const found = rowsOf(await peer.generate({ ...padded(sources.slice(0, count)), max_new_tokens: 20 }));
    await peer.dispose();
    const texts = found.map((row) =>
      upTo(row, 2)
        .slice(2)
        .filter((id) => id !== 2)
        .map((id) => phonemes[id])
        .join(""),
    );
    expect(texts).toEqual(written.slice(0, count));
  });
});
