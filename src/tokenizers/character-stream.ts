/** Characters from bytes as they come; each appears once all its bytes are there. */
export class CharacterStream {
  private readonly decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  private readonly strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
  private pending: number[] = [];

  constructor(private readonly replaceEachByte: boolean) {}

  push(bytes: Uint8Array): string {
    if (!this.replaceEachByte) return this.decoder.decode(bytes, { stream: true });
    let text = "";
    for (const byte of bytes) {
      this.pending.push(byte);
      text += this.settle(false);
    }
    return text;
  }

  /** What an unfinished character leaves: U+FFFD, or nothing. */
  flush(): string {
    return this.replaceEachByte ? this.settle(true) : this.decoder.decode();
  }

  private settle(ended: boolean): string {
    let text = "";
    while (this.pending.length > 0) {
      const needed = characterLength(this.pending[0]!);
      const have = this.pending.slice(1, needed);
      const possible = needed > 0 && have.every((byte) => (byte & 0xc0) === 0x80);
      if (possible && have.length + 1 < needed && !ended) return text;
      const character =
        possible && have.length + 1 === needed ? this.strictly(this.pending.slice(0, needed)) : undefined;
      text += character ?? "\uFFFD";
      this.pending.splice(0, character === undefined ? 1 : needed);
    }
    return text;
  }

  private strictly(bytes: readonly number[]): string | undefined {
    try {
      return this.strict.decode(Uint8Array.from(bytes));
    } catch {
      // Overlong forms and surrogates look like characters and are none: the caller replaces them.
      return undefined;
    }
  }
}

/** Bytes of the character that a byte begins; 0 when it begins none. */
const characterLength = (byte: number): number =>
  byte < 0x80 ? 1 : byte < 0xc2 ? 0 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : byte < 0xf5 ? 4 : 0;
