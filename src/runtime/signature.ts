import { type TypedArray, elementCount } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { widen } from "../base/half.js";
import type { DeviceTensor, ProgramOptions, Tensors, ValueInfo } from "./types.js";

/** Where a name stands in a program's signature. */
export interface Slot {
  readonly info: ValueInfo;
  readonly kind: "input" | "output";
  readonly index: number;
}

/** A dimension that is a name and not an expression of names. */
const symbol = /^[A-Za-z_]\w*$/;

/** What a program takes and gives, and the sentences for what does not fit: the same for every engine. */
export class Signature {
  private readonly slots = new Map<string, Slot>();

  /** @param program its name for messages */
  constructor(
    readonly program: string,
    readonly inputs: readonly ValueInfo[],
    readonly outputs: readonly ValueInfo[],
    private readonly checkSizes?: ProgramOptions["checkSizes"],
  ) {
    outputs.forEach((info, index) => this.slots.set(info.name, { info, kind: "output", index }));
    inputs.forEach((info, index) => this.slots.set(info.name, { info, kind: "input", index }));
  }

  /** The place of a tensor. Throws `argument` for a name that is none, `shape` for a tensor that does not fit it. */
  place(name: string, tensor: DeviceTensor): Slot {
    const slot = this.slots.get(name);
    if (!slot) {
      throw new LineageError(
        "argument",
        `${this.program} has no input or output named ${name}; it has ${this.text()}`,
      );
    }
    if (!fits(slot.info, tensor)) {
      throw new LineageError(
        "shape",
        `${this.program}: ${name} must be ${describe(slot.info)}, not ${tensor.dtype} [${tensor.shape.join(", ")}]`,
      );
    }
    return slot;
  }

  /** The place of a name that is known to be one of the program's. */
  slot(name: string): Slot {
    return this.slots.get(name)!;
  }

  /** Throws `argument` unless every input has a tensor and every name of `outputs` is an output's. */
  checkNames(inputs: Tensors, outputs: Tensors): void {
    for (const { name } of this.inputs) {
      if (!inputs[name]) {
        throw new LineageError(
          "argument",
          `${this.program}: the input ${name} is missing; it needs ${this.text()}`,
        );
      }
    }
    for (const name of Object.keys(outputs)) {
      if (this.slots.get(name)?.kind !== "output") {
        throw new LineageError(
          "argument",
          `${this.program} has no output named ${name}; it has ${this.text()}`,
        );
      }
    }
  }

  /** Throws `argument` unless every output has a tensor. */
  checkBound(outputs: Tensors): void {
    for (const { name } of this.outputs) {
      if (!outputs[name])
        throw new LineageError("argument", `${this.program}: bind needs a tensor for the output ${name}`);
    }
  }

  /**
   * Throws `shape` unless tensors that are in their places agree on what each named dimension is, and what `checkSizes`
   * throws of their sizes.
   */
  checkDimensions(tensors: Iterable<readonly [string, DeviceTensor]>): void {
    const dims = new Map<string, { size: number; name: string }>();
    for (const [name, tensor] of tensors) {
      this.slots.get(name)!.info.shape.forEach((dim, axis) => {
        if (typeof dim !== "string" || !symbol.test(dim)) return;
        const size = tensor.shape[axis]!;
        const known = dims.get(dim);
        if (known && known.size !== size) {
          throw new LineageError(
            "shape",
            `${this.program}: the dimension ${dim} is ${known.size} in ${known.name} but ${size} in ${name}; ` +
              `it must be one number in one run`,
          );
        }
        if (!known) dims.set(dim, { size, name });
      });
    }
    this.checkSizes?.(this.program, new Map([...dims].map(([dim, { size }]) => [dim, size])));
  }

  private text(): string {
    const list = (infos: readonly ValueInfo[]) =>
      infos
        .slice(0, 8)
        .map((info) => `${info.name} (${describe(info)})`)
        .join(", ") + (infos.length > 8 ? `, and ${infos.length - 8} more` : "");
    return `the inputs ${list(this.inputs)} and the outputs ${list(this.outputs)}`;
  }
}

const describe = ({ dtype, shape }: ValueInfo): string =>
  `${dtype} [${shape.map((dim) => dim ?? "?").join(", ")}]`;

const fits = ({ dtype, shape }: ValueInfo, tensor: DeviceTensor): boolean =>
  dtype === tensor.dtype &&
  shape.length === tensor.shape.length &&
  shape.every((dim, axis) => typeof dim !== "number" || dim === tensor.shape[axis]);

/** Throws `shape` unless every dimension is a whole number of at least 0. */
export function checkShape(name: string, shape: readonly number[]): void {
  if (shape.some((dim) => !Number.isSafeInteger(dim) || dim < 0)) {
    throw new LineageError("shape", `${name}: [${shape.join(", ")}] is not a shape`);
  }
}

/** Throws `shape` unless tensors that are joined have as many elements as `shape`. */
export function checkJoined(
  shape: readonly number[],
  first: DeviceTensor,
  others: readonly DeviceTensor[],
): void {
  checkShape("join", shape);
  const size = others.reduce((sum, other) => sum + other.size, first.size);
  if (elementCount(shape) !== size)
    throw new LineageError("shape", `join: ${size} elements cannot have the shape [${shape.join(", ")}]`);
}

/** Throws `argument` unless `count` elements of `source` from `from` on can be copied to `offset`. */
export function checkCopy(
  target: DeviceTensor,
  offset: number,
  source: DeviceTensor,
  from: number,
  count: number,
): void {
  const within = (start: number, size: number): boolean =>
    Number.isInteger(start) && start >= 0 && start + count <= size;
  if (target.dtype !== source.dtype)
    throw new LineageError(
      "argument",
      `copy: ${source.dtype} elements do not go into a tensor of ${target.dtype}`,
    );
  if (!Number.isInteger(count) || count < 0 || !within(offset, target.size) || !within(from, source.size))
    throw new LineageError(
      "argument",
      `copy: ${count} elements from ${from} of ${source.size} to ${offset} of ${target.size} do not lie within both`,
    );
}

/** Values that a tensor shows of itself. */
const shown = 6;

/** A tensor for a person: `float32 [2, 3]: 1, 2, 3, 4, 5, 6`. 16-bit floats show what they stand for. */
export function describeTensor(
  { dtype, shape }: Pick<DeviceTensor, "dtype" | "shape">,
  values: TypedArray | undefined,
): string {
  const head = `${dtype} [${shape.join(", ")}]`;
  if (!values) return `${head}, disposed`;
  const first = values.subarray(0, shown);
  const floats = new Float32Array(first.length);
  const widened = first instanceof Uint16Array ? widen[dtype] : undefined;
  widened?.(first as Uint16Array, floats);
  const listed = Array.from((widened ? floats : first) as ArrayLike<number | bigint>, (value) =>
    typeof value === "number" ? Number(value.toPrecision(6)) : value,
  );
  return `${head}: ${listed.join(", ")}${values.length > shown ? ", …" : ""}`;
}
