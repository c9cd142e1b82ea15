import { appendFileSync, existsSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { readTextParts, storageError, writeAtomically } from "../base/files.js";
import { lossChart, pngOf } from "../pictures/index.js";
import type { RunFolder } from "./folder.js";
import { History } from "./history.js";
import { TensorBoardWriter } from "./tensorboard.js";
import type { StepReport } from "./trainer.js";

/** What an evaluation measures, by name; `loss` among it. */
export type Metrics = Readonly<Record<string, number>> & { readonly loss: number };

/** A run's figures as it writes them down: `metrics.jsonl`, a TensorBoard event file and a picture of the loss. */
export class MetricsLog {
  private constructor(
    private readonly folder: RunFolder,
    private readonly board: TensorBoardWriter,
    private readonly learned: History,
    private readonly heldOut: History,
  ) {}

  /** Goes on with what the folder's run wrote up to `step`; what a process wrote after its last save is written again. */
  static async open(folder: RunFolder, step: number): Promise<MetricsLog> {
    const [learned, heldOut] = [new History(), new History()];
    const file = folder.file("metrics.jsonl");
    if (folder.resuming && existsSync(file)) {
      let whole = true;
      for (const line of linesOf(file)) {
        const record = recordUpTo(line, step);
        if (!record) whole = false;
        else if (record.loss !== undefined) learned.push({ step: record.step, loss: record.loss });
        else if (record.validationLoss !== undefined)
          heldOut.push({ step: record.step, loss: record.validationLoss });
      }
      if (!whole) await writeAtomically(file, keptLines(file, step));
    }
    const board = folder.file(
      `events.out.tfevents.${Math.floor(Date.now() / 1000)}.${os.hostname()}.${process.pid}`,
    );
    return new MetricsLog(folder, new TensorBoardWriter(board), learned, heldOut);
  }

  step(report: StepReport): void {
    const { step, loss, parts, learningRate, gradientNorm, tokens, seconds } = report;
    const several = Object.keys(parts).length > 1;
    this.learned.push({ step, loss });
    this.append({
      step,
      loss,
      ...(several && { parts }),
      learningRate,
      gradientNorm,
      tokens,
      seconds,
    });
    this.scalars(step, {
      "loss/training": loss,
      ...(several && prefixed("loss/training/", parts)),
      learningRate,
      gradientNorm,
    });
  }

  evaluation(step: number, metrics: Metrics): void {
    const { loss, ...others } = metrics;
    this.heldOut.push({ step, loss });
    this.append({
      step,
      validationLoss: loss,
      ...(Object.keys(others).length > 0 && { validation: others }),
    });
    this.scalars(step, { "loss/heldOut": loss, ...prefixed("heldOut/", others) });
  }

  /** Draws the loss so far beside the checkpoint. */
  async draw(): Promise<void> {
    await this.write("loss.svg", this.picture());
  }

  /** Draws the whole loss, as PNG too: a renderer keeps megabytes of each picture until JavaScript's next collection. */
  async finish(): Promise<void> {
    const svg = this.picture();
    await this.write("loss.svg", svg);
    const png = await pngOf(svg);
    if (png) await this.write("loss.png", png);
  }

  private picture(): string {
    return lossChart(`Loss of ${path.basename(path.resolve(this.folder.path))}`, [
      { label: "training", points: this.learned.points },
      { label: "held out", points: this.heldOut.points },
    ]);
  }

  private write(name: string, content: string | Uint8Array): Promise<void> {
    return writeAtomically(this.folder.file(name), [content]);
  }

  private append(record: Readonly<Record<string, unknown>>): void {
    const file = this.folder.file("metrics.jsonl");
    try {
      // At once: a promise for each of many thousand steps leaves what JavaScript collects late.
      appendFileSync(file, `${JSON.stringify(record)}\n`);
    } catch (error) {
      throw storageError("write", file, error);
    }
  }

  private scalars(step: number, values: Readonly<Record<string, number>>): void {
    try {
      this.board.scalars(step, values);
    } catch (error) {
      throw storageError("write", this.board.file, error);
    }
  }
}

const prefixed = (prefix: string, values: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]));

interface MetricsRecord {
  readonly step: number;
  readonly loss?: number;
  readonly validationLoss?: number;
}

/** The lines of a file, a part of it in memory at a time; one that was cut off is empty. */
function* linesOf(file: string): Generator<string> {
  let rest = "";
  for (const part of readTextParts(file)) {
    const lines = (rest + part).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest !== "") yield "";
}

function* keptLines(file: string, step: number): Generator<string> {
  for (const line of linesOf(file)) if (recordUpTo(line, step)) yield `${line}\n`;
}

/** One line of `metrics.jsonl`; undefined for one that was cut off, and for a later step. */
function recordUpTo(line: string, step: number): MetricsRecord | undefined {
  try {
    const record = JSON.parse(line) as MetricsRecord | null;
    return typeof record?.step === "number" && record.step <= step ? record : undefined;
  } catch {
    return undefined;
  }
}
