import type { Batch, BatchTensor } from "../data/index.js";
import { type Tensor, compile, input } from "../graph/index.js";
import { type ForwardContext, type Module, type WeightSet, namedParameters } from "../nn/index.js";
import {
  type Completion,
  type Writer,
  completionInputs,
  completionStates,
  completionTensors,
  tokenLogProbs,
} from "../objectives/index.js";
import type { DeviceTensor, Program, RunOptions } from "../runtime/types.js";
import { type InputSpec, withConstants } from "../training/index.js";

type Tensors = Readonly<Record<string, Tensor>>;

/** A forward pass whose results JavaScript reads: scores, log-probabilities, values. */
export class Forward implements Disposable {
  private constructor(
    private readonly program: Program,
    private readonly weights: WeightSet,
    private readonly specs: Readonly<Record<string, InputSpec>>,
  ) {}

  static async create(
    model: Module,
    weights: WeightSet,
    inputs: Readonly<Record<string, InputSpec>>,
    outputs: (inputs: Tensors, context: ForwardContext) => Tensors,
  ): Promise<Forward> {
    namedParameters(model);
    const given = Object.fromEntries(
      Object.entries(inputs).map(([name, { dtype, shape }]) => [name, input(name, dtype, shape)]),
    );
    const program = await compile(weights.runtime, outputs(given, {}), {
      ...withConstants(weights),
      name: "forward",
      memoryPattern: false,
    });
    return new Forward(program, weights, inputs);
  }

  /** The results by name, as float32. */
  async run(
    tensors: Readonly<Record<string, BatchTensor>>,
    options: RunOptions = {},
  ): Promise<Record<string, Float32Array>> {
    const { runtime } = this.weights;
    const owned: DeviceTensor[] = [];
    const feeds: Record<string, DeviceTensor> = {};
    try {
      for (const { name } of this.program.inputs) {
        const own = this.weights.tensors[name];
        if (own) feeds[name] = own;
        else {
          const { data, shape } = tensors[name]!;
          owned.push((feeds[name] = runtime.createTensor(this.specs[name]!.dtype, shape, data)));
        }
      }
      const results = await this.program.run(feeds, {}, options);
      owned.push(...Object.values(results));
      const read: Record<string, Float32Array> = {};
      for (const [name, tensor] of Object.entries(results))
        read[name] = Float32Array.from((await tensor.read()) as Float32Array);
      return read;
    } finally {
      for (const tensor of owned) tensor.dispose();
    }
  }

  dispose(): void {
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Tokens of a forward pass at most, padding included. */
const passTokens = 4096;

/** Places of rows, in passes of rows of like length. */
export function passesOf(lengths: readonly number[], most = passTokens): number[][] {
  const order = lengths.map((_, index) => index).sort((a, b) => lengths[a]! - lengths[b]! || a - b);
  const passes: number[][] = [];
  let current: number[] = [];
  for (const index of order) {
    if (current.length > 0 && (current.length + 1) * lengths[index]! > most) {
      passes.push(current);
      current = [];
    }
    current.push(index);
  }
  if (current.length > 0) passes.push(current);
  return passes;
}

/** Numbers of each token of completions, by row: log-probabilities, and what else a network says of a token's state. */
export class CompletionReader implements Disposable {
  private constructor(
    private readonly forward: Forward,
    private readonly model: Writer,
  ) {}

  /** Log-probabilities under a model as its weights are at each reading. */
  static logProbs(model: Writer, weights: WeightSet): Promise<CompletionReader> {
    return CompletionReader.create(model, model, weights, (inputs, context) => ({
      logProbs: tokenLogProbs(model, completionStates(model, inputs, context), inputs),
    }));
  }

  /** @param outputs tensors `[tokens]` by name */
  static async create(
    writer: Writer,
    model: Module,
    weights: WeightSet,
    outputs: (inputs: Tensors, context: ForwardContext) => Tensors,
  ): Promise<CompletionReader> {
    return new CompletionReader(
      await Forward.create(model, weights, completionInputs(writer), outputs),
      writer,
    );
  }

  /** By row, the numbers of its tokens by name. */
  async read(
    rows: readonly Completion[],
    { signal }: RunOptions = {},
  ): Promise<Record<string, Float32Array>[]> {
    const found: Record<string, Float32Array>[] = rows.map(() => ({}));
    for (const places of passesOf(rows.map(({ prompt, completion }) => prompt.length + completion.length))) {
      const values = await this.forward.run(
        completionTensors(
          this.model,
          places.map((place) => rows[place]!),
        ),
        { signal },
      );
      for (const [name, flat] of Object.entries(values)) {
        let start = 0;
        for (const place of places) {
          const end = start + rows[place]!.completion.length;
          found[place]![name] = flat.slice(start, end);
          start = end;
        }
      }
    }
    return found;
  }

  dispose(): void {
    this.forward.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Tokens that rows have, for reports of speed. */
export const tokensOf = (rows: readonly Completion[]): number =>
  rows.reduce((total, { prompt, completion }) => total + prompt.length + completion.length, 0);

/** A batch of completions with more tensors beside them. */
export const completionBatch = (
  model: Writer,
  rows: readonly Completion[],
  more: Readonly<Record<string, BatchTensor>>,
  counts: Readonly<Record<string, number>>,
): Batch => ({
  tensors: { ...completionTensors(model, rows), ...more },
  counts,
  tokens: tokensOf(rows),
});
