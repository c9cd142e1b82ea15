import type { BatchTensor } from "../data/index.js";
import { type Tensor, compile, input } from "../graph/index.js";
import { type EncoderInputs, type Module, type Weights, namedParameters } from "../nn/index.js";
import type { DeviceTensor, Program, RunOptions } from "../runtime/types.js";

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
