import type { Answer } from "../data/index.js";
import { type Tensor, mul, squeeze, sum, tokenLosses, where } from "../graph/index.js";
import type { Encoding } from "../tokenizers/index.js";
import { spanScores } from "../training/index.js";
import { type Task, type TaskContext, int32, never, oneRow, softmax, tokenShape } from "./task.js";

/** Tokens of an answer at most. */
const longestAnswer = 30;

export const span: Task = {
  name: "span",
  head: "span",
  shape: tokenShape,
  perToken: true,
  hasClasses: false,
  hasThreshold: false,
  defaultLength: 384,
  numLabels: () => undefined,
  metric: "f1",
  targets: {
    starts: { dtype: "int32", shape: ["batch"] },
    ends: { dtype: "int32", shape: ["batch"] },
  },
  prepare: (example, place, { tokenizer, maxLength, stride, ...way }) => {
    const context = example.pair!;
    const [answer] = (example.label as readonly Answer[] | undefined) ?? [];
    const range = answer && unitsOf(context, answer.start, answer.start + [...answer.text].length);
    const windows = tokenizer.encodeWindows(example.text, context, { maxLength, stride, offsets: true });
    return windows.map((window) => {
      const none = noAnswer(window, way);
      const target =
        example.label === undefined ? undefined : ((range && tokensOf(window, range)) ?? [none, none]);
      return oneRow(place, window, target);
    });
  },
  collate: (items, length, { padding }) => {
    const at = (part: 0 | 1) =>
      items.map(({ target, rows }) => {
        const shift = padding.left ? length - rows[0]!.ids.length : 0;
        return (target as readonly number[])[part]! + shift;
      });
    return {
      tensors: { starts: int32(at(0), [items.length]), ends: int32(at(1), [items.length]) },
      count: items.length,
    };
  },
  loss: (logits, { starts, ends, attentionMask }) => {
    const [start, end] = logits.split(2, 2).map((part) => where(attentionMask!, squeeze(part, 2), never)) as [
      Tensor,
      Tensor,
    ];
    return mul(sum(tokenLosses(start, starts!).add(tokenLosses(end, ends!))), 0.5);
  },
  predict: ({ pair }, found, context) => {
    let best = { score: -Infinity, probability: 0, start: 0, end: 0 };
    // No window may have the answer; the one that is least sure of that speaks for all.
    let none = { score: Infinity, probability: 1 };
    for (const { item, logits } of found) {
      const row = item.rows[0]!;
      const starts = Array.from(row.ids, (_, token) => logits[2 * token]!);
      const ends = Array.from(row.ids, (_, token) => logits[2 * token + 1]!);
      const [startProbabilities, endProbabilities] = [softmax(starts), softmax(ends)];
      const cls = noAnswer(row, context);
      if (starts[cls]! + ends[cls]! < none.score)
        none = {
          score: starts[cls]! + ends[cls]!,
          probability: startProbabilities[cls]! * endProbabilities[cls]!,
        };
      for (let start = 0; start < row.ids.length; start++) {
        if (row.sequences[start] !== 1) continue;
        for (let end = start; end < Math.min(row.ids.length, start + longestAnswer); end++) {
          if (row.sequences[end] !== 1) break;
          const score = starts[start]! + ends[end]!;
          if (score > best.score) {
            best = {
              score,
              probability: startProbabilities[start]! * endProbabilities[end]!,
              start: row.offsets![start]![0],
              end: row.offsets![end]![1],
            };
          }
        }
      }
    }
    if (none.score >= best.score) return { answer: "", probability: none.probability };
    const text = pair!;
    return {
      answer: text.slice(best.start, best.end),
      start: [...text.slice(0, best.start)].length,
      end: [...text.slice(0, best.end)].length,
      probability: best.probability,
    };
  },
  measure: (examples, predictions, loss) => {
    let [exactMatch, f1] = [0, 0];
    examples.forEach(({ label }, place) => {
      const answers = (label as readonly Answer[]).map(({ text }) => text);
      const scores = spanScores(predictions[place]!.answer!, answers);
      exactMatch += scores.exact / examples.length;
      f1 += scores.f1 / examples.length;
    });
    return { metrics: { loss, exactMatch, f1 } };
  },
};

/**
 * The token that stands for no answer: the first, or XLNet's last; in a decoder the special token at the end, which has seen
 * the context, where there is one.
 */
const noAnswer = (
  { ids, specialMask }: Encoding,
  { padding, causal }: Pick<TaskContext, "padding" | "causal">,
): number => (padding.left || (causal && specialMask.at(-1)) ? ids.length - 1 : 0);

/** A range of code points as UTF-16 units. */
const unitsOf = (text: string, start: number, end: number): [number, number] => {
  const characters = [...text];
  const from = characters.slice(0, start).join("").length;
  return [from, from + characters.slice(start, end).join("").length];
};

/** The first and the last token of a range of the second text; undefined where the window does not have all of it. */
function tokensOf(window: Encoding, [from, to]: readonly [number, number]): [number, number] | undefined {
  const inside = window.ids.flatMap((_, token) => {
    const [start, end] = window.offsets![token]!;
    return window.sequences[token] === 1 && end > from && start < to ? [token] : [];
  });
  const [first, last] = [inside[0], inside.at(-1)];
  if (first === undefined || last === undefined) return undefined;
  const whole = window.offsets![first]![0] <= from && window.offsets![last]![1] >= to;
  return whole ? [first, last] : undefined;
}
