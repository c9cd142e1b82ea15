import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import {
  ConstraintCompiler,
  type ConstraintRule,
  Decoder,
  type Drafter,
  type GenerateOptions,
  type SpeculativeToken,
  generate,
  generateSpeculatively,
  promptLookup,
} from "../../src/generation/index.js";
import { Tokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { Llama, llamaConfig } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime({ threads: 1 });
const text = 'the cat {"name": "Tom", "age": 3, "tags": ["a", "b"], "ok": true} 日本 null -1.5e3\n'.repeat(
  20,
);
const spiece = fileURLToPath(
  new URL("../reference/values/sentencepiece/unigramBytes.model", import.meta.url),
);
const tokenizers: Readonly<Record<string, () => Promise<{ tokenizer: Tokenizer; stop: number }>>> = {
  "byte-level": () => Promise.resolve({ tokenizer: trainByteLevelBpe([text], { vocabSize: 310 }), stop: 0 }),
  [`SentencePiece with bytes (${path.basename(spiece)})`]: async () => ({
    tokenizer: await Tokenizer.loadSentencePiece(spiece),
    stop: 2,
  }),
};

for (const [name, make] of Object.entries(tokenizers)) {
  describe(`a constraint over a ${name} vocabulary`, () => {
    /** What a model with random weights writes under a rule, for many seeds. */
    async function* write(
      rule: ConstraintRule,
      seeds: number,
      { maxNewTokens = 200, drafter, ...sampling }: GenerateOptions & { drafter?: Drafter } = {},
    ) {
      const { tokenizer, stop } = await make();
      const model = new Llama(
        llamaConfig({
          vocabSize: tokenizer.vocabSize + 3,
          hiddenSize: 32,
          intermediateSize: 48,
          numLayers: 1,
          numHeads: 2,
          contextLength: 256,
          initializerRange: 0.3,
        }),
      );
      using weights = Weights.initialize(runtime, model, 1);
      using decoder = await Decoder.create(model, weights, { batch: 1 });
      const { vocabSize } = model.config;
      using compiler = await ConstraintCompiler.create(tokenizer, { vocabSize, stopIds: [stop] });
      using constraint = await compiler.compile(rule);
      for (let seed = 0; seed < seeds; seed++) {
        using walk = await constraint.begin();
        const ids: number[] = [];
        let finish: string | undefined;
        let speculation: SpeculativeToken["speculation"];
        const options = { ...sampling, seed, maxNewTokens, stopIds: [stop], constraints: [walk] };
        const tokens = drafter
          ? generateSpeculatively(decoder, [5, 6, 7], drafter, options)
          : generate(decoder, [[5, 6, 7]], options);
        for await (const token of tokens) {
          if (token.id !== undefined) ids.push(token.id);
          if (token.finish) finish = token.finish;
          ({ speculation } = token as SpeculativeToken);
        }
        // The first word of SentencePiece has its space before it.
        const bytes = ids.flatMap((id) => [...tokenizer.bytesOf(id)]);
        yield { text: new TextDecoder().decode(Uint8Array.from(bytes)), finish, speculation };
      }
    }

    it("gives JSON that its schema describes, whatever the seed", async () => {
      const jsonSchema = {
        type: "object",
        properties: {
          kind: { enum: ["cat", "dog", "日本"] },
          age: { type: "integer", minimum: 0, maximum: 99 },
          tame: { type: "boolean" },
          tags: { type: "array", items: { type: "string", maxLength: 4 }, maxItems: 2 },
        },
        required: ["kind", "age", "tame"],
        additionalProperties: false,
      };
      let count = 0;
      for await (const { text: json, finish } of write({ jsonSchema }, 25)) {
        if (finish !== "stop") continue;
        count++;
        const value = JSON.parse(json) as Record<string, unknown>;
        expect(["cat", "dog", "日本"]).toContain(value["kind"]);
        expect(
          Number.isInteger(value["age"]) && Number(value["age"]) >= 0 && Number(value["age"]) <= 99,
        ).toBe(true);
        expect(typeof value["tame"]).toBe("boolean");
        expect(Object.keys(value).every((key) => ["kind", "age", "tame", "tags"].includes(key))).toBe(true);
        // Random bytes may look like one character and be none; a decoder makes several of such.
        if (json.includes("\uFFFD")) continue;
        for (const tag of (value["tags"] ?? []) as string[]) expect([...tag].length).toBeLessThanOrEqual(4);
      }
      // Some may fill the context with the white space that JSON allows.
      expect(count).toBeGreaterThan(15);
    });

    it("gives text that its expression matches, whatever the seed", async () => {
      const regex = "(yes|no|maybe): [0-9]{1,3}(\\.[0-9]{2})?( (日|本|é)+)?!";
      const texts = new Set<string>();
      for await (const { text: answer, finish } of write({ regex }, 40)) {
        expect(finish).toBe("stop");
        expect(answer).toMatch(new RegExp(`^(?:${regex})$`, "u"));
        texts.add(answer);
      }
      expect(texts.size).toBeGreaterThan(10);
    });

    it("gives with guesses the text that it gives without, and what its rule describes", async () => {
      const rows = { type: "array", items: { type: "object", properties: { cat: { type: "boolean" } } } };
      const jsonSchema = { ...rows, minItems: 3, maxItems: 5 };
      const regex = "((yes|no), ){4,8}[0-9]+!";
      for (const rule of [{ jsonSchema }, { regex }]) {
        const greedy = { temperature: 0, maxNewTokens: 60 };
        for await (const plain of write(rule, 1, greedy))
          for await (const guessed of write(rule, 1, { ...greedy, drafter: promptLookup() }))
            expect({ ...guessed, speculation: undefined }).toEqual(plain);
      }
      let accepted = 0;
      for await (const { text: answer, finish, speculation } of write({ regex }, 20, {
        drafter: promptLookup(),
      })) {
        accepted += speculation!.accepted;
        if (finish === "stop") expect(answer).toMatch(new RegExp(`^(?:${regex})$`));
      }
      expect(accepted).toBeGreaterThan(20);
    });
  });
}

describe("a constraint", () => {
  it("says what is wrong with a schema or an expression, and the next one is compiled all the same", async () => {
    const tokenizer = trainByteLevelBpe([text], { vocabSize: 310 });
    using compiler = await ConstraintCompiler.create(tokenizer, {
      vocabSize: tokenizer.vocabSize,
      stopIds: [0],
    });
    await expect(compiler.compile({ regex: "[ab" })).rejects.toThrow(
      "the regular expression cannot be used: Regex parsing error at position 4: Unclosed '['",
    );
    await expect(compiler.compile({ jsonSchema: { type: 5 } })).rejects.toThrow(
      "the JSON schema cannot be used",
    );
    await expect(compiler.compile({ regex: "[é]" })).rejects.toThrow("a character beyond ASCII");
    using good = await compiler.compile({ regex: "a+" });
    using walk = await good.begin();
    expect(walk.finished).toBe(false);
  });
});
