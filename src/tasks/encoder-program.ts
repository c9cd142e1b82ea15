import type { BatchTensor } from "../data/index.js";
import { type Tensor, compile, input } from "../graph/index.js";
import { type EncoderInputs, type Module, type WeightSet, namedParameters } from "../nn/index.js";
import type { DeviceTensor, Program, RunOptions } from "../runtime/types.js";
import type { InputSpec } from "../training/index.js";

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

/** A result on the host. */
export interface HostTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** A program over rows of any number and length, whose results come to the host: what embeds, evaluates and predicts. */
export class EncoderProgram<Name extends string> implements Disposable {
  private constructor(
    private readonly program: Program,
    private readonly weights: WeightSet,
    private readonly results: readonly Name[],
  ) {}

  /**
   * @param results what to compute of the encoder's inputs, float32; `tensors` are all inputs by name
   * @param options.shape dimensions of the encoder's inputs. Default: `["batch", "sequence"]`
   * @param options.targets inputs besides the encoder's
   */
  static async create<Name extends string>(
    model: Module,
    weights: WeightSet,
    results: (inputs: EncoderInputs, tensors: Readonly<Record<string, Tensor>>) => Record<Name, Tensor>,
    {
      shape = ["batch", "sequence"],
      targets = {},
    }: { shape?: readonly string[]; targets?: Readonly<Record<string, InputSpec>> } = {},
  ): Promise<EncoderProgram<Name>> {
    namedParameters(model);
    const specs: Readonly<Record<string, InputSpec>> = { ...encoderInputSpecs(shape), ...targets };
    const tensors = Object.fromEntries(
      Object.entries(specs).map(([name, spec]) => [name, input(name, spec.dtype, spec.shape)]),
    );
    const computed = results(encoderInputsOf(tensors), tensors);
    const program = await compile(weights.runtime, computed, {
      name: "encoder",
      constants: weights.constants,
    });
    return new EncoderProgram(program, weights, Object.keys(computed) as Name[]);
  }

  async run(
    tensors: Readonly<Record<string, BatchTensor>>,
    options: RunOptions = {},
  ): Promise<Record<Name, HostTensor>> {
    const { program, weights } = this;
    const given: Record<string, DeviceTensor> = {};
    try {
      for (const { name, dtype } of program.inputs) {
        const tensor = tensors[name];
        if (tensor) given[name] = weights.runtime.createTensor(dtype, tensor.shape, tensor.data);
      }
      const computed = await program.run({ ...weights.tensors, ...given }, {}, options);
      const read = async (name: Name): Promise<[Name, HostTensor]> => {
        const tensor = computed[name]!;
        const data = (await tensor.read()) as Float32Array;
        const { shape } = tensor;
        tensor.dispose();
        return [name, { data, shape }];
      };
      return Object.fromEntries(await Promise.all(this.results.map(read))) as Record<Name, HostTensor>;
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
