import { batchesByLength } from "../data/index.js";
import { type Beam, type BeamOptions, Decoder, beamSearch } from "../generation/index.js";
import type { EncoderDecoder, WeightSet } from "../nn/index.js";
import type { Tokenizer } from "../tokenizers/index.js";

export interface SourceWriterOptions {
  /** Sources that are written about side by side. Default 32. */
  readonly slots?: number;
  /** Beams of each. Default 1: the likeliest token, again and again. */
  readonly beams?: number;
  /** Tokens of a text at most, its start included. Default: the model's context. */
  readonly capacity?: number;
}

/** Writes about many sources with an encoder-decoder whose weights may change in between: what evaluations need. */
export class SourceWriter implements Disposable {
  private constructor(
    private readonly decoder: Decoder,
    private readonly stopIds: readonly number[],
  ) {}

  static async create(
    {
      model,
      weights,
      tokenizer,
      stopIds = tokenizer.eosId === undefined ? [] : [tokenizer.eosId],
    }: {
      readonly model: EncoderDecoder;
      readonly weights: WeightSet;
      readonly tokenizer: Tokenizer;
      readonly stopIds?: readonly number[] | undefined;
    },
    { slots = 32, beams = 1, capacity }: SourceWriterOptions = {},
  ): Promise<SourceWriter> {
    return new SourceWriter(await Decoder.create({ model, weights, slots, beams, capacity }), stopIds);
  }

  /** The best texts about each source, in their order, without the token that ends them. */
  async write(
    sources: readonly (readonly number[])[],
    options: Partial<BeamOptions> = {},
  ): Promise<(readonly Beam[])[]> {
    const { decoder, stopIds } = this;
    // What slots hold of earlier texts was computed with the weights of then.
    decoder.forget();
    const settings = { maxNewTokens: decoder.capacity - 1, stopIds, ...options };
    const found = sources.map((): readonly Beam[] => []);
    // Sources of like length are read together.
    const [order = []] = batchesByLength(sources, {
      batchSize: Math.max(1, sources.length),
      lengthOf: ({ length }) => length,
    });
    await Promise.all(
      order.map(async (place) => {
        const beams = await beamSearch(decoder, { source: sources[place]! }, settings);
        found[place] = beams.map(({ ids, score }) => ({
          ids: stopIds.includes(ids.at(-1)!) ? ids.slice(0, -1) : ids,
          score,
        }));
      }),
    );
    return found;
  }

  dispose(): void {
    this.decoder.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
