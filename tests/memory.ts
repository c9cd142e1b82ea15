/**
 * The least growth of resident memory over several stretches of the same work, in MiB. JavaScript's heap and the allocator's
 * arenas grow by leaps, at any time; a leak grows in every stretch.
 */
export async function leastGrowth(
  stretches: number,
  rounds: number,
  round: (index: number) => Promise<unknown>,
): Promise<number> {
  const mebibytes = () => process.memoryUsage().rss / 2 ** 20;
  let least = Infinity;
  for (let stretch = 0; stretch < stretches; stretch++) {
    const before = mebibytes();
    for (let index = 0; index < rounds; index++) await round(index);
    least = Math.min(least, mebibytes() - before);
  }
  return least;
}
