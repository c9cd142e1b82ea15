/** Where a character came from: the caller's data, or the model's own turn (`{% generation %}`). */
export const fromUser = 1;
export const fromAssistant = 2;
/** Where the place of a message stands in the flags of its characters; 0 for a text of no message. */
const messageShift = 2;
/** The flag of what the message at a place holds. */
export const fromMessage = (place: number): number => (place + 1) << messageShift;

/**
 * A string whose characters know where they came from, through slices and joins. So a special token that a message spells
 * out can be told from one that the template writes.
 */
export class Text {
  /** @param runs ends and flags in turn, ascending; empty where no character has a flag */
  private constructor(
    readonly text: string,
    private readonly runs: readonly number[],
  ) {}

  static readonly empty = new Text("", []);

  static of(text: string, flags = 0): Text {
    return new Text(text, flags === 0 || text === "" ? [] : [text.length, flags]);
  }

  get length(): number {
    return this.text.length;
  }

  /** How many parts of one origin there are. */
  get parts(): number {
    return this.runs.length / 2;
  }

  static concat(texts: readonly Text[]): Text {
    if (texts.length === 1) return texts[0]!;
    if (texts.every(({ runs }) => runs.length === 0))
      return new Text(texts.map(({ text }) => text).join(""), []);
    const runs: number[] = [];
    let text = "";
    for (const part of texts) {
      if (part.text === "") continue;
      const ends = part.runs.length === 0 ? [part.text.length, 0] : part.runs;
      for (let at = 0; at < ends.length; at += 2) push(runs, text.length + ends[at]!, ends[at + 1]!);
      text += part.text;
    }
    return new Text(text, clean(runs));
  }

  slice(start: number, end = this.text.length): Text {
    if (start <= 0 && end >= this.text.length) return this;
    if (end <= start) return Text.empty;
    const text = this.text.slice(start, end);
    if (this.runs.length === 0) return new Text(text, []);
    const runs: number[] = [];
    for (let at = 0; at < this.runs.length; at += 2) {
      const stop = this.runs[at]!;
      if (stop <= start) continue;
      push(runs, Math.min(stop, end) - start, this.runs[at + 1]!);
      if (stop >= end) break;
    }
    return new Text(text, clean(runs));
  }

  /** Each part of one origin turned into another text of the same origin. */
  map(turn: (text: string) => string): Text {
    if (this.runs.length === 0) return new Text(turn(this.text), []);
    const runs: number[] = [];
    let text = "";
    let start = 0;
    for (let at = 0; at < this.runs.length; at += 2) {
      text += turn(this.text.slice(start, this.runs[at]));
      start = this.runs[at]!;
      if (text.length > (runs.at(-2) ?? 0)) push(runs, text.length, this.runs[at + 1]!);
    }
    return new Text(text, clean(runs));
  }

  /** The same text with a flag on every character. */
  flagged(flag: number): Text {
    if (this.text === "") return this;
    const runs: number[] = [];
    if (this.runs.length === 0) return Text.of(this.text, flag);
    for (let at = 0; at < this.runs.length; at += 2) push(runs, this.runs[at]!, this.runs[at + 1]! | flag);
    return new Text(this.text, runs);
  }

  /** The parts `[start, end)` whose characters have a flag, ascending. */
  ranges(flag: number): [start: number, end: number][] {
    const found: [number, number][] = [];
    let start = 0;
    for (let at = 0; at < this.runs.length; at += 2) {
      const end = this.runs[at]!;
      if (this.runs[at + 1]! & flag) {
        const last = found.at(-1);
        if (last?.[1] === start) last[1] = end;
        else found.push([start, end]);
      }
      start = end;
    }
    return found;
  }

  /** Where the characters of each message begin and end, by the message's place. */
  messages(): Map<number, { start: number; end: number }> {
    const found = new Map<number, { start: number; end: number }>();
    let start = 0;
    for (let at = 0; at < this.runs.length; at += 2) {
      const end = this.runs[at]!;
      const place = (this.runs[at + 1]! >> messageShift) - 1;
      if (place >= 0) {
        const known = found.get(place);
        if (known) known.end = end;
        else found.set(place, { start, end });
      }
      start = end;
    }
    return found;
  }
}

function push(runs: number[], end: number, flags: number): void {
  if (runs.at(-1) === flags) runs[runs.length - 2] = end;
  else runs.push(end, flags);
}

const clean = (runs: number[]): number[] => (runs.length === 2 && runs[1] === 0 ? [] : runs);
