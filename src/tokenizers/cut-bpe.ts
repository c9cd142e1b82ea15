import TinyQueue from "tinyqueue";

/**
 * Joins neighbours, the pair of lowest rank first and the leftmost of equals, until no pair has a rank: byte-pair
 * encoding, in time that grows with the length by little more than its first power. A text without cuts between its
 * words, as SentencePiece has it, may be one sequence of millions of symbols.
 * @param rankOf below 2^20 for a pair that may be joined
 */
export function mergeByRank(
  symbols: readonly string[],
  rankOf: (left: string, right: string) => number | undefined,
): string[] {
  const count = symbols.length;
  if (count < 2) return [...symbols];
  const tokens: (string | undefined)[] = [...symbols];
  const next = Int32Array.from(symbols, (_, index) => index + 1);
  const previous = Int32Array.from(symbols, (_, index) => index - 1);
  const queue = new TinyQueue<number>();
  // One number orders by rank, then by place; what it promised is looked up again when it comes, so none is ever removed.
  const offer = (place: number): void => {
    const after = next[place]!;
    if (after >= count) return;
    const rank = rankOf(tokens[place]!, tokens[after]!);
    if (rank !== undefined) queue.push(rank * placeFactor + place);
  };
  for (let place = 0; place + 1 < count; place++) offer(place);
  for (let entry = queue.pop(); entry !== undefined; entry = queue.pop()) {
    const place = entry % placeFactor;
    const rank = (entry - place) / placeFactor;
    const after = next[place]!;
    const [left, right] = [tokens[place], tokens[after]];
    if (left === undefined || right === undefined || rankOf(left, right) !== rank) continue;
    tokens[place] = left + right;
    tokens[after] = undefined;
    const beyond = next[after]!;
    next[place] = beyond;
    if (beyond < count) previous[beyond] = place;
    if (previous[place]! >= 0) offer(previous[place]!);
    offer(place);
  }
  return tokens.filter((token) => token !== undefined);
}

const placeFactor = 2 ** 33;
