import { LineageError } from "../base/errors.js";
import { requireMemory } from "../base/memory.js";
import type { BatchTensor } from "../data/index.js";
import { type Tensor, compile, input, observing } from "../graph/index.js";
import {
  CausalLm,
  Encoder,
  EncoderDecoder,
  EncoderWithHead,
  type WeightSet,
  attentionMaskOf,
  namedParameters,
} from "../nn/index.js";
import type { DeviceTensor, Program, RunOptions } from "../runtime/types.js";

/** What one stack of layers lets be seen. */
export interface Sight<T> {
  /** The probabilities of every layer's attention, `[batch, heads, queryLength, keyLength]`. */
  readonly attention: readonly T[];
  /**
   * What every layer reads, and last what the stack gives, its final norm included: `numLayers + 1` times `[batch, sequence,
   * hiddenSize]`, as transformers' `hidden_states`.
   */
  readonly hidden: readonly T[];
}

/** What a network lets be seen; of an encoder-decoder, what its decoder does, and its encoder besides. */
export interface NetworkSight<T> extends Sight<T> {
  readonly encoder?: Sight<T>;
  /** From every layer of a decoder to the source, `[batch, heads, sequence, sourceSequence]`. */
  readonly cross?: readonly T[];
}

/**
 * Writes a network down and gives what it lets be seen, layer by layer, as tensors that a program may have as outputs. It
 * works for everything that is made of `attention` and `throughLayers`, a person's own architecture too:
 *
 *     const { attention, hidden } = sightOf(() => bert.encode({ inputIds, attentionMask }));
 */
export function sightOf(build: () => unknown): Sight<Tensor> {
  const { observations } = observing(build);
  const of = (wanted: "attention" | "hidden"): Tensor[] =>
    observations.filter(({ kind }) => kind === wanted).map(({ tensor }) => tensor);
  return { attention: of("attention"), hidden: of("hidden") };
}

/** A network of any kind. */
export type Network = CausalLm | Encoder | EncoderWithHead | EncoderDecoder;

/** A batch of any kind; all that is not there is left open. */
export interface LookBatch {
  /** Int32 `[batch, sequence]`; of an encoder-decoder, what is read. */
  readonly inputIds: BatchTensor;
  /** Bool `[batch, sequence]`, false for padding. Default: there is none. */
  readonly attentionMask?: BatchTensor;
  /** Int32 `[batch, sequence]`, for encoders. Default: all of the first segment. */
  readonly tokenTypeIds?: BatchTensor;
  /** Int32 `[batch, targetSequence]`: the start token and what is written, for encoder-decoders. */
  readonly decoderInputIds?: BatchTensor;
}

export interface LookChoice {
  /** Layers whose attention is computed, from 0. Default: all. */
  readonly layers?: readonly number[] | undefined;
  /** Whether hidden states are given. Default true. */
  readonly hiddenStates?: boolean | undefined;
}

/** Numbers on the host. */
export interface SeenTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

const sequence = ["batch", "sequence"];
const target = ["batch", "targetSequence"];

/** Attention and states of a network with its weights, for batches of any size. */
export class Lens implements Disposable {
  private constructor(
    private readonly network: CausalLm | Encoder | EncoderDecoder,
    private readonly weights: WeightSet,
    private readonly program: Program,
    private readonly outputs: NetworkSight<string>,
  ) {}

  /** Throws `argument` for a layer that the network does not have, `unsupported` for a network that lets nothing be seen. */
  static async create(network: Network, weights: WeightSet, choice: LookChoice = {}): Promise<Lens> {
    namedParameters(network);
    const bare = network instanceof EncoderWithHead ? network.encoder : network;
    const sight = chosen(networkSight(bare), choice);
    const outputs: Record<string, Tensor> = {};
    const named = <N extends string>(name: N, tensors: readonly Tensor[]): string[] =>
      tensors.map((tensor, index) => {
        outputs[`${name}.${index}`] = tensor;
        return `${name}.${index}`;
      });
    const names: NetworkSight<string> = {
      attention: named("attention", sight.attention),
      hidden: named("hidden", sight.hidden),
      ...(sight.cross && { cross: named("cross", sight.cross) }),
      ...(sight.encoder && {
        encoder: {
          attention: named("encoder.attention", sight.encoder.attention),
          hidden: named("encoder.hidden", sight.encoder.hidden),
        },
      }),
    };
    const { runtime, constants } = weights;
    const program = await compile(runtime, outputs, { name: "look", constants, exactProducts: true });
    return new Lens(bare, weights, program, names);
  }

