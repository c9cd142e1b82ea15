import type { BatchTensor } from "../data/index.js";
import { type Tensor, compile, input } from "../graph/index.js";
import type { Encoding, Tokenizer } from "../io/index.js";
import { type EncoderInputs, type Module, type Weights, namedParameters } from "../nn/index.js";
import type { DeviceTensor, Program, RunOptions } from "../runtime/types.js";

/** A row of an encoder's batch. */
export type EncoderRow = Pick<Encoding, "ids" | "typeIds">;

/** The inputs of an encoder's program, with `shape` by name: all `[batch, sequence]` or `[batch, choices, sequence]`. */
export const encoderInputSpecs = (shape: readonly string[]) =>
  ({
    inputIds: { dtype: "int32", shape },
    tokenTypeIds: { dtype: "int32", shape },
    attentionMask: { dtype: "bool", shape },
  }) as const;

/** Those inputs from their tensors. */
export const encoderInputsOf = (tensors: Readonly<Record<string, Tensor>>): EncoderInputs => ({
  inputIds: tensors["inputIds"]!,
  tokenTypeIds: tensors["tokenTypeIds"]!,
  attentionMask: tensors["attentionMask"]!,
});

export interface Padding {
  readonly padId: number;
  /** Whether padding comes before the tokens, as XLNet has it. */
  readonly left: boolean;
}

/** How a tokenizer's rows are filled up. */
export const paddingOf = (tokenizer: Tokenizer, padTokenId: number): Padding => ({
  padId: tokenizer.padId ?? padTokenId,
  left: tokenizer.config["padding_side"] === "left",
});

/** Rows filled up to the longest: what `encoderInputSpecs` names. */
export function padRows(
  rows: readonly EncoderRow[],
  { padId, left }: Padding,
): Record<"inputIds" | "tokenTypeIds" | "attentionMask", BatchTensor> {
  const length = Math.max(1, ...rows.map(({ ids }) => ids.length));
  const shape = [rows.length, length];
  const inputIds = new Int32Array(rows.length * length).fill(padId);
  const tokenTypeIds = new Int32Array(rows.length * length);
  const attentionMask = new Uint8Array(rows.length * length);
  rows.forEach(({ ids, typeIds }, row) => {
    const start = row * length + (left ? length - ids.length : 0);
    inputIds.set(ids, start);
    tokenTypeIds.set(typeIds, start);
    attentionMask.fill(1, start, start + ids.length);
  });
  return {
    inputIds: { data: inputIds, shape },
    tokenTypeIds: { data: tokenTypeIds, shape },
    attentionMask: { data: attentionMask, shape },
  };
}

/** A program over rows of any number and length, whose answer comes to the host: what embeds, evaluates and predicts. */
export class EncoderProgram implements Disposable {
  private constructor(
    private readonly program: Program,
    private readonly weights: Weights,
  ) {}

  /** @param answer what to compute of the inputs, float32 */
  static async create(
    model: Module,
    weights: Weights,
    answer: (inputs: EncoderInputs) => Tensor,
    shape: readonly string[] = ["batch", "sequence"],
  ): Promise<EncoderProgram> {
    namedParameters(model);
    const inputs = Object.fromEntries(
      Object.entries(encoderInputSpecs(shape)).map(([name, spec]) => [
        name,
        input(name, spec.dtype, spec.shape),
      ]),
    );
    const program = await compile(
      weights.runtime,
      { answer: answer(encoderInputsOf(inputs)) },
      { name: "encoder" },
    );
    return new EncoderProgram(program, weights);
  }

  async run(
    tensors: Readonly<Record<string, BatchTensor>>,
    options: RunOptions = {},
  ): Promise<{ data: Float32Array; shape: readonly number[] }> {
    const { program, weights } = this;
    const given: Record<string, DeviceTensor> = {};
    try {
      for (const { name, dtype } of program.inputs) {
        const tensor = tensors[name];
        if (tensor) given[name] = weights.runtime.createTensor(dtype, tensor.shape, tensor.data as never);
      }
      const { answer } = await program.run({ ...weights.tensors, ...given }, {}, options);
      const data = (await answer!.read()) as Float32Array;
      const { shape } = answer!;
      answer!.dispose();
      return { data, shape };
    } finally {
      for (const tensor of Object.values(given)) tensor.dispose();
    }
  }

  dispose(): void {
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
