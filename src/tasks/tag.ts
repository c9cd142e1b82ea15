import { indexOfLargest } from "../base/numbers.js";
import { ignoredLabel, sum, tokenLosses } from "../graph/index.js";
import { ConfusionMatrix, entityScores } from "../training/index.js";
import { type Item, type Task, oneRow, tokenShape } from "./task.js";

export const tag: Task = {
  name: "tag",
  head: "tag",
  shape: tokenShape,
  perToken: true,
  hasClasses: true,
  hasThreshold: false,
  defaultLength: 256,
  numLabels: ({ length }) => length,
  metric: "f1",
  targets: { labels: { dtype: "int32", shape: tokenShape } },
  prepare: (example, place, { tokenizer, maxLength, labels, causal }) => {
    const words = example.words!;
    const tags = example.label as readonly string[] | undefined;
    const specialTokens = tokenizer.encodePair("").ids.length;
    const sizes = words.map((word) =>
      Math.max(1, tokenizer.encode(` ${word}`).length, tokenizer.encode(word).length),
    );
    const items: Item[] = [];
    for (let first = 0; first < Math.max(1, words.length);) {
      let end = first;
      let used = specialTokens;
      while (end < words.length && (end === first || used + sizes[end]! <= maxLength)) used += sizes[end++]!;
      const row = tokenizer.encodeWords(words.slice(first, end), { maxLength });
      const target =
        tags &&
        row.wordIds.map((word, token) =>
          answersFor(row.wordIds, token, causal) ? labels.indexOf(tags[first + word]!) : ignoredLabel,
        );
      items.push({ ...oneRow(place, row, target), wordIds: row.wordIds, firstWord: first });
      first = Math.max(end, first + 1);
    }
    return items;
  },
  collate: (items, length, { padding }) => {
    const labels = new Int32Array(items.length * length).fill(ignoredLabel);
    let count = 0;
    items.forEach(({ target }, row) => {
      const tags = target as readonly number[];
      labels.set(tags, row * length + (padding.left ? length - tags.length : 0));
      count += tags.filter((label) => label !== ignoredLabel).length;
    });
    return { tensors: { labels: { data: labels, shape: [items.length, length] } }, count };
  },
  loss: (logits, { labels }) => sum(tokenLosses(logits, labels!)),
  predict: ({ words }, found, { labels, causal }) => {
    // A word that has no token, such as a control character, is nothing.
    const tags = words!.map(() => (labels.includes("O") ? "O" : labels[0]!));
    for (const { item, logits } of found) {
      item.wordIds!.forEach((word, token) => {
        if (!answersFor(item.wordIds!, token, causal)) return;
        const scores = logits.subarray(token * labels.length, (token + 1) * labels.length);
        tags[item.firstWord! + word] = labels[indexOfLargest(scores)]!;
      });
    }
    return { tags };
  },
  measure: (examples, predictions, loss, { labels }) => {
    const truth = examples.map(({ label }) => label as readonly string[]);
    const found = predictions.map(({ tags }) => tags!);
    const ids = (rows: readonly (readonly string[])[]) => rows.flat().map((name) => labels.indexOf(name));
    const confusion = ConfusionMatrix.of(labels, ids(truth), ids(found));
    const { accuracy, macroF1 } = confusion;
    // Tags that name no entities, such as parts of speech, are measured one by one.
    const entities = labels.some((label) => /^[BI]-/.test(label));
    const scores = entities ? entityScores(truth, found) : { f1: macroF1 };
    return { metrics: { loss, accuracy, ...scores }, confusion };
  },
};

/**
 * Whether a token answers for its word: the first of the word, as in BERT's paper; in a decoder the last, the only one that
 * has seen all of it.
 */
const answersFor = (wordIds: readonly number[], token: number, causal: boolean): boolean =>
  wordIds[token]! >= 0 && wordIds[token + (causal ? 1 : -1)] !== wordIds[token];
