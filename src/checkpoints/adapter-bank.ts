import { bytesPerElement } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { requireMemory } from "../base/memory.js";
import { AdapterBank, type Linear } from "../nn/index.js";
import type { ModelWeights } from "../quantization/index.js";
import type { DeviceTensor } from "../runtime/types.js";
import { type AdapterBase, loadAdapter } from "./adapter.js";

/** One adapter's update of one layer: `scaling * up down`. */
interface Update {
  /** `[rank, inSize]` */
  readonly down: Float32Array;
  /** `[outSize, rank]` */
  readonly up: Float32Array;
  readonly rank: number;
  readonly scaling: number;
}

interface Updates {
  readonly linear: Linear;
  /** By the adapter's name. */
  readonly byName: Map<string, Update>;
}

/**
 * Holds several LoRA adapters beside a model that is only run, for a decoder whose texts each have one of them or none:
 *
 *     const { weights } = await loadAdapters(new Map([["sql", "runs/sql"], ["poems", "runs/poems"]]), loaded);
 *     using decoder = await Decoder.create({ model: loaded.model, weights, slots: 8 });
 *     generate(decoder, prompts, { adapters: ["sql", "poems", undefined] });
 *
 * Ranks are filled up to the largest. The weights returned are those given and the adapters'. Throws as `loadAdapter` does;
 * `unsupported` for a soft prompt, `memory` where the adapters do not fit into what is free.
 * @param folders of the adapters, in peft's layout, by the names that texts choose by
 */
export async function loadAdapters(
  folders: ReadonlyMap<string, string>,
  { model, weights, system }: AdapterBase,
): Promise<{ readonly bank: AdapterBank; readonly weights: ModelWeights }> {
  if (folders.size === 0) throw new LineageError("argument", "there are no adapters to load");
  const layers = new Map<string, Updates>();
  for (const [name, folder] of folders)
    await collect(layers, name, folder, { model, weights, ...(system && { system }) });
  const rank = Math.max(
    ...[...layers.values()].flatMap(({ byName }) => [...byName.values()].map((one) => one.rank)),
  );
  const sizes = [...layers.values()].map(({ linear }) =>
    linear.weight.shape.reduce((sum, size) => sum + size, 0),
  );
  const elements = folders.size * rank * sizes.reduce((sum, size) => sum + size, 0);
  // As they are kept, and as the engine arranges them.
  requireMemory(
    2 * elements * bytesPerElement("float32"),
    `${folders.size} adapters of rank ${rank}`,
    "load fewer, or adapters of a smaller rank",
  );
  const linears = new Map([...layers].map(([path, { linear }]) => [path, linear]));
  const bank = new AdapterBank(model, [...folders.keys()], rank, linears);
  const tensors: Record<string, DeviceTensor> = {};
  for (const [path, { down, up }] of bank.layers) {
    const { byName } = layers.get(path)!;
    for (const [{ name, shape }, write] of [
      [down, writeDown],
      [up, writeUp],
    ] as const) {
      const values = new Float32Array(shape[0]! * shape[1]!);
      for (const [adapter, update] of byName)
        write(values.subarray(bank.placeOf(adapter) * rank * shape[1]!), update);
      tensors[name] = weights.runtime.createTensor("float32", shape, values);
    }
  }
  return { bank, weights: weights.with(tensors) };
}

/** Adds what an adapter does to each layer. The model and its weights stay as they are. */
async function collect(
  layers: Map<string, Updates>,
  name: string,
  folder: string,
  base: AdapterBase,
): Promise<void> {
  const { adapter, weights } = await loadAdapter(folder, base, { updatesAlone: true });
  const parameters = [...adapter.parameters.keys()];
  try {
    if (adapter.kind !== "lora")
      throw new LineageError(
        "unsupported",
        `the adapter ${name} in ${folder} is a soft prompt, which stands before every text; load it alone`,
      );
    for (const [path, { linear, lora }] of adapter.layers) {
      const [down, up] = [lora.down, lora.up].map(({ weight }) =>
        (weights.constants.tensors[weight.name]!.view() as Float32Array).slice(),
      ) as [Float32Array, Float32Array];
      // The update of a row that is another adapter's is multiplied by 0, which leaves NaN and infinity what they are.
      if (!down.every(Number.isFinite) || !up.every(Number.isFinite))
        throw new LineageError(
          "checkpoint",
          `the adapter ${name} in ${folder} has numbers beside ${path} that are not finite: its training went wrong`,
        );
      let updates = layers.get(path);
      if (!updates) layers.set(path, (updates = { linear, byName: new Map() }));
      updates.byName.set(name, { down, up, rank: lora.rank, scaling: lora.scaling });
    }
  } finally {
    adapter.remove();
    weights.with({}, parameters);
  }
}

function writeDown(to: Float32Array, { down }: Update): void {
  to.set(down);
}

function writeUp(to: Float32Array, { up, rank, scaling }: Update): void {
  const outSize = up.length / rank;
  for (let k = 0; k < rank; k++)
    for (let out = 0; out < outSize; out++) to[k * outSize + out] = scaling * up[out * rank + k]!;
}
