/** GPT-2's printable stand-ins for bytes, and the bytes back. */
export const byteOfCharacter = new Map<string, number>();
export const characterOfByte: string[] = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const character = String.fromCodePoint(printable ? byte : next++);
  byteOfCharacter.set(character, byte);
  characterOfByte.push(character);
}

const encoder = new TextEncoder();
export const utf8 = (text: string): Uint8Array => encoder.encode(text);

const plainAscii = /^[!-~]*$/;
/** A text in the stand-ins of its UTF-8 bytes. */
export function byteCharacters(text: string): string {
  if (plainAscii.test(text)) return text;
  let result = "";
  for (let unit = 0; unit < text.length; unit++) {
    const code = text.charCodeAt(unit);
    if (code < 0x80) result += characterOfByte[code]!;
    else {
      const character = String.fromCodePoint(text.codePointAt(unit)!);
      for (const byte of encoder.encode(character)) result += characterOfByte[byte]!;
      unit += character.length - 1;
    }
  }
  return result;
}

/** Units and bytes of UTF-8 that the character at a unit of a text takes. */
export const utf8Length = (code: number): number =>
  code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

/** The token of a byte where an alphabet of bytes stands beside the pieces, as SentencePiece has it. */
export const byteToken = (byte: number): string => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
export const bytePattern = /^<0x[0-9A-F]{2}>$/;
