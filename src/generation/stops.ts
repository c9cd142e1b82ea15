import { LineageError } from "../base/errors.js";

/** Text from pieces, holding back what may become a stop string. */
export class StopStrings {
  /** What is held back, and for each of its UTF-16 units whether it is written when nothing stops. */
  private held = "";
  private shown: boolean[] = [];
  /** Whether a stop string has come. */
  stopped = false;

  constructor(private readonly stops: readonly string[]) {
    if (stops.includes("")) throw new LineageError("argument", "a stop string must not be empty");
  }

  /**
   * What of the text so far is surely not part of a stop string.
   * @param hidden whether the piece counts for stop strings alone and is not written: the name of a special token
   */
  push(piece: string, { hidden = false } = {}): string {
    if (this.stopped) return "";
    this.held += piece;
    for (let i = 0; i < piece.length; i++) this.shown.push(!hidden);
    const places = this.stops.map((stop) => this.held.indexOf(stop)).filter((place) => place >= 0);
    if (places.length > 0) {
      this.stopped = true;
      const text = this.take(Math.min(...places));
      this.take(this.held.length);
      return text;
    }
    let keep = 0;
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, this.held.length); length > keep; length--) {
        if (stop.startsWith(this.held.slice(-length))) keep = length;
      }
    }
    return this.take(this.held.length - keep);
  }

  /** The rest, once no more text comes. */
  flush(): string {
    return this.stopped ? "" : this.take(this.held.length);
  }

  /** Removes the first `count` units; those of them that are written. */
  private take(count: number): string {
    const shown = this.shown.splice(0, count);
    const text = this.held.slice(0, count);
    this.held = this.held.slice(count);
    return shown.every(Boolean)
      ? text
      : text.replace(/[^]/g, (unit, place: number) => (shown[place] ? unit : ""));
  }
}
