import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { openFile, readFully, readJson, storageError, writeJson } from "../base/files.js";
import type { Plan, PlannedOverlap } from "./plan.js";
import { type Prediction, type Score, predictionSchema, scoresOf } from "./scores.js";

const identitySchema = z.object({
  /** SHA-256 of the model's files. */
  model: z.string(),
  /** How its weights were loaded, where not as they are stored. */
  quantize: z.string().nullable(),
  /** SHA-256 of the adapter's files. */
  adapter: z.string().nullable().default(null),
  revision: z.string(),
  /** SHA-256 of the task's declaration. */
  declaration: z.string(),
  shots: z.int().nonnegative(),
  seed: z.int().nonnegative(),
  truncate: z.boolean(),
  samples: z.int().positive(),
  /** Answers that were read again before those that count. */
  refine: z.int().nonnegative().default(0),
  temperature: z.number().nullable(),
  overlap: z.int().positive(),
  /** Whether prompts are messages in the model's own template. */
  chat: z.boolean().default(false),
  /** Whether examples and question are one turn of it. */
  oneTurn: z.boolean().default(false),
  /** Whether products with weights in few bits took their inputs in float32. */
  exact: z.boolean().default(false),
});
/** What must be the same for predictions to belong together. */
export type Identity = z.output<typeof identitySchema>;

const storedSchema = z.object({
  model: z.string().optional(),
  identity: identitySchema,
  predictions: z.array(predictionSchema),
});

export interface TaskResult {
  readonly task: string;
  readonly shots: number;
  /** Questions that were asked. */
  readonly rows: number;
  /** Questions whose prompts were beyond the context: not asked, or cut where that was asked for. */
  readonly beyond: number;
  readonly cut: number;
  readonly scores: Readonly<Record<string, Score>>;
  /** What a text that the model was trained on has of the questions; absent where none was given. */
  readonly overlap?: OverlapResult | undefined;
}

/** Scores of the questions that share words in a row with a training text, and of the others (GPT-3, appendix C). */
export interface OverlapResult {
  readonly files: readonly string[];
  /** How many words in a row. */
  readonly words: number;
  /** How many of those were left out, for more than 10 documents have them. */
  readonly common: number;
  readonly dirtyRows: number;
  readonly cleanRows: number;
  readonly dirty: Readonly<Record<string, Score>>;
  readonly clean: Readonly<Record<string, Score>>;
}

/** Sums up predictions of a task. */
export function resultOf({ task, options, overlap }: Plan, predictions: readonly Prediction[]): TaskResult {
  const asked = predictions.filter(({ kind }) => kind !== "beyond");
  return {
    task: task.name,
    shots: options.shots ?? 0,
    rows: asked.length,
    beyond: predictions.length - asked.length,
    cut: asked.filter(({ cut }) => cut !== undefined).length,
    scores: scoresOf(asked),
    ...(overlap && { overlap: overlapResult(overlap, asked) }),
  };
}

function overlapResult(
  { files, words, common, rows }: PlannedOverlap,
  asked: readonly Prediction[],
): OverlapResult {
  const dirty = asked.filter(({ row }) => rows.has(row));
  const clean = asked.filter(({ row }) => !rows.has(row));
  const counts = { dirtyRows: dirty.length, cleanRows: clean.length };
  return { files, words, common, ...counts, dirty: scoresOf(dirty), clean: scoresOf(clean) };
}

/** SHA-256 of the file of a model or an adapter, or of the configuration, tokenizer and weights of its folder. */
export async function modelHash(place: string): Promise<string> {
  const hash = createHash("sha256");
  const files = ["config.json", "adapter_config.json"].some((name) => existsSync(path.join(place, name)))
    ? (await readdir(place))
        .filter((name) =>
          /^(config\.json|adapter_config\.json|tokenizer.*|vocab\..*|merges\.txt|spiece\.model|.*\.(safetensors|onnx))$/.test(
            name,
          ),
        )
        .sort()
        .map((name) => path.join(place, name))
    : [place];
  const buffer = new Uint8Array(2 ** 22);
  for (const file of files) {
    const { handle, size } = await openFile(file);
    try {
      hash.update(`${path.basename(file)} ${size}\n`);
      for (let start = 0; start < size; start += buffer.length) {
        const part = buffer.subarray(0, Math.min(buffer.length, size - start));
        await readFully(handle, file, part, start);
        hash.update(part);
      }
    } finally {
      await handle.close();
    }
  }
  return hash.digest("hex");
}

