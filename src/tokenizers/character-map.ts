import { LineageError } from "../base/errors.js";
import { utf8 } from "./bytes.js";

/**
 * SentencePiece's precompiled table of character replacements: the size of a double-array trie, the trie, and the
 * replacements, each ended by a zero byte.
 */
export class CharacterMap {
  private readonly units: Uint32Array;
  private readonly replacements: Uint8Array;

  /** Throws `tokenizer` for a table whose sizes do not add up. */
  constructor(bytes: Uint8Array) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = bytes.byteLength >= 4 ? view.getUint32(0, true) : -1;
    if (size <= 0 || size % 4 !== 0 || 4 + size > bytes.byteLength)
      throw new LineageError("tokenizer", "the table of character replacements is cut short");
    this.units = Uint32Array.from({ length: size / 4 }, (_, index) => view.getUint32(4 + 4 * index, true));
    this.replacements = bytes.subarray(4 + size);
  }

  /** The text with every longest match of the table replaced. */
  normalize(text: string): string {
    let result = "";
    let done = 0;
    for (const { start, end, replacement } of this.matches(text)) {
      result += text.slice(done, start) + replacement;
      done = end;
    }
    return result + text.slice(done);
  }

  /** The longest matches of the table one after another, with their places in the text. */
  matches(text: string): { start: number; end: number; replacement: string }[] {
    const bytes = utf8(text);
    const found: { start: number; end: number; replacement: string }[] = [];
    let unit = 0;
    for (let place = 0; place < bytes.length;) {
      const match = this.walk(bytes, place, true);
      const length = match?.length ?? characterLength(bytes[place]!);
      let units = 0;
      for (let at = place; at < place + length;) {
        const size = characterLength(bytes[at]!);
        units += size === 4 ? 2 : 1;
        at += size;
      }
      if (match) found.push({ start: unit, end: unit + units, replacement: this.replacement(match.value) });
      unit += units;
      place += length;
    }
    return found;
  }

  /** What stands for the shortest entry that the bytes begin with. */
  shortest(bytes: Uint8Array): string | undefined {
    const match = this.walk(bytes, 0, false);
    return match && this.replacement(match.value);
  }

  /** A walk through the trie in the layout of Darts-clone: the label, the offset to the children and the value share a unit. */
  private walk(
    bytes: Uint8Array,
    from: number,
    longest: boolean,
  ): { value: number; length: number } | undefined {
    const { units } = this;
    let found: { value: number; length: number } | undefined;
    let place = offsetOf(units[0]!);
    for (let index = from; index < bytes.length; index++) {
      place ^= bytes[index]!;
      const unit = units[place];
      if (unit === undefined || (unit & 0x8000_00ff) >>> 0 !== bytes[index]!) break;
      place ^= offsetOf(unit);
      if ((unit >>> 8) & 1) {
        const leaf = units[place];
        if (leaf === undefined) break;
        found = { value: leaf & 0x7fff_ffff, length: index + 1 - from };
        if (!longest) break;
      }
    }
    return found;
  }

  private replacement(start: number): string {
    const end = this.replacements.indexOf(0, start);
    if (start >= this.replacements.length || end < 0)
      throw new LineageError("tokenizer", "the table of character replacements points outside of itself");
    return decoder.decode(this.replacements.subarray(start, end));
  }
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const offsetOf = (unit: number): number => (unit >>> 10) << ((unit & (1 << 9)) >>> 6);
const characterLength = (first: number): number =>
  first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;

// ---- Building -------------------------------------------------------------------------------------------------------

/** A node of the trie while it is built: the bytes that go on from it, and where its entry's replacement begins. */
interface BytesNode {
  readonly children: Map<number, BytesNode>;
  value?: number;
}

/** The table that replaces every key of `entries` by its value. Keys must not be empty and must hold no zero byte. */
export function characterMapBytes(entries: ReadonlyMap<string, string>): Uint8Array {
  const root: BytesNode = { children: new Map() };
  const places = new Map<string, number>();
  const replacements: number[] = [];
  for (const [key, replacement] of entries) {
    let place = root;
    for (const byte of utf8(key)) {
      let child = place.children.get(byte);
      if (!child) place.children.set(byte, (child = { children: new Map() }));
      place = child;
    }
    let start = places.get(replacement);
    if (start === undefined) {
      places.set(replacement, (start = replacements.length));
      replacements.push(...utf8(replacement), 0);
    }
    place.value = start;
  }
  const units = unitsOf(root);
  const bytes = new Uint8Array(4 + 4 * units.length + replacements.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 4 * units.length, true);
  units.forEach((unit, index) => {
    view.setUint32(4 + 4 * index, unit, true);
  });
  bytes.set(replacements, 4 + 4 * units.length);
  return bytes;
}

/** Of a unit that no node has: its label is no byte, so that no walk goes on from it. */
const unusedUnit = 0x8000_0000;

/** Places that are tried for a node before those behind are given up. */
const mostTried = 2048;

/** The double array of a trie. Every block of 256 is there as a whole, so that a walk never leaves the array. */
function unitsOf(root: BytesNode): number[] {
  const units: number[] = [];
  const taken: boolean[] = [];
  const bases = new Set<number>();
  const grow = () => {
    for (let added = 0; added < 256; added++) {
      units.push(unusedUnit);
      taken.push(false);
    }
  };
  grow();
  taken[0] = true;
  let free = 1;
  /** Where all children of a node find a place. */
  const baseFor = (labels: readonly number[]): number => {
    while (taken[free]) free++;
    for (let place = free; ; place++) {
      // Where little is free, whoever needs many places would look at all of it each time.
      if (place - free > mostTried) free = place;
      while (place + 256 >= units.length) grow();
      const base = place ^ labels[0]!;
      if (!taken[place] && !bases.has(base) && labels.every((label) => !taken[base ^ label])) return base;
    }
  };
  const rest: { readonly node: BytesNode; readonly index: number; readonly label: number }[] = [
    { node: root, index: 0, label: 0 },
  ];
  for (let next = rest.pop(); next; next = rest.pop()) {
    const { node, index, label } = next;
    const hasValue = node.value !== undefined;
    const labels = [...(hasValue ? [0] : []), ...node.children.keys()];
    const base = baseFor(labels);
    bases.add(base);
    for (const each of labels) taken[base ^ each] = true;
    units[index] = (((index ^ base) << 10) | (hasValue ? 1 << 8 : 0) | label) >>> 0;
    if (hasValue) units[base] = (node.value! | unusedUnit) >>> 0;
    for (const [byte, child] of node.children) rest.push({ node: child, index: base ^ byte, label: byte });
  }
  return units;
}
