import type {
  Binding,
  DeviceTensor,
  Program,
  ProgramOptions,
  RunOptions,
  Runtime,
  Tensors,
  ValueInfo,
} from "../runtime/types.js";
import { Signature } from "../runtime/signature.js";
import { compile } from "./compile.js";
import { evaluateDim } from "./dims.js";
import type { LowerOptions } from "./lower.js";
import type { Node } from "./op.js";
import type { Tensor } from "./tensor.js";

/**
 * Compiles the program that computes `outputs` as several that run one after the other. They are made at the same time: the
 * engine arranges the constants of a program with one thread, which for large models is most of a start.
 * @param cuts where one part ends and the next begins: each is computed from the one before, and what does not lead to it
 *   is computed from it or from inputs
 */
export async function compileInParts(
  runtime: Runtime,
  outputs: Readonly<Record<string, Tensor>>,
  cuts: readonly Tensor[],
  options: Omit<LowerOptions, "given"> & ProgramOptions = {},
): Promise<Program> {
  if (cuts.length === 0) return compile(runtime, outputs, options);
  const rest = new Map(Object.entries(outputs));
  const wanted = [...cuts, undefined].map((cut, index) => {
    const own: Record<string, Tensor> = {};
    const behind = cut && dependents(cut, [...rest.values()]);
    for (const [name, tensor] of rest) {
      if (behind?.has(tensor)) continue;
      own[name] = tensor;
      rest.delete(name);
    }
    if (cut) own[cutName(index)] = cut;
    return own;
  });
  const parts = await allOrNone(
    wanted.map((own, index) =>
      compile(runtime, own, {
        ...options,
        ...(options.profile !== undefined && { profile: `${options.profile}-${index}` }),
        ...(index > 0 && { given: { [cutName(index - 1)]: cuts[index - 1]! } }),
      }),
    ),
  );
  return new ProgramInParts(runtime, parts, cuts, options.name ?? "the program");
}

/** Programs that are made at the same time; none stays where one fails. */
export async function allOrNone(making: readonly Promise<Program>[]): Promise<Program[]> {
  const results = await Promise.allSettled(making);
  const made = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failed = results.find((result) => result.status === "rejected");
  if (!failed) return made;
  for (const program of made) program.dispose();
  throw failed.reason;
}

/** No name that people give to an input or output has the mark. */
const cutName = (index: number): string => `cut#${index}`;

/** Those of `tensors` that are computed from `source`. */
function dependents(source: Tensor, tensors: readonly Tensor[]): ReadonlySet<Tensor> {
  const known = new Map<Node, boolean>([[source.node, true]]);
  const depends = (root: Node): boolean => {
    const stack = [root];
    while (stack.length > 0) {
      const node = stack.at(-1)!;
      if (known.has(node)) {
        stack.pop();
        continue;
      }
      const open = node.inputs.filter((input) => !known.has(input.node));
      if (open.length > 0) for (const input of open) stack.push(input.node);
      else
        known.set(
          node,
          node.inputs.some((input) => known.get(input.node)),
        );
    }
    return known.get(root)!;
  };
  return new Set(tensors.filter((tensor) => depends(tensor.node)));
}

/** Programs that run one after the other, each with what the one before it ended with. */
class ProgramInParts implements Program {
  private readonly signature: Signature;

  constructor(
    private readonly runtime: Runtime,
    private readonly parts: readonly Program[],
    private readonly cuts: readonly Tensor[],
    name: string,
  ) {
    const own = new Set(cuts.map((_, index) => cutName(index)));
    const unique = (infos: readonly ValueInfo[]): ValueInfo[] => [
      ...new Map(infos.filter((info) => !own.has(info.name)).map((info) => [info.name, info])).values(),
    ];
    this.signature = new Signature(
      name,
      unique(parts.flatMap((part) => part.inputs)),
      unique(parts.flatMap((part) => part.outputs)),
    );
  }

  get inputs(): readonly ValueInfo[] {
    return this.signature.inputs;
  }
  get outputs(): readonly ValueInfo[] {
    return this.signature.outputs;
  }