/** What tells a run of a plan from others. */
export function identityOf(
  { task, options }: Plan,
  {
    model,
    quantize,
    adapter,
    exact,
  }: {
    readonly model: string;
    readonly quantize?: string | undefined;
    readonly adapter?: string | undefined;
    readonly exact?: boolean | undefined;
  },
): Identity {
  return {
    model,
    quantize: quantize ?? null,
    adapter: adapter ?? null,
    revision: task.declaration.revision,
    declaration: createHash("sha256").update(JSON.stringify(task.declaration)).digest("hex"),
    shots: options.shots ?? 0,
    seed: options.seed ?? 0,
    truncate: options.truncate ?? false,
    samples: options.samples ?? 1,
    refine: options.refine ?? 0,
    temperature: options.temperature ?? null,
    overlap: options.overlap ?? 1,
    chat: options.chat !== undefined,
    oneTurn: options.oneTurn ?? false,
    exact: exact ?? false,
  };
}

/** One task's predictions in a folder: `TASK-5-shot.json`, written beside and renamed, so that a run can go on. */
export class ResultFile {
  private readonly predictions = new Map<number, Prediction>();
  private unsaved = 0;
  private savedAt = performance.now();

  private constructor(
    readonly file: string,
    private readonly plan: Plan,
    private readonly identity: Identity,
    private readonly about: Readonly<Record<string, unknown>>,
  ) {}

  /**
   * Opens the file of a plan, with what an earlier run has left in it. Throws `data` where that was of another model, another
   * task or other options, or where the rows have changed since.
   * @param about what else the file shall say
   */
  static async open(
    folder: string,
    plan: Plan,
    identity: Identity,
    about: Readonly<Record<string, unknown>> = {},
  ): Promise<ResultFile> {
    try {
      await mkdir(folder, { recursive: true });
    } catch (error) {
      throw storageError("write", folder, error);
    }
    const { task, options } = plan;
    const file = path.join(folder, `${task.name}-${options.shots ?? 0}-shot.json`);
    const opened = new ResultFile(file, plan, identity, about);
    if (existsSync(file)) opened.takeOver(await readJson(file));
    return opened;
  }

  private takeOver(json: unknown): void {
    const { file, plan, identity } = this;
    const stored = validated(
      storedSchema,
      json,
      (problem) => new FormatError(file, `this is no result of lineage evaluate: it ${problem}`),
    );
    for (const [name, now] of Object.entries(identity)) {
      const before = stored.identity[name as keyof Identity];
      if (before === now) continue;
      if (name === "model" && stored.model !== undefined && stored.model === this.about["model"])
        throw new LineageError(
          "data",
          `${file} holds results of ${stored.model}, whose files have changed since; choose another --out`,
        );
      const [was, is] =
        name === "model" && stored.model !== undefined
          ? [stored.model, String(this.about["model"])]
          : [short(before), short(now)];
      throw new LineageError(
        "data",
        `${file} holds results of another ${namesOfEntries[name] ?? name} (${was}, now ${is}); choose another --out`,
      );
    }
    const hashes = new Map(plan.asked.map(({ question }) => [question.row, question.hash]));
    for (const prediction of stored.predictions) {
      const hash = hashes.get(prediction.row);
      if (hash !== undefined && hash !== prediction.hash)
        throw new LineageError(
          "data",
          `${file} holds an answer to another prompt in row ${prediction.row + 1}: the data have changed; choose another --out`,
        );
      this.predictions.set(prediction.row, prediction);
    }
  }

  get known(): ReadonlyMap<number, Prediction> {
    return this.predictions;
  }

  /** Takes a prediction, and writes the file from time to time. */
  async add(prediction: Prediction): Promise<void> {
    this.predictions.set(prediction.row, prediction);
    this.unsaved++;
    if (this.unsaved >= 200 || performance.now() - this.savedAt > 20_000) await this.save();
  }

  async save(): Promise<void> {
    const { plan, identity, about } = this;
    [this.unsaved, this.savedAt] = [0, performance.now()];
    const predictions = [...this.predictions.values()].sort((a, b) => a.row - b.row);
    const asked = plan.asked.flatMap(({ question }) => this.predictions.get(question.row) ?? []);
    const promptHash = createHash("sha256");
    for (const { question } of plan.asked) promptHash.update(question.hash);
    await writeJson(this.file, {
      ...about,
      identity,
      complete: asked.length === plan.asked.length,
      promptHash: promptHash.digest("hex"),
      examples: plan.examples,
      ...resultOf(plan, asked),
      declaration: plan.task.declaration,
      predictions,
    });
  }
}

const namesOfEntries: Readonly<Record<string, string>> = {
  declaration: "declaration of the task",
  chat: "kind of prompts: --chat",
  overlap: "overlap of windows",
  oneTurn: "kind of prompts: --one-turn",
  exact: "precision: --exact",
};

const short = (value: unknown): string => {
  const text = String(value ?? "none");
  return text.length > 16 ? `${text.slice(0, 12)}…` : text;
};
