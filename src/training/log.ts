import { appendFile, readFile } from "node:fs/promises";
import os from "node:os";
import { storageError, writeAtomically } from "../base/files.js";
import { lossChart } from "./chart.js";
import type { RunFolder } from "./folder.js";
import { pngOf } from "./png.js";
import { TensorBoardWriter } from "./tensorboard.js";
import type { StepReport } from "./trainer.js";

/** What an evaluation measures, by name; `loss` among it. */
export type Metrics = Readonly<Record<string, number>> & { readonly loss: number };

interface Point {
  readonly step: number;
  readonly loss: number;
}

/** A run's figures as it writes them down: `metrics.jsonl`, a TensorBoard event file and a picture of the loss. */
export class MetricsLog {
  private constructor(
    private readonly folder: RunFolder,
    private readonly board: TensorBoardWriter,
    private readonly learned: Point[],
    private readonly heldOut: Point[],
  ) {}

  /** Goes on with what the folder's run wrote up to `step`; what a process wrote after its last save is written again. */
  static async open(folder: RunFolder, step: number): Promise<MetricsLog> {
    const [learned, heldOut]: [Point[], Point[]] = [[], []];
    const file = folder.file("metrics.jsonl");
    if (folder.resuming) {
      const text = await readFile(file, "utf8").catch(() => "");
      const kept: string[] = [];
      for (const line of text.split("\n")) {
        const record = parseRecord(line);
        if (!record || record.step > step) continue;
        kept.push(`${line}\n`);
        if (record.loss !== undefined) learned.push({ step: record.step, loss: record.loss });
        if (record.validationLoss !== undefined)
          heldOut.push({ step: record.step, loss: record.validationLoss });
      }
      if (kept.join("") !== text) await writeAtomically(file, kept);
    }
    const board = folder.file(
      `events.out.tfevents.${Math.floor(Date.now() / 1000)}.${os.hostname()}.${process.pid}`,
    );
    return new MetricsLog(folder, new TensorBoardWriter(board), learned, heldOut);
  }

  async step(report: StepReport): Promise<void> {
    const { step, loss, parts, learningRate, gradientNorm, tokens, seconds } = report;
    const several = Object.keys(parts).length > 1;
    this.learned.push({ step, loss });
    await this.append({
      step,
      loss,
      ...(several && { parts }),
      learningRate,
      gradientNorm,
      tokens,
      seconds,
    });
    await this.scalars(step, {
      "loss/training": loss,
      ...(several && prefixed("loss/training/", parts)),
      learningRate,
      gradientNorm,
    });
  }

  async evaluation(step: number, metrics: Metrics): Promise<void> {
    const { loss, ...others } = metrics;
    this.heldOut.push({ step, loss });
    await this.append({
      step,
      validationLoss: loss,
      ...(Object.keys(others).length > 0 && { validation: others }),
    });
    await this.scalars(step, { "loss/heldOut": loss, ...prefixed("heldOut/", others) });
  }

  /** Draws the loss so far beside the checkpoint. */
  async draw(): Promise<void> {
    const svg = lossChart("Loss", [
      { label: "training", points: this.learned },
      { label: "held out", points: this.heldOut },
    ]);
    await writeAtomically(this.folder.file("loss.svg"), [svg]);
    const png = await pngOf(svg);
    if (png) await writeAtomically(this.folder.file("loss.png"), [png]);
  }

  private async append(record: Readonly<Record<string, unknown>>): Promise<void> {
    const file = this.folder.file("metrics.jsonl");
    try {
      await appendFile(file, `${JSON.stringify(record)}\n`);
    } catch (error) {
      throw storageError("write", file, error);
    }
  }

  private async scalars(step: number, values: Readonly<Record<string, number>>): Promise<void> {
    try {
      await this.board.scalars(step, values);
    } catch (error) {
      throw storageError("write", this.board.file, error);
    }
  }
}

const prefixed = (prefix: string, values: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]));

/** One line of `metrics.jsonl`; undefined for the end of one that was cut off. */
function parseRecord(line: string): { step: number; loss?: number; validationLoss?: number } | undefined {
  try {
    const record = JSON.parse(line) as unknown;
    return typeof record === "object" && record !== null && typeof (record as Point).step === "number"
      ? (record as Point)
      : undefined;
  } catch {
    return undefined;
  }
}
