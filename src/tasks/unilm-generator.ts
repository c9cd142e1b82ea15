import { type Tensor, compile, input } from "../graph/index.js";
import { type Encoder, type WeightSet, statesAt } from "../nn/index.js";
import {
  type MaskingVocabulary,
  type PretrainingRow,
  type SentenceVocabulary,
  maskedBatch,
  unilmRow,
} from "../objectives/index.js";
import type { Program } from "../runtime/types.js";

/** What a generator has to know of the vocabulary. */
export type GenerationVocabulary = Pick<SentenceVocabulary, "classId" | "separatorId" | "paddingId"> &
  Pick<MaskingVocabulary, "maskId" | "specialIds">;

/**
 * Text by a model fine-tuned for generation, section 2.4: the source is given, and word after word a mask is put behind what
 * has been written, whose likeliest word takes its place, until the model ends the target.
 */
export class UnilmGenerator implements Disposable {
  private constructor(
    private readonly program: Program,
    private readonly weights: WeightSet,
    private readonly vocabulary: GenerationVocabulary,
    private readonly contextLength: number,
  ) {}

  /** @param logits of states `[masked, hiddenSize]`: `[masked, vocabSize]` */
  static async create(
    { encoder, logits: answer }: { encoder: Encoder; logits: (hidden: Tensor) => Tensor },
    weights: WeightSet,
    vocabulary: GenerationVocabulary,
  ): Promise<UnilmGenerator> {
    const tokens = ["batch", "sequence"];
    const inputs = {
      inputIds: input("inputIds", "int32", tokens),
      tokenTypeIds: input("tokenTypeIds", "int32", tokens),
      attentionMask: input("attentionMask", "bool", ["batch", "sequence", "sequence"]),
    };
    const hidden = encoder.encode(inputs);
    const logits = answer(statesAt(hidden, input("maskedPositions", "int32", ["masked"])));
    const program = await compile(
      weights.runtime,
      { logits },
      { name: "generation", constants: weights.constants },
    );
    return new UnilmGenerator(program, weights, vocabulary, encoder.config.contextLength);
  }

  /** The target of each source, without special tokens; at most `maxNewTokens` of them. */
  async generate(
    sources: readonly (readonly number[])[],
    { maxNewTokens }: { readonly maxNewTokens: number },
  ): Promise<number[][]> {
    const targets = sources.map((): number[] => []);
    let open = sources.map((_, index) => index);
    for (let step = 0; step < maxNewTokens; step++) {
      // Source, target and three special tokens, the mask among them.
      open = open.filter(
        (index) => sources[index]!.length + targets[index]!.length + 3 <= this.contextLength,
      );
      if (open.length === 0) break;
      const rows = open.map((index) => this.row(sources[index]!, targets[index]!));
      const next = await this.likeliest(rows);
      open.forEach((index, row) => {
        if (next[row] !== this.vocabulary.separatorId) targets[index]!.push(next[row]!);
      });
      open = open.filter((_, row) => next[row] !== this.vocabulary.separatorId);
    }
    return targets;
  }

  private row(source: readonly number[], written: readonly number[]): PretrainingRow {
    const row = unilmRow("sequence-to-sequence", this.vocabulary, source, [
      ...written,
      this.vocabulary.maskId,
    ]);
    return { ...row, ids: row.ids.slice(0, -1), typeIds: row.typeIds.slice(0, -1) };
  }

  private async likeliest(rows: readonly PretrainingRow[]): Promise<number[]> {
    const { tensors } = maskedBatch(
      rows.map((row) => {
        const last = row.ids.length - 1;
        const none = Int32Array.of(0);
        return {
          ...row,
          inputIds: Int32Array.from(row.ids),
          positions: Int32Array.of(last),
          labels: none,
        };
      }),
      this.vocabulary.paddingId,
    );
    const { runtime } = this.weights;
    const given = Object.fromEntries(
      this.program.inputs
        .filter(({ name }) => tensors[name] !== undefined)
        .map(({ name, dtype }) => [
          name,
          runtime.createTensor(dtype, tensors[name]!.shape, tensors[name]!.data),
        ]),
    );
    const { logits } = await this.program.run({ ...this.weights.tensors, ...given });
    const scores = (await logits!.read()) as Float32Array;
    for (const tensor of [logits!, ...Object.values(given)]) tensor.dispose();
    const size = scores.length / rows.length;
    return rows.map((_, row) => this.best(scores.subarray(row * size, (row + 1) * size)));
  }

  private best(scores: Float32Array): number {
    const { separatorId, specialIds } = this.vocabulary;
    let best = separatorId;
    scores.forEach((score, id) => {
      if (score > scores[best]! && !specialIds.has(id)) best = id;
    });
    return best;
  }

  dispose(): void {
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
