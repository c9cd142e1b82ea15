import type { Decoder } from "./decoder.js";
import { type Distribution, distribution, draw, penalize } from "./sampling.js";
import type { Drafter } from "./sequence.js";

/**
 * Guesses that what came after the last few tokens before comes again: free, and right where a text repeats its input
 * (summaries, code, questions about a document). Saxena 2023, "Prompt Lookup Decoding".
 */
export function promptLookup({ longest = 3, shortest = 1 } = {}): Drafter {
  return {
    draft: ({ prompt, generated, source = [] }, count) => {
      const text = [...source, ...prompt, ...generated];
      for (let size = Math.min(longest, text.length - 1); size >= shortest; size--) {
        const tail = text.length - size;
        // The latest place counts: a text is most like what it has just been.
        for (let start = tail - 1; start >= 0; start--) {
          let same = 0;
          while (same < size && text[start + same] === text[tail + same]) same++;
          if (same === size) return Promise.resolve({ ids: text.slice(start + size, start + size + count) });
        }
      }
      return Promise.resolve({ ids: [] });
    },
  };
}

/** Guesses with a smaller model of the same vocabulary, Leviathan et al. 2023. Each guess takes a slot of its decoder for a while. */
export function modelDrafter(decoder: Decoder): Drafter {
  return {
    draft: async ({ prompt, generated, source }, count, { random, signal, ...options }) => {
      const text = [...prompt, ...generated];
      const begun = source ? { source, begin: text } : text;
      using slot = decoder.open(begun);
      const room = Math.min(count, decoder.capacity - text.length);
      const ids: number[] = [];
      const distributions: Distribution[] = [];
      while (ids.length < room) {
        const logits =
          ids.length === 0
            ? await decoder.read(slot, begun, { signal })
            : (await decoder.step([slot], [ids.at(-1)!], { signal }))[0]!;
        penalize(logits, prompt, [...generated, ...ids], options);
        const guess = distribution(logits, options);
        distributions.push(guess);
        ids.push(draw(guess, random));
      }
      return { ids, distributions };
    },
  };
}
