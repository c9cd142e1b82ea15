/** A row of a CSV, or why there is none. */
export type CsvRecord =
  | { readonly cells: readonly string[]; readonly reason?: undefined }
  | { readonly cells?: undefined; readonly reason: string };

/** Quotes that are never closed, after which a file is none of this kind: each costs a look at all that follows. */
const mostOpenQuotes = 100;

/**
 * The rows of a CSV by the rules of Python's csv and of pandas. A quote at the beginning of a cell begins a quotation, in which
 * two quotes are one; what follows its end belongs to the cell, and a quote anywhere else is a character. Lines end in CRLF, LF
 * or CR. A quotation without an end, for which pandas reads nothing of the file, makes a bad row of its line.
 * @param quoted whether quotes mean anything: in TSV they do not
 */
export function parseCsv(text: string, delimiter: string, quoted: boolean): CsvRecord[] {
  const plain = new RegExp(`[^${delimiter}\\r\\n]*`, "y");
  const records: CsvRecord[] = [];
  let cells: string[] = [];
  let at = text.startsWith("\uFEFF") ? 1 : 0;
  let openQuotes = 0;
  /** The rest of a cell up to its end, where quotes are characters. */
  const rest = (): string => {
    plain.lastIndex = at;
    const [found] = plain.exec(text)!;
    at += found.length;
    return found;
  };
  while (at < text.length) {
    const begin = at;
    if (quoted && text[at] === '"') {
      const end = quotationEnd(text, at + 1);
      if (end < 0) {
        openQuotes++;
        records.push({
          reason:
            'opens a quote that is never closed; close it, or double every quote that is part of the text: ""',
        });
        cells = [];
        if (openQuotes === mostOpenQuotes) {
          records.push({ reason: "and what follows it was not read: too many quotes are never closed" });
          return records;
        }
        rest();
        while (at < text.length && text[at] === delimiter) {
          at++;
          rest();
        }
      } else {
        at = end + 1;
        cells.push(text.slice(begin + 1, end).replaceAll('""', '"') + rest());
      }
    } else cells.push(rest());
    if (text[at] === delimiter) {
      at++;
      // A delimiter at the end of the text has an empty cell behind it.
      if (at < text.length) continue;
      cells.push("");
    }
    if (cells.length > 0) records.push({ cells });
    cells = [];
    if (text[at] === "\r" && text[at + 1] === "\n") at++;
    at++;
  }
  return records;
}

/** Where the quote is that ends a quotation which begins at `from`; -1 where none does. */
function quotationEnd(text: string, from: number): number {
  let at = text.indexOf('"', from);
  while (at >= 0 && text[at + 1] === '"') at = text.indexOf('"', at + 2);
  return at;
}