  async run(
    inputs: Tensors,
    outputs: Tensors = {},
    options: RunOptions = {},
  ): Promise<Record<string, DeviceTensor>> {
    this.signature.checkNames(inputs, outputs);
    const results: Record<string, DeviceTensor> = {};
    const between: DeviceTensor[] = [];
    try {
      for (const [index, part] of this.parts.entries()) {
        const before = index > 0 ? { [cutName(index - 1)]: between.at(-1)! } : {};
        const all = await part.run(
          { ...pick(part.inputs, inputs), ...before },
          pick(part.outputs, outputs),
          options,
        );
        for (const [name, tensor] of Object.entries(all))
          if (name === cutName(index)) between.push(tensor);
          else results[name] = tensor;
      }
      return results;
    } catch (error) {
      for (const [name, tensor] of Object.entries(results)) if (!outputs[name]) tensor.dispose();
      throw error;
    } finally {
      for (const tensor of between) tensor.dispose();
    }
  }

  bind(inputs: Tensors, outputs: Tensors): Binding {
    this.signature.checkNames(inputs, outputs);
    this.signature.checkBound(outputs);
    return new BindingInParts(this.runtime, this.parts, this.cuts, this.signature, inputs, outputs);
  }

  dispose(): void {
    for (const part of this.parts) part.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

class BindingInParts implements Binding {
  readonly synchronous: boolean;
  private readonly bindings: readonly Binding[];
  private readonly given: Record<string, DeviceTensor>;
  private between: readonly DeviceTensor[];
  /** Whether an input may have got another size. */
  private changed = false;

  constructor(
    private readonly runtime: Runtime,
    private readonly parts: readonly Program[],
    private readonly cuts: readonly Tensor[],
    private readonly signature: Signature,
    inputs: Tensors,
    outputs: Tensors,
  ) {
    this.given = { ...inputs };
    this.between = this.allocate(this.shapes());
    const bindings: Binding[] = [];
    try {
      for (const [index, part] of parts.entries()) {
        const shared = this.around(index);
        bindings.push(
          part.bind(
            { ...pick(part.inputs, inputs), ...pick(part.inputs, shared) },
            { ...pick(part.outputs, outputs), ...pick(part.outputs, shared) },
          ),
        );
      }
    } catch (error) {
      for (const made of [...bindings, ...this.between]) made.dispose();
      throw error;
    }
    this.bindings = bindings;
    this.synchronous = bindings.every((binding) => binding.synchronous);
  }

  set(name: string, tensor: DeviceTensor): void {
    const { kind } = this.signature.place(name, tensor);
    for (const [index, part] of this.parts.entries())
      if ((kind === "input" ? part.inputs : part.outputs).some((info) => info.name === name))
        this.bindings[index]!.set(name, tensor);
    if (kind === "output") return;
    this.given[name] = tensor;
    this.changed = true;
  }

  async run(options: RunOptions = {}): Promise<void> {
    this.fit();
    for (const binding of this.bindings) await binding.run(options);
  }

  runSync(): void {
    this.fit();
    for (const binding of this.bindings) binding.runSync();
  }

  dispose(): void {
    for (const owned of [...this.bindings, ...this.between]) owned.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Shapes of what lies between the parts, for the sizes that the inputs have. */
  private shapes(): number[][] {
    const sizes: Record<string, number> = {};
    for (const { name, shape } of this.signature.inputs)
      shape.forEach((dim, axis) => {
        if (typeof dim === "string") sizes[dim] ??= this.given[name]!.shape[axis]!;
      });
    return this.cuts.map(({ shape }) => shape.map((dim) => evaluateDim(dim, sizes)));
  }

  private allocate(shapes: readonly number[][]): DeviceTensor[] {
    return this.cuts.map(({ dtype }, index) => this.runtime.createTensor(dtype, shapes[index]!));
  }

  /** Sees to it that what lies between the parts has the sizes of the inputs. */
  private fit(): void {
    if (!this.changed) return;
    this.changed = false;
    const shapes = this.shapes();
    if (shapes.every((shape, index) => shape.join() === this.between[index]!.shape.join())) return;
    const last = this.between;
    this.between = this.allocate(shapes);
    for (const [index, binding] of this.bindings.entries())
      for (const [name, tensor] of Object.entries(this.around(index))) binding.set(name, tensor);
    for (const tensor of last) tensor.dispose();
  }

  /** What a part begins and ends with, by name. */
  private around(index: number): Record<string, DeviceTensor> {
    const ends = [index - 1, index].filter((cut) => this.between[cut]);
    return Object.fromEntries(ends.map((cut) => [cutName(cut), this.between[cut]!]));
  }
}

/** Those of `tensors` that have the names of `infos`. */
const pick = (infos: readonly ValueInfo[], tensors: Tensors): Record<string, DeviceTensor> =>
  Object.fromEntries(infos.flatMap(({ name }) => (tensors[name] ? [[name, tensors[name]]] : [])));
