import { LineageError } from "../base/errors.js";
import { type Dim, type Tensor, equalShapes, input, matmul } from "../graph/index.js";
import { zerosInit } from "./initializers.js";
import type { Linear } from "./layers.js";
import { Module, Parameter, namedParameters } from "./module.js";

/** The program's input that says which adapter each row has. */
export const adapterInput = "adapters";

/** Of one linear layer, the updates of several adapters: A's and B's matrices stacked along the ranks, scales in B. */
class BankLayer extends Module {
  static override readonly names = { down: "lora_A", up: "lora_B" };
  /** `[width, inSize]` */
  readonly down: Parameter;
  /** `[width, outSize]` */
  readonly up: Parameter;

  constructor(
    inSize: number,
    outSize: number,
    private readonly bank: AdapterBank,
  ) {
    super();
    this.down = new Parameter([bank.width, inSize], zerosInit);
    this.up = new Parameter([bank.width, outSize], zerosInit);
    this.down.trainable = this.up.trainable = false;
  }

  /** `[batch, sequence, inSize]` -> `[batch, sequence, outSize]`; undefined where no rows have adapters. */
  override forward(x: Tensor): Tensor | undefined {
    const { chosen } = this.bank;
    if (!chosen) return undefined;
    if (x.rank !== 3 || !equalShapes([x.shape[0]!], [chosen.shape[0]!]))
      throw new LineageError(
        "unsupported",
        `${this.path} does not take one text a row, so that rows cannot have adapters of their own; load one adapter alone`,
      );
    return matmul(matmul(x, this.down.tensor, { transposeB: true }).mul(chosen), this.up.tensor);
  }
}

/**
 * Several LoRA adapters beside one model, of which each row of a batch has one or none (Sheng et al. 2023, "S-LoRA": one
 * product of the base for all rows, and their own updates beside it). The update of a row is computed with all adapters
 * stacked, and what is not its own is multiplied by 0: each adapter is read once a run, however many rows have it.
 * Where no rows are chosen the model computes as its base does.
 */
export class AdapterBank {
  /** What a run gives of each row, `[batch, 1, width]`: there while a program is written. */
  chosen: Tensor | undefined;
  private readonly added = new Map<string, { readonly linear: Linear; readonly layer: BankLayer }>();

  /**
   * @param names of the adapters, by which requests choose
   * @param rank the largest of all
   * @param linears the layers that some adapter updates, by dotted path
   */
  constructor(
    private readonly model: Module,
    readonly names: readonly string[],
    readonly rank: number,
    linears: ReadonlyMap<string, Linear>,
  ) {
    for (const [path, linear] of linears) {
      if (linear.adapter)
        throw new LineageError("argument", `${path} has an adapter already; take that one off first`);
      const { shape } = linear.weight;
      const [inSize, outSize] = (linear.transposeWeight ? shape.toReversed() : shape) as [number, number];
      this.added.set(path, { linear, layer: new BankLayer(inSize, outSize, this) });
    }
    for (const { linear, layer } of this.added.values()) linear.adapter = layer;
    namedParameters(model);
    banks.set(model, this);
  }

  /** Ranks of all adapters. */
  get width(): number {
    return this.names.length * this.rank;
  }

  /** Which parameters hold the updates of a layer, by its dotted path. */
  get layers(): ReadonlyMap<string, { readonly down: Parameter; readonly up: Parameter }> {
    return new Map(
      [...this.added].map(
        ([
          path,
          {
            layer: { down, up },
          },
        ]) => [path, { down, up }],
      ),
    );
  }

  /** The place of an adapter by its name. Throws `argument` where there is none. */
  placeOf(name: string): number {
    const place = this.names.indexOf(name);
    if (place < 0) throw unknownAdapter(name, this.names);
    return place;
  }

  /** Lets a program that `body` writes choose adapters, by rows of a batch. */
  choosing<T>(batch: Dim, body: () => T): T {
    this.chosen = input(adapterInput, "float32", [batch, 1, this.width]);
    try {
      return body();
    } finally {
      this.chosen = undefined;
    }
  }

  /** Writes which adapter a row has; undefined for none. @param rows what a run gives, `[batch, 1, width]` */
  choose(rows: Float32Array, row: number, place: number | undefined): void {
    const { rank, width } = this;
    const own = rows.subarray(row * width, (row + 1) * width);
    own.fill(0);
    if (place !== undefined) own.fill(1, place * rank, (place + 1) * rank);
  }

  /** Takes the adapters off the model. Programs that were compiled with them keep them. */
  remove(): void {
    for (const { linear } of this.added.values()) linear.adapter = undefined;
    banks.delete(this.model);
  }
}

/** What is said of an adapter that a text asks for and that is not there. @param names of those that are */
export const unknownAdapter = (name: string, names: readonly string[]): LineageError =>
  new LineageError(
    "argument",
    names.length === 0
      ? `there is no adapter ${name}: the model was loaded without adapters to choose from`
      : `there is no adapter ${name}; loaded ${names.length === 1 ? "is" : "are"} ${names.join(", ")}`,
  );

const banks = new WeakMap<Module, AdapterBank>();

/** The adapters that rows of a model may have. */
export const bankOf = (model: Module): AdapterBank | undefined => banks.get(model);
