import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type InferenceCheckpoint,
  loadForInference,
  loadModel,
  saveGguf,
  saveModel,
} from "../../src/checkpoints/index.js";
import {
  type Plan,
  type TaskInput,
  logLikelihoods,
  planTask,
  runPlan,
  scoresOf,
  taskOf,
} from "../../src/evaluation/index.js";
import { Decoder } from "../../src/generation/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { ChatTemplate } from "../../src/tokenizers/index.js";
import { Reference } from "../support/reference.js";

const reference = new Reference("evaluation");
const values = reference.json("values.json") as {
  shots: Record<
    string,
    {
      scores: Record<string, number>;
      stderr: Record<string, number>;
      logLikelihoods: number[][];
      greedy: boolean[][];
    }
  >;
  texts: { logLikelihoods: number[]; scores: Record<string, number> };
  chat: Record<string, { prompt: string; logLikelihoods: number[][] }>;
  sources: { logLikelihoods: number[][]; greedy: boolean[][] };
};

const choice: TaskInput = {
  data: "test.jsonl",
  prompt: "Question: {{ question }}\nAnswer:",
  choices: '{{ options | join("\\n") }}',
  target: "{{ answer }}",
  unconditional: "",
  shots: { data: "train.jsonl", draw: "first" },
};

let model: InferenceCheckpoint;
let decoder: Decoder;
const context = 192;

beforeAll(async () => {
  model = await loadForInference(createRuntime(), reference.path());
  decoder = await Decoder.create({ ...model, branching: true });
});
afterAll(() => {
  decoder.dispose();
});

const plan = (input: TaskInput, shots = 0): Promise<Plan> =>
  planTask(taskOf("choice", input, reference.path()), model.tokenizer, context, { shots });
const run = (made: Plan) => runPlan({ ...model, decoder }, made);

