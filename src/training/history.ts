export interface Point {
  readonly step: number;
  readonly loss: number;
}

/** Stretches of a curve: as many as a picture is wide, and more. */
const capacity = 1024;

/** One point for each stretch. Numbers and no objects, of which old ones would leave gaps in JavaScript's memory. */
class Extremes {
  private readonly steps = new Float64Array(capacity);
  private readonly losses = new Float64Array(capacity);

  /** @param sign 1 for the most of a stretch, -1 for the least */
  constructor(private readonly sign: 1 | -1) {}

  begin(index: number, { step, loss }: Point): void {
    this.steps[index] = step;
    this.losses[index] = loss;
  }

  extend(index: number, point: Point): void {
    if (this.sign * (point.loss - this.losses[index]!) > 0) this.begin(index, point);
  }

  /** Makes one of every two neighbours. */
  halve(): void {
    for (let i = 0; i < capacity / 2; i++) {
      this.begin(i, this.at(2 * i));
      this.extend(i, this.at(2 * i + 1));
    }
  }

  at(index: number): Point {
    return { step: this.steps[index]!, loss: this.losses[index]! };
  }
}

/**
 * A curve of any length in bounded memory, drawn as all of its points would be: what stays of neighbouring points are the
 * least and the most. Points that are not finite are left out.
 */
export class History {
  private readonly least = new Extremes(-1);
  private readonly most = new Extremes(1);
  /** Stretches so far, points of a whole one, and points of the last. */
  private count = 0;
  private length = 1;
  private inLast = 1;

  push(point: Point): void {
    if (!Number.isFinite(point.loss)) return;
    const both = [this.least, this.most];
    if (this.inLast < this.length) {
      for (const extremes of both) extremes.extend(this.count - 1, point);
      this.inLast++;
      return;
    }
    if (this.count === capacity) {
      for (const extremes of both) extremes.halve();
      this.count /= 2;
      this.length *= 2;
    }
    for (const extremes of both) extremes.begin(this.count, point);
    this.count++;
    this.inLast = 1;
  }

  /** In the order of their steps. */
  get points(): Point[] {
    return Array.from({ length: this.count }, (_, index) => [
      this.least.at(index),
      this.most.at(index),
    ]).flatMap(([least, most]) =>
      least!.step === most!.step ? [least!] : least!.step < most!.step ? [least!, most!] : [most!, least!],
    );
  }
}
