/**
 * The growth of resident memory over a stretch of work, in MiB: of the first stretch after three others that stays below `bound`,
 * or of the last of twenty. JavaScript's heap grows by leaps, and the allocator's arenas by some hundred MiB before they are
 * flat; a leak first fills what they keep free, and then grows in every stretch.
 */
export async function laterGrowth(
  bound: number,
  rounds: number,
  round: (index: number) => Promise<unknown>,
): Promise<number> {
  const mebibytes = () => process.memoryUsage().rss / 2 ** 20;
  let growth = Infinity;
  for (let stretch = 0; stretch < 20 && (stretch < 4 || growth >= bound); stretch++) {
    const before = mebibytes();
    for (let index = 0; index < rounds; index++) await round(index);
    growth = mebibytes() - before;
  }
  return growth;
}
