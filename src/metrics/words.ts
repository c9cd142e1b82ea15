/** The four separators of ASCII, which Python takes for white space and JavaScript does not. */
const separators = String.fromCharCode(0x1c, 0x1d, 0x1e, 0x1f);
/** White space as Python's `str.split` knows it, which the reference implementations split by. */
const whiteSpace = new RegExp(
  `[\\t-\\r${separators}\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+`,
  "u",
);

/** Words between white space. */
export const splitWords = (text: string): string[] => text.split(whiteSpace).filter((word) => word !== "");

/** How often each n-gram of `items` occurs, for n from 1 to `order`: one map for each n. */
export function countNgrams(
  items: readonly string[],
  order: number,
  separator = " ",
): ReadonlyMap<string, number>[] {
  return Array.from({ length: order }, (_, index) => {
    const counts = new Map<string, number>();
    for (let start = 0; start + index < items.length; start++) {
      const ngram = items.slice(start, start + index + 1).join(separator);
      counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
    }
    return counts;
  });
}

/** How many n-grams two counts have in common, each at most as often as it is in both. */
export function commonCount(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): number {
  let common = 0;
  for (const [ngram, count] of a) common += Math.min(count, b.get(ngram) ?? 0);
  return common;
}

export const totalCount = (counts: ReadonlyMap<string, number>): number => {
  let total = 0;
  for (const count of counts.values()) total += count;
  return total;
};
