import { LineageError } from "../base/errors.js";

/** Characters after which a blank line closes a document, and after which any sentence does. */
const [shortest, longest] = [1500, 4000];
const sentences = new Intl.Segmenter("en", { granularity: "sentence" });

/**
 * A text as documents of sentences. A blank line ends a document, unless little has been read since the last one: plays and
 * dialogues have one after every speech. A document without blank lines is cut after some thousand characters.
 */
export function documentsOf(text: string): string[][] {
  const documents: string[][] = [];
  let document: string[] = [];
  let length = 0;
  const close = () => {
    if (document.length > 0) documents.push(document);
    document = [];
    length = 0;
  };
  for (const block of text.split(/\n\s*\n/)) {
    for (const { segment } of sentences.segment(block.replace(/\s+/g, " ").trim())) {
      const sentence = segment.trim();
      if (sentence === "") continue;
      document.push(sentence);
      length += sentence.length;
      if (length >= longest) close();
    }
    if (length >= shortest) close();
  }
  close();
  return documents;
}

/**
 * The first part of the documents, and the last, which is held out. Throws `data` when there are not enough to have both.
 * @param name what they come from, for messages
 */
export function splitDocuments<D>(
  documents: readonly D[],
  heldOut: number,
  name: string,
): { readonly training: readonly D[]; readonly heldOut: readonly D[] } {
  if (documents.length < 2)
    throw new LineageError(
      "data",
      `${name} makes ${documents.length === 0 ? "no documents" : "one document"}; one to learn from and one to hold out are needed: use more text`,
    );
  const cut = Math.min(documents.length - 1, Math.max(1, Math.ceil(documents.length * (1 - heldOut))));
  return { training: documents.slice(0, cut), heldOut: documents.slice(cut) };
}
