import { LineageError } from "../base/errors.js";
import { EncoderProgram } from "./encoder-program.js";
import { padRows, paddingOf } from "../data/index.js";
import { type HeadCheckpoint, loadTaskForInference } from "../checkpoints/index.js";
import type { ModelWeights } from "../quantization/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";

/** One word that may stand behind a mask. */
export interface Filling {
  readonly token: string;
  readonly id: number;
  readonly probability: number;
}

/** Guesses the words behind masks with an encoder's masked language model. */
export class MaskFiller implements Disposable {
  private constructor(
    private readonly loaded: HeadCheckpoint<ModelWeights>,
    private readonly program: EncoderProgram<"probabilities">,
    private readonly maskId: number,
  ) {}

  /** Throws `checkpoint` where the folder has no masked language model's head, `tokenizer` where it has no mask token. */
  static async load(folder: string, { runtime }: { runtime?: Runtime } = {}): Promise<MaskFiller> {
    const loaded = await loadTaskForInference(runtime ?? createRuntime(), folder, "fill-mask");
    const { maskId } = loaded.tokenizer;
    if (maskId === undefined)
      throw new LineageError("tokenizer", `the tokenizer of ${folder} has no mask token`);
    const program = await EncoderProgram.create(loaded.model, loaded.weights, (inputs) => ({
      probabilities: loaded.model.forward(inputs).softmax(-1),
    }));
    return new MaskFiller(loaded, program, maskId);
  }

  /** The mask token as the tokenizer spells it: `[MASK]`, `<mask>`. */
  get maskToken(): string {
    return this.loaded.tokenizer.idToToken(this.maskId)!;
  }

  /**
   * The `topK` most probable tokens for each mask of the text, the most probable first. `[MASK]` and `<mask>` both name the
   * mask. Throws `argument` for a text without one, `length` for one that is too long.
   */
  async fill(text: string, { topK = 5 }: { topK?: number } = {}): Promise<Filling[][]> {
    const { tokenizer, model } = this.loaded;
    const { contextLength, padTokenId } = model.encoder.config;
    const encoding = tokenizer.encodePair(text.replace(/\[MASK\]|<mask>/g, this.maskToken));
    if (encoding.ids.length > contextLength) {
      throw new LineageError(
        "length",
        `the text has ${encoding.ids.length} tokens, but the model reads at most ${contextLength}; shorten it`,
      );
    }
    const masks = encoding.ids.flatMap((id, place) => (id === this.maskId ? [place] : []));
    if (masks.length === 0)
      throw new LineageError(
        "argument",
        `the text has no mask: write ${this.maskToken} for the missing word`,
      );
    const row = padRows([encoding], paddingOf(tokenizer, padTokenId));
    const { data, shape } = (await this.program.run(row)).probabilities;
    const vocabSize = shape[2]!;
    return masks.map((place) => {
      const probabilities = data.subarray(place * vocabSize, (place + 1) * vocabSize);
      const ids = Array.from(probabilities.keys()).sort((a, b) => probabilities[b]! - probabilities[a]!);
      return ids.slice(0, topK).map((id) => ({
        token: tokenizer.decode([id], { skipSpecialTokens: false }),
        id,
        probability: probabilities[id]!,
      }));
    });
  }

  dispose(): void {
    this.program.dispose();
    this.loaded.weights.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
