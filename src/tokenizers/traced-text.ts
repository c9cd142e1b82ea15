/**
 * A text on its way through normalisation. While it is traced, each of its units (UTF-16, as `slice` takes them) knows
 * which part of the original text it comes from; a text that nothing has changed needs no table for that.
 */
export class TracedText {
  private constructor(
    readonly text: string,
    /** Where the part of the original that this text stands for begins. */
    readonly start: number,
    /** Whether the text keeps its places at all. */
    readonly traced: boolean,
    private readonly places: Places | undefined,
  ) {}

  static of(text: string, traced: boolean): TracedText {
    return new TracedText(text, 0, traced, undefined);
  }

  slice(from: number, to: number): TracedText {
    const { text, start, traced, places } = this;
    if (from === 0 && to === text.length && !places) return this;
    return new TracedText(
      text.slice(from, to),
      places ? (from < to ? places.starts[from]! : start) : start + from,
      traced,
      places && { starts: places.starts.slice(from, to), ends: places.ends.slice(from, to) },
    );
  }

  /** Where in the original the units `[from, to)` come from. */
  placeOf(from: number, to: number): [start: number, end: number] {
    const { places, start, text } = this;
    const last = Math.max(from, Math.min(to, text.length) - 1);
    if (from >= text.length) return [this.endPlace, this.endPlace];
    return places ? [places.starts[from]!, places.ends[last]!] : [start + from, start + last + 1];
  }

  private get endPlace(): number {
    const { places, start, text } = this;
    return places ? (places.ends.at(-1) ?? start) : start + text.length;
  }

  /** Another text whose characters each come from one character of this one. */
  mapCharacters(map: (character: string) => string, result?: string): TracedText {
    if (!this.traced) return this.replaced(result ?? Array.from(this.text, map).join(""));
    const editor = new Editor(this);
    for (const character of this.text) editor.replace(map(character), character.length);
    return editor.finish();
  }

  /**
   * Another text given by its characters in order, each with what it did to this text's characters: 0 took the place of
   * the next one, 1 was inserted after it, -n took the place of the next one and of n more.
   */
  transform(characters: readonly Change[]): TracedText {
    if (!this.traced) return this.replaced(characters.map(([character]) => character).join(""));
    const lengths = Array.from(this.text, ({ length }) => length);
    const editor = new Editor(this);
    let place = 0;
    for (const [character, change] of characters) {
      if (change > 0) editor.insert(character);
      else {
        let taken = lengths[place++] ?? 0;
        editor.replace(character, taken, taken);
        taken = 0;
        for (let more = 0; more < -change; more++) taken += lengths[place++] ?? 0;
        editor.skip(taken);
      }
    }
    return editor.finish();
  }

  /** The text with every `[start, end)` of a flat list replaced; a replacement comes from the last character that it replaces. */
  replaceMatches(matches: readonly number[], content: string): TracedText {
    if (matches.length === 0) return this;
    const { text } = this;
    if (!this.traced) {
      let result = "";
      let done = 0;
      for (let at = 0; at < matches.length; at += 2) {
        result += text.slice(done, matches[at]) + content;
        done = matches[at + 1]!;
      }
      return this.replaced(result + text.slice(done));
    }
    const editor = new Editor(this);
    for (let at = 0; at < matches.length; at += 2) {
      editor.keep(matches[at]! - editor.place);
      editor.skip(matches[at + 1]! - matches[at]!);
      editor.insert(content);
    }
    editor.keep(text.length - editor.place);
    return editor.finish();
  }

  /** The text with something before it, which comes from the first character. */
  prepend(prefix: string): TracedText {
    const { text } = this;
    if (text === "" || prefix === "") return this;
    if (!this.traced) return this.replaced(prefix + text);
    const first = text.codePointAt(0)! > 0xffff ? 2 : 1;
    const editor = new Editor(this);
    editor.replace(prefix + text.slice(0, first), first);
    editor.keep(text.length - first);
    return editor.finish();
  }

  /** @internal */
  replaced(text: string, places?: Places): TracedText {
    return text === this.text && !places ? this : new TracedText(text, this.start, this.traced, places);
  }

  /** @internal */
  startOf(unit: number): number {
    return this.places ? this.places.starts[unit]! : this.start + unit;
  }

  /** @internal */
  endOf(unit: number): number {
    return this.places ? this.places.ends[unit]! : this.start + unit + 1;
  }
}

interface Places {
  readonly starts: readonly number[];
  readonly ends: readonly number[];
}

/** A character, and how many characters of the text before it stands for: see `TracedText.transform`. */
export type Change = readonly [character: string, change: number];

/** Writes a text from another one, with places. */
class Editor {
  private readonly parts: string[] = [];
  private readonly starts: number[] = [];
  private readonly ends: number[] = [];
  /** Units of the text before that are used up. */
  place = 0;

  constructor(private readonly before: TracedText) {}

  /** The next `units` units as they are. */
  keep(units: number): void {
    const { before, place } = this;
    if (units <= 0) return;
    this.parts.push(before.text.slice(place, place + units));
    for (let unit = place; unit < place + units; unit++) {
      this.starts.push(before.startOf(unit));
      this.ends.push(before.endOf(unit));
    }
    this.place += units;
  }

  skip(units: number): void {
    this.place += units;
  }

  /** The next `units` units, which make one character, become `text`. */
  replace(text: string, units: number, taken = units): void {
    if (taken > 0) this.write(text, this.place, this.place + taken - 1);
    else this.insert(text);
    this.place += units;
  }

  /** What is inserted comes from the character before. */
  insert(text: string): void {
    const { before, place } = this;
    if (place > 0) {
      const pair = place > 1 && before.text.codePointAt(place - 2)! > 0xffff;
      this.write(text, pair ? place - 2 : place - 1, place - 1);
    } else if (text !== "") {
      this.parts.push(text);
      for (let unit = 0; unit < text.length; unit++) {
        this.starts.push(before.start);
        this.ends.push(before.start);
      }
    }
  }

  private write(text: string, first: number, last: number): void {
    if (text === "") return;
    const start = this.before.startOf(first);
    const end = this.before.endOf(last);
    this.parts.push(text);
    for (let unit = 0; unit < text.length; unit++) {
      this.starts.push(start);
      this.ends.push(end);
    }
  }

  finish(): TracedText {
    return this.before.replaced(this.parts.join(""), { starts: this.starts, ends: this.ends });
  }
}
