import { type Batch, type BatchTensor, padRows } from "../data/index.js";
import { type Item, type ItemLogits, type Task, type TaskContext, mostRows } from "./task.js";

/** The encoder's inputs of items, `[batch, sequence]`, or `[batch, choices, sequence]` with missing choices as empty rows. */
export function inputsOf(
  task: Task,
  items: readonly Item[],
  { padding }: TaskContext,
): Record<string, BatchTensor> {
  if (task.shape.length === 2)
    return padRows(
      items.map(({ rows }) => rows[0]!),
      padding,
    );
  const most = mostRows(items);
  const flat = padRows(
    items.flatMap(({ rows }) => Array.from({ length: most }, (_, place) => rows[place] ?? rows[0]!)),
    padding,
  );
  return Object.fromEntries(
    Object.entries(flat).map(([name, { data, shape }]) => [
      name,
      { data, shape: [items.length, most, shape[1]!] },
    ]),
  );
}

/** A batch to learn from. */
export function batchOf(task: Task, items: readonly Item[], context: TaskContext): Batch {
  const inputs = inputsOf(task, items, context);
  const { shape, data } = inputs["inputIds"]!;
  const { tensors, count } = task.collate(items, shape.at(-1)!, context);
  return { tensors: { ...inputs, ...tensors }, counts: { [task.name]: count }, tokens: data.length };
}

/** Each item's part of a batch's logits. */
export function logitsOf(
  task: Task,
  items: readonly Item[],
  { data, shape }: { data: Float32Array; shape: readonly number[] },
  { padding }: TaskContext,
): ItemLogits[] {
  const size = data.length / items.length;
  return items.map((item, row) => {
    const own = data.subarray(row * size, (row + 1) * size);
    if (task.shape.length > 2) return { item, logits: own.subarray(0, item.rows.length) };
    if (!task.perToken) return { item, logits: own };
    const width = shape[2]!;
    const shift = padding.left ? shape[1]! - item.length : 0;
    return { item, logits: own.subarray(shift * width, (shift + item.length) * width) };
  });
}
