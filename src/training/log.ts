import { appendFileSync, existsSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { readTextParts, storageError, writeAtomically } from "../base/files.js";
import { lossChart, pngOf } from "../pictures/index.js";
import type { RunFolder } from "./folder.js";
import { History } from "./history.js";
import type { Spike } from "./spikes.js";
import { TensorBoardWriter } from "./tensorboard.js";
import type { StepReport } from "./trainer.js";

/** What an evaluation measures, by name; `loss` among it. */
export type Metrics = Readonly<Record<string, number>> & { readonly loss: number };

/** A run's figures as it writes them down: `metrics.jsonl`, a TensorBoard event file and a picture of the loss. */
export class MetricsLog {
  private constructor(
    private readonly folder: RunFolder,
    private readonly board: TensorBoardWriter,
    private curves: Curves,
  ) {}

  /** Goes on with what the folder's run wrote up to `step`; what a process wrote after its last save is written again. */
  static async open(folder: RunFolder, step: number): Promise<MetricsLog> {
    const curves = folder.resuming ? await readUpTo(folder, step) : newCurves();
    const board = folder.file(
      `events.out.tfevents.${Math.floor(Date.now() / 1000)}.${os.hostname()}.${process.pid}`,
    );
    return new MetricsLog(folder, new TensorBoardWriter(board), curves);
  }

  /**
   * Forgets what it wrote of steps after that of the checkpoint that the run goes back to, and writes down why.
   * @param spikes all so far: those after that step are kept
   */
  async goBack(step: number, spikes: readonly Spike[]): Promise<void> {
    this.curves = await readUpTo(this.folder, step);
    for (const spike of spikes)
      if ((spike.backTo ?? spike.step) > step || spike === spikes.at(-1)) this.append({ step, spike });
  }

  /** Writes down that the run goes on through a spike. */
  spike(spike: Spike): void {
    this.append({ step: spike.step, spike });
  }

  step(report: StepReport): void {
    const { step, loss, parts, learningRate, gradientNorm, microBatches, tokens, tokensSeen, seconds } =
      report;
    const several = Object.keys(parts).length > 1;
    this.curves.learned.push({ step, loss });
    this.append({
      step,
      loss,
      ...(several && { parts }),
      learningRate,
      gradientNorm,
      ...(microBatches > 1 && { microBatches }),
      tokens,
      tokensSeen,
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
    this.curves.heldOut.push({ step, loss });
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
      { label: "training", points: this.curves.learned.points },
      { label: "held out", points: this.curves.heldOut.points },
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

/** Losses so far. */
interface Curves {
  readonly learned: History;
  readonly heldOut: History;
}
const newCurves = (): Curves => ({ learned: new History(), heldOut: new History() });

/** The losses that a run wrote down up to a step; what it wrote after that is taken out of the file. */
async function readUpTo(folder: RunFolder, step: number): Promise<Curves> {
  const curves = newCurves();
  const file = folder.file("metrics.jsonl");
  if (!existsSync(file)) return curves;
  let whole = true;
  for (const line of linesOf(file)) {
    const record = recordUpTo(line, step);
    if (!record) whole = false;
    else if (record.loss !== undefined) curves.learned.push({ step: record.step, loss: record.loss });
    else if (record.validationLoss !== undefined)
      curves.heldOut.push({ step: record.step, loss: record.validationLoss });
  }
  if (!whole) await writeAtomically(file, keptLines(file, step));
  return curves;
}

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
