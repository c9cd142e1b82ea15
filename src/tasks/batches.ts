import { type Batch, type BatchTensor, padRows } from "../data/index.js";
import { ignoredLabel } from "../graph/index.js";
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

/**
 * A batch to learn from.
 * @param options.language whether the words are learned, too: the token that follows each, `nextTokens`, and their count
 */
export function batchOf(
  task: Task,
  items: readonly Item[],
  context: TaskContext,
  { language = false }: { readonly language?: boolean } = {},
): Batch {
  const inputs = inputsOf(task, items, context);
  const { shape, data } = inputs["inputIds"]!;
  const { tensors, count } = task.collate(items, shape.at(-1)!, context);
  const own: Batch = {
    tensors: { ...inputs, ...tensors },
    counts: { [task.name]: count },
    tokens: data.length,
  };
  if (!language) return own;
  const nextTokens = nextTokensOf(task, items, inputs);
  const words = nextTokens.data.reduce((sum: number, id) => sum + Number(id !== ignoredLabel), 0);
  return {
    ...own,
    tensors: { ...own.tensors, nextTokens },
    counts: { ...own.counts, [languagePart]: words },
  };
}

/** The part of the loss that learns the words of a task's rows. */
export const languagePart = "language";

/** The token behind every token, -100 where there is none; a missing choice has none at all. */
function nextTokensOf(
  task: Task,
  items: readonly Item[],
  { inputIds, attentionMask }: Record<string, BatchTensor>,
): { readonly data: Int32Array; readonly shape: readonly number[] } {
  const { shape } = inputIds!;
  const length = shape.at(-1)!;
  const most = task.shape.length > 2 ? shape[1]! : 1;
  const data = new Int32Array(inputIds!.data.length).fill(ignoredLabel);
  items.forEach(({ rows }, item) => {
    for (let row = 0; row < Math.min(most, rows.length); row++) {
      const start = (item * most + row) * length;
      for (let token = 0; token + 1 < length; token++)
        if (attentionMask!.data[start + token + 1] === 1)
          data[start + token] = Number(inputIds!.data[start + token + 1]);
    }
  });
  return { data, shape };
}

/** Each item's part of a batch's logits. */
export function logitsOf(
  task: Task,
  items: readonly Item[],
  { data, shape }: { data: Float32Array; shape: readonly number[] },
  { padding }: TaskContext,
): ItemLogits[] {
  const size = data.length / items.length;
  /** Logits of one row, of those that an item has several of. */
  const perRow = size / (shape[1] ?? 1);
  return items.map((item, row) => {
    const own = data.subarray(row * size, (row + 1) * size);
    if (task.shape.length > 2) return { item, logits: own.subarray(0, item.rows.length * perRow) };
    if (!task.perToken) return { item, logits: own };
    const width = shape[2]!;
    const shift = padding.left ? shape[1]! - item.length : 0;
    return { item, logits: own.subarray(shift * width, (shift + item.length) * width) };
  });
}