describe("Evaluation equals lm-evaluation-harness", () => {
  it.each([0, 3])(
    "in likelihoods, scores and standard errors of choices after %i examples",
    async (shots) => {
      const wanted = values.shots[String(shots)]!;
      const predictions = await run(await plan(choice, shots));
      expect(predictions).toHaveLength(wanted.logLikelihoods.length);
      for (const [row, prediction] of predictions.entries()) {
        if (prediction.kind !== "choices") throw new Error(`row ${row} has no choices`);
        expect(prediction.greedy).toEqual(wanted.greedy[row]!.slice(0, 4));
        const all = [...prediction.logLikelihoods, ...prediction.unconditional!];
        expect(all).toHaveLength(wanted.logLikelihoods[row]!.length);
        for (const [index, sum] of all.entries())
          expect(Math.abs(sum - wanted.logLikelihoods[row]![index]!)).toBeLessThan(1e-4);
      }
      const scores = scoresOf(predictions);
      expect(Object.keys(wanted.scores)).toEqual(["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]);
      for (const [name, value] of Object.entries(wanted.scores)) {
        expect(scores[name]!.value).toBeCloseTo(value, 10);
        expect(scores[name]!.stderr).toBeCloseTo(wanted.stderr[name]!, 10);
      }
    },
  );

  it.each([
    ["0", 0, false],
    ["1", 1, false],
    ["3 in one turn", 3, true],
  ])("in prompts and likelihoods of a chat after examples: %s", async (name, shots, oneTurn) => {
    const { prompt, logLikelihoods } = values.chat[name]!;
    const template = new ChatTemplate(model.tokenizer);
    const task = taskOf(
      "choice",
      { ...choice, instructions: "Who is it?", unconditional: undefined },
      reference.path(),
    );
    const made = await planTask(task, model.tokenizer, context, {
      shots,
      limit: 8,
      oneTurn,
      chat: (messages) => template.render(messages),
    });
    expect(made.asked[0]!.question.prompt).toBe(prompt);
    for (const [row, prediction] of (await run(made)).entries()) {
      if (prediction.kind !== "choices") throw new Error(`row ${row} has no choices`);
      for (const [index, sum] of prediction.logLikelihoods.entries())
        expect(Math.abs(sum - logLikelihoods[row]![index]!)).toBeLessThan(1e-4);
    }
  });

  it.each([1, 3])("in likelihoods of an encoder-decoder, %i sources side by side", async (slots) => {
    const { logLikelihoods, greedy } = values.sources;
    const t5 = await loadForInference(createRuntime(), new Reference("evaluation-t5").path(), {
      kind: "encoder-decoder",
    });
    using writer = await Decoder.create({ ...t5, slots });
    const task = taskOf("choice", { ...choice, unconditional: undefined }, reference.path());
    const begin = [t5.model.config.decoderStartTokenId];
    const made = await planTask(task, t5.tokenizer, t5.model.config.contextLength, {
      shots: 3,
      limit: 8,
      begin,
    });
    const predictions = await runPlan({ ...t5, decoder: writer }, made);
    expect(predictions).toHaveLength(8);
    for (const [row, prediction] of predictions.entries()) {
      if (prediction.kind !== "choices") throw new Error(`row ${row} has no choices`);
      expect(prediction.greedy).toEqual(greedy[row]);
      for (const [index, sum] of prediction.logLikelihoods.entries())
        expect(Math.abs(sum - logLikelihoods[row]![index]!)).toBeLessThan(1e-4);
    }
  });

  it("in perplexities of texts longer than the context", async () => {
    const predictions = await run(await plan({ data: "texts.jsonl", text: "{{ text }}", shots: false }));
    for (const [row, prediction] of predictions.entries()) {
      if (prediction.kind !== "perplexity") throw new Error(`row ${row} is no text`);
      expect(Math.abs(prediction.logLikelihood - values.texts.logLikelihoods[row]!)).toBeLessThan(
        1e-5 * prediction.tokens,
      );
    }
    expect(predictions.some((each) => each.kind === "perplexity" && each.tokens > 3 * context)).toBe(true);
    const scores = scoresOf(predictions);
    for (const [name, value] of Object.entries(values.texts.scores))
      expect(scores[name]!.value / value).toBeCloseTo(1, 5);
  });
});

describe("Likelihoods of continuations", () => {
  it("are those of the unpacked weights where products are exact", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage exact "));
    const [packed, plain] = [path.join(folder, "packed.gguf"), path.join(folder, "plain")];
    const runtime = createRuntime();
    await saveGguf(packed, await loadModel(runtime, reference.path(), { kind: "decoder" }), {
      format: "Q4_0",
    });
    await saveModel(plain, await loadModel(runtime, packed, { kind: "decoder" }));
    const sums = async (place: string, exactProducts: boolean): Promise<number[]> => {
      const loaded = await loadForInference(runtime, place);
      using writer = await Decoder.create({ ...loaded, branching: true, exactProducts });
      const pairs = ["dog", "small grey elephant. Who?"].map((continuation) => ({
        context: "The cat eats the ",
        continuation,
      }));
      return (await logLikelihoods({ ...loaded, decoder: writer }, pairs)).map(({ sum }) => sum);
    };
    const wanted = await sums(plain, false);
    const [exact, rounded] = [await sums(packed, true), await sums(packed, false)];
    for (const [index, value] of wanted.entries()) {
      expect(Math.abs(exact[index]! - value)).toBeLessThan(1e-4);
      expect(Math.abs(rounded[index]! - value)).toBeGreaterThan(1e-3);
    }
    await rm(folder, { recursive: true });
  });

  it("are those of the same tokens one by one, whatever else is asked", async () => {
    const writer = { ...model, decoder };
    const pair = { context: "The cat eats the ", continuation: "small grey elephant. Who?" };
    const others = ["The cat eats", "", "The cat eats the dog"].map((each) => ({ ...pair, context: each }));
    const [alone] = await logLikelihoods(writer, [pair]);
    const among = await logLikelihoods(writer, [others[0]!, pair, ...others.slice(1)]);
    expect(among[1]!.sum).toBeCloseTo(alone!.sum, 4);
    // The definition: after each beginning the logarithm of the softmax of its logits.
    const head = model.tokenizer.encode("The cat eats the");
    const ids = model.tokenizer.encode("The cat eats the small grey elephant. Who?");
    let sum = 0;
    for (let length = head.length; length < ids.length; length++) {
      using fresh = decoder.open();
      const logits = await decoder.read(fresh, ids.slice(0, length));
      const total = logits.reduce((all, value) => all + Math.exp(value), 0);
      sum += logits[ids[length]!]! - Math.log(total);
    }
    expect(alone).toMatchObject({ tokens: ids.length - head.length });
    expect(alone!.sum).toBeCloseTo(sum, 4);
  });
});
