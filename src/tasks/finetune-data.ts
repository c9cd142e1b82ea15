import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { type Example, examplesOf, isHeaderOf, readTable } from "../data/index.js";
import type { FinetuneOptions } from "./finetune-options.js";
import type { RunControl } from "./run.js";

/** What a run learns from and is measured on. */
export interface FinetuneData {
  readonly file: string;
  readonly training: readonly Example[];
  readonly held: readonly Example[];
  readonly heldFile: string;
}

const listNumbers = (rows: readonly { readonly number: number }[]): string =>
  rows
    .slice(0, 5)
    .map(({ number }) => number)
    .join(", ") + (rows.length > 5 ? ", …" : "");
const listRows = (examples: readonly Example[]): string =>
  listNumbers(examples.map(({ row }) => ({ number: row })));

/** Reads the files of a run; a share of the training file is held out where there is none to evaluate on. */
export async function readData(options: FinetuneOptions, control: RunControl): Promise<FinetuneData> {
  const training = await readExamples(options.data, options, control);
  if (options.eval !== undefined)
    return {
      file: options.data,
      training,
      held: await readExamples(options.eval, options, control),
      heldFile: options.eval,
    };
  const count = Math.ceil(training.length * options.validation);
  if (options.validation > 0 && count >= training.length)
    throw new LineageError(
      "data",
      `${options.data} has ${training.length} rows, too few to hold some out; give --eval FILE`,
    );
  const order = new Random(options.seed).fork("held out").permutation(training.length);
  const held = new Set(order.slice(0, count));
  if (count > 0)
    control.onMessage?.(`${count} of ${training.length} rows are held out for evaluation`, {
      heldOut: count,
    });
  return {
    file: options.data,
    training: training.filter((_, place) => !held.has(place)),
    held: training.filter((_, place) => held.has(place)),
    heldFile: options.data,
  };
}

/** The rows of a file that can be learned from or measured. What is left out, and what is odd, is told with its rows. */
export async function readExamples(
  file: string,
  options: Pick<
    FinetuneOptions,
    "task" | "textColumn" | "pairColumn" | "labelColumn" | "encoding" | "skipUnlabelled" | "skipBadRows"
  > &
    Partial<Pick<FinetuneOptions, "bothOrders">>,
  { onMessage }: Pick<RunControl, "onMessage"> = {},
): Promise<readonly Example[]> {
  const columns = { text: options.textColumn, pair: options.pairColumn, label: options.labelColumn };
  const { skipBadRows } = options;
  const table = await readTable(file, {
    header: isHeaderOf(columns),
    encoding: options.encoding,
    skipBadRows,
  });
  const { bothOrders: pairs = false } = options;
  const found = examplesOf(options.task, table, columns, { skipBadRows, pairs });
  const { examples, columns: read } = found;
  // The answers of a span may stand in columns of their own names.
  if (found.label === undefined && options.task !== "span")
    throw new LineageError(
      "data",
      `${file} has no label column; it has ${table.columns.join(", ")}. Name it with --label-column`,
    );
  const bad = [...table.bad, ...found.bad];
  if (bad.length > 0)
    onMessage?.(
      `${file}: left out ${bad.length} ${bad.length === 1 ? "row" : "rows"} that cannot be used (${bad.length === 1 ? "row" : "rows"} ${listNumbers(bad)})`,
      { file, bad: bad.length },
    );
  onMessage?.(`${file}: ${examples.length} ${examples.length === 1 ? "row" : "rows"}; ${read}`, {
    file,
    rows: examples.length,
    columns: read,
  });
  const labelled = examples.filter(({ label }) => label !== undefined);
  const missing = examples.filter(({ label }) => label === undefined);
  if (missing.length > 0) {
    const what = `${file}: ${missing.length} of ${examples.length} rows have no label (${missing.length === 1 ? "row" : "rows"} ${listRows(missing)})`;
    if (!options.skipUnlabelled || labelled.length === 0)
      throw new LineageError("data", `${what}; add labels, or leave the rows out with --skip-unlabelled`);
    onMessage?.(`${what}; they are left out`, { file, unlabelled: missing.length });
  }
  const empty = labelled.filter(({ text, pair, words }) =>
    words ? words.length === 0 : text.trim() === "" && !pair?.trim(),
  );
  if (empty.length > 0)
    onMessage?.(
      `${file}: ${empty.length} ${empty.length === 1 ? "text is" : "texts are"} empty (rows ${listRows(empty)}); they are kept as they are`,
      {
        file,
        empty: empty.length,
      },
    );
  return labelled;
}
