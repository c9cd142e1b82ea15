import { LineageError } from "../base/errors.js";
import { RandomStream, type Tensor, add, compile, gradients, input, mul, sum } from "../graph/index.js";
import { type ForwardContext, type Module, type Weights, namedParameters } from "../nn/index.js";
import type { Binding, DeviceTensor, Program, RunOptions } from "../runtime/types.js";

/** A model that can be trained on next tokens: the loss of every position, `[batch, sequence]`. */
export interface LanguageModel extends Module {
  losses(inputIds: Tensor, labels: Tensor, context?: ForwardContext): Tensor;
}

/** Token ids and the labels of one micro-batch, both `[batch, sequence]`, row after row. */
export interface TokenBatch {
  readonly inputIds: Int32Array;
  readonly labels: Int32Array;
}

/**
 * The forward and backward pass over one micro-batch. The first micro-batch of a step writes the gradient buffers, later
 * ones add to them; both in place.
 */
export class TrainingStep implements Disposable {
  private constructor(
    private readonly programs: readonly Program[],
    private readonly write: Binding,
    private readonly accumulate: Binding,
    private readonly tensors: {
      inputIds: DeviceTensor<"int32">;
      labels: DeviceTensor<"int32">;
      lossScale: DeviceTensor<"float32">;
      seed: DeviceTensor<"uint32">;
      loss: DeviceTensor<"float32">;
    },
  ) {}

  static async create(
    model: LanguageModel,
    weights: Weights,
    gradientBuffers: Weights,
    { batch, sequence }: { batch: number; sequence: number },
  ): Promise<TrainingStep> {
    const { runtime } = weights;
    const parameters = namedParameters(model);
    const inputIds = input("inputIds", "int32", [batch, sequence]);
    const labels = input("labels", "int32", [batch, sequence]);
    const lossScale = input("lossScale", "float32", []);
    const random = new RandomStream(input("seed", "uint32", []));
    const loss = mul(sum(model.losses(inputIds, labels, { random })), lossScale);
    const names = [...parameters].filter(([, parameter]) => parameter.trainable).map(([name]) => name);
    const found = gradients(
      loss,
      names.map((name) => parameters.get(name)!.tensor),
    );
    const outputName = (name: string) => `${name}.gradient`;
    const fresh = Object.fromEntries(names.map((name, index) => [outputName(name), found[index]!]));
    const added = Object.fromEntries(
      names.map((name, index) => [
        outputName(name),
        add(input(`${name}.accumulated`, "float32", parameters.get(name)!.shape), found[index]!),
      ]),
    );
    const tensors = {
      inputIds: runtime.createTensor("int32", [batch, sequence]),
      labels: runtime.createTensor("int32", [batch, sequence]),
      lossScale: runtime.createTensor("float32", []),
      seed: runtime.createTensor("uint32", []),
      loss: runtime.createTensor("float32", []),
    };
    const accumulated = Object.fromEntries(
      names.map((name) => [`${name}.accumulated`, gradientBuffers.get(name)]),
    );
    const outputs = {
      loss: tensors.loss,
      ...Object.fromEntries(names.map((name) => [outputName(name), gradientBuffers.get(name)])),
    };
    const bindTo = (program: Program) => {
      const all: Record<string, DeviceTensor> = { ...weights.tensors, ...accumulated, ...tensors };
      return program.bind(Object.fromEntries(program.inputs.map(({ name }) => [name, all[name]!])), outputs);
    };
    const first = await compile(runtime, { loss, ...fresh }, { name: "step" });
    const later = await compile(runtime, { loss, ...added }, { name: "step (accumulating)" });
    return new TrainingStep([first, later], bindTo(first), bindTo(later), tensors);
  }

  /**
   * Runs one micro-batch and returns its part of the loss: the sum over its labels times `lossScale`, which is one over
   * the number of labels in the whole step, so that accumulated batches weigh as one big batch does.
   */
  async run(
    batch: TokenBatch,
    options: RunOptions & { accumulate: boolean; lossScale: number; seed: number },
  ): Promise<number> {
    const { inputIds, labels, lossScale, seed, loss } = this.tensors;
    inputIds.write(batch.inputIds);
    labels.write(batch.labels);
    lossScale.write(Float32Array.of(options.lossScale));
    seed.write(Uint32Array.of(options.seed));
    await (options.accumulate ? this.accumulate : this.write).run({ signal: options.signal });
    return (await loss.read())[0]!;
  }

  dispose(): void {
    for (const binding of [this.write, this.accumulate]) binding.dispose();
    for (const program of this.programs) program.dispose();
    for (const tensor of Object.values(this.tensors)) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The forward pass alone: sum of losses and number of labels over batches that the caller adds up. */
export class EvaluationStep implements Disposable {
  private constructor(
    private readonly program: Program,
    private readonly binding: Binding,
    private readonly tensors: {
      inputIds: DeviceTensor<"int32">;
      labels: DeviceTensor<"int32">;
      loss: DeviceTensor<"float32">;
    },
  ) {}

  static async create(
    model: LanguageModel,
    weights: Weights,
    { batch, sequence }: { batch: number; sequence: number },
  ): Promise<EvaluationStep> {
    const { runtime } = weights;
    namedParameters(model);
    const loss = sum(
      model.losses(
        input("inputIds", "int32", [batch, sequence]),
        input("labels", "int32", [batch, sequence]),
      ),
    );
    const program = await compile(runtime, { loss }, { name: "evaluation" });
    const tensors = {
      inputIds: runtime.createTensor("int32", [batch, sequence]),
      labels: runtime.createTensor("int32", [batch, sequence]),
      loss: runtime.createTensor("float32", []),
    };
    const all: Record<string, DeviceTensor> = { ...weights.tensors, ...tensors };
    const binding = program.bind(Object.fromEntries(program.inputs.map(({ name }) => [name, all[name]!])), {
      loss: tensors.loss,
    });
    return new EvaluationStep(program, binding, tensors);
  }

  /** Sum of the losses of one batch. */
  async run(batch: TokenBatch, options: RunOptions = {}): Promise<number> {
    this.tensors.inputIds.write(batch.inputIds);
    this.tensors.labels.write(batch.labels);
    await this.binding.run(options);
    return (await this.tensors.loss.read())[0]!;
  }

  dispose(): void {
    this.binding.dispose();
    this.program.dispose();
    for (const tensor of Object.values(this.tensors)) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Labels that count, over all rows of some batches. Throws `data` when there is none to learn from. */
export function labelCount(batches: readonly TokenBatch[]): number {
  let count = 0;
  for (const { labels } of batches) for (const label of labels) if (label !== -100) count++;
  if (count === 0) throw new LineageError("data", "a batch has no label that counts: every one is -100");
  return count;
}
