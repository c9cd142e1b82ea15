import { LineageError } from "../base/errors.js";
import type { Tokenizer } from "../tokenizers/index.js";

/**
 * A token for a person. Where its text does not depend on its neighbours it is that text, with the space before it; bytes
 * that are no whole character are written as `<F0>`. Elsewhere it is what the vocabulary calls it, `##ing`.
 */
export function tokenText(tokenizer: Tokenizer, id: number): string {
  const spelled = tokenizer.idToToken(id) ?? `<${id}>`;
  // The field knows the pieces of words by their marks.
  if (tokenizer.isSpecial(id) || tokenizer.definition.decoder?.type === "WordPiece") return spelled;
  const bytes = bytesOf(tokenizer, id);
  return bytes ? textOf(bytes) : spelled;
}

function bytesOf(tokenizer: Tokenizer, id: number): Uint8Array | undefined {
  try {
    return tokenizer.bytesOf(id);
  } catch (error) {
    if (error instanceof LineageError && (error.code === "unsupported" || error.code === "argument"))
      return undefined;
    throw error;
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** UTF-8 as text; each byte that belongs to no whole character as `<F0>`. */
function textOf(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const whole = [1, 2, 3, 4].map((length) => characterOf(bytes.subarray(at, at + length))).find(Boolean);
    text += whole ?? `<${bytes[at]!.toString(16).toUpperCase().padStart(2, "0")}>`;
    at += whole === undefined ? 1 : Buffer.byteLength(whole);
  }
  return text;
}

function characterOf(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined;
  }
}
