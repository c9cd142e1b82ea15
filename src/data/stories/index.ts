import { Random } from "../../base/random.js";
import { commonCast, pick } from "./cast.js";
import { tell } from "./grammar.js";
import { fragments, plots } from "./plots.js";

/**
 * One short children's story, the same for the same seed: paragraphs of plain past-tense English, in which every person,
 * thing and place stays what it is from the first sentence to the last.
 */
export function story(seed: number): string {
  const random = new Random(seed);
  const plot = pick(random, plots);
  const cast = commonCast(random, plot.heroes);
  return tell(plot.text, plot.extend?.(cast, random) ?? cast, fragments, random);
}

/** Stories with consecutive seeds. */
export function* stories({ seed, count }: { seed: number; count: number }): Generator<string> {
  for (let index = 0; index < count; index++) yield story(seed + index);
}