  /** Throws `memory` where the maps of the batch do not fit. */
  async look(batch: LookBatch, options: RunOptions = {}): Promise<NetworkSight<SeenTensor>> {
    const { runtime, tensors } = this.weights;
    this.requireRoom(batch);
    const { inputIds } = batch;
    const all: Readonly<Record<string, BatchTensor | undefined>> = {
      attentionMask: { data: new Uint8Array(inputIds.data.length).fill(1), shape: inputIds.shape },
      tokenTypeIds: { data: new Int32Array(inputIds.data.length), shape: inputIds.shape },
      ...batch,
    };
    const given: Record<string, DeviceTensor> = {};
    let computed: Readonly<Record<string, DeviceTensor>> = {};
    try {
      for (const { name, dtype } of this.program.inputs) {
        const tensor = all[name];
        if (tensor) given[name] = runtime.createTensor(dtype, tensor.shape, tensor.data);
        else if (!tensors[name])
          throw new LineageError("argument", `an encoder-decoder is looked at with ${name}, too`);
      }
      computed = await this.program.run({ ...tensors, ...given }, {}, options);
      const read = async (name: string): Promise<SeenTensor> => {
        const tensor = computed[name]!;
        return { data: (await tensor.read()) as Float32Array, shape: tensor.shape };
      };
      const readAll = (names: readonly string[]): Promise<SeenTensor[]> => Promise.all(names.map(read));
      const { attention, hidden, cross, encoder } = this.outputs;
      return {
        attention: await readAll(attention),
        hidden: await readAll(hidden),
        ...(cross && { cross: await readAll(cross) }),
        ...(encoder && {
          encoder: {
            attention: await readAll(encoder.attention),
            hidden: await readAll(encoder.hidden),
          },
        }),
      };
    } finally {
      for (const tensor of [...Object.values(given), ...Object.values(computed)]) tensor.dispose();
    }
  }

  /** The engine's maps and their copies; what else a pass needs is little beside them. */
  private requireRoom({ inputIds, decoderInputIds }: LookBatch): void {
    const [batch = 1, length = 1] = inputIds.shape;
    const written = decoderInputIds?.shape[1] ?? length;
    const { attention, cross = [], encoder } = this.outputs;
    const maps =
      attention.length * written * written +
      cross.length * written * length +
      (encoder?.attention.length ?? 0) * length * length;
    requireMemory(
      2 * 4 * batch * this.network.config.numHeads * maps,
      "the maps of this text",
      "look at fewer layers, or at fewer tokens",
    );
  }

  dispose(): void {
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function networkSight(network: CausalLm | Encoder | EncoderDecoder): NetworkSight<Tensor> {
  const inputIds = input("inputIds", "int32", sequence);
  const attentionMask = input("attentionMask", "bool", sequence);
  if (network instanceof CausalLm)
    return sightOf(() =>
      network.hiddenStates(inputIds, undefined, {
        attentionMask: attentionMaskOf({ inputIds, attentionMask }),
        // A prefix language model reads the text as its prompt.
        prefix: network.config.prefixLm ? attentionMask : undefined,
      }),
    );
  if (network instanceof Encoder) {
    const tokenTypeIds = input("tokenTypeIds", "int32", sequence);
    return sightOf(() => network.encode({ inputIds, attentionMask, tokenTypeIds }));
  }
  let memory: Tensor;
  const encoder = sightOf(() => {
    memory = network.encode({ inputIds, attentionMask });
  });
  const decoderInputIds = input("decoderInputIds", "int32", target);
  const { attention, hidden } = sightOf(() =>
    network.hiddenStates(decoderInputIds, { memory, memoryMask: attentionMask }),
  );
  // The two attentions of a layer differ in what they look at.
  const toSource = ({ shape }: Tensor): boolean => shape[3] === "sequence";
  return {
    attention: attention.filter((map) => !toSource(map)),
    cross: attention.filter(toSource),
    hidden,
    encoder,
  };
}

function chosen(
  sight: NetworkSight<Tensor>,
  { layers, hiddenStates = true }: LookChoice,
): NetworkSight<Tensor> {
  if (sight.attention.length === 0)
    throw new LineageError(
      "unsupported",
      "this network lets no attention be seen: it must be made of lineage's `attention`",
    );
  const picked = (maps: readonly Tensor[]): Tensor[] =>
    (layers ?? [...maps.keys()]).map((layer) => {
      const map = maps[layer];
      if (!map)
        throw new LineageError(
          "argument",
          `there is no layer ${layer}: the network has ${maps.length}, from 0 to ${maps.length - 1}`,
        );
      return map;
    });
  const { attention, hidden, cross, encoder } = sight;
  return {
    attention: picked(attention),
    hidden: hiddenStates ? hidden : [],
    ...(cross && { cross: picked(cross) }),
    ...(encoder && {
      encoder: { attention: picked(encoder.attention), hidden: hiddenStates ? encoder.hidden : [] },
    }),
  };
}
