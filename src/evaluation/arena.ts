import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { TextWriter } from "../generation/index.js";
import { logLikelihoods } from "./likelihood.js";
import type { Game } from "./ratings.js";

// Answers of several models to the same prompts, judged two at a time: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench
// and Chatbot Arena".

/** Says which of two answers is better: the first, the second, or neither. */
export type Judge = (prompt: string, first: string, second: string) => Promise<Game["winner"]>;

export interface Player {
  readonly name: string;
  answer(prompt: string): Promise<string>;
}

/** A player's answer to a prompt, by the prompt's place. */
export interface ArenaAnswer {
  readonly player: string;
  readonly prompt: number;
  readonly text: string;
}

/** A game about one prompt. */
export interface ArenaGame extends Game {
  readonly prompt: number;
}

export interface ArenaOptions {
  /** Answers and games of a run that was stopped; they are not asked for again. */
  readonly known?: { readonly answers: readonly ArenaAnswer[]; readonly games: readonly ArenaGame[] };
  readonly answered?: (answer: ArenaAnswer) => void | Promise<void>;
  readonly judged?: (game: ArenaGame) => void | Promise<void>;
  readonly signal?: AbortSignal | undefined;
  /** Decides which of two answers is shown first. Default 0. */
  readonly seed?: number;
}

/**
 * Lets every pair of players meet over every prompt; all games. Which answer a judge sees first is drawn anew each time, so that one who
 * knows the order of the players learns nothing from it. Throws `argument` for fewer than two players, and for two of one name.
 */
export async function runArena(
  players: readonly Player[],
  prompts: readonly string[],
  judge: Judge,
  { known, answered, judged, signal, seed = 0 }: ArenaOptions = {},
): Promise<ArenaGame[]> {
  if (players.length < 2) throw new LineageError("argument", "an arena needs at least two models");
  if (new Set(players.map(({ name }) => name)).size < players.length)
    throw new LineageError("argument", "two models of an arena have the same name");
  const keyOf = (player: string, prompt: number): string => JSON.stringify([player, prompt]);
  const texts = new Map(known?.answers.map(({ player, prompt, text }) => [keyOf(player, prompt), text]));
  // One model after the other: each is loaded once.
  for (const { name, answer } of players)
    for (const [index, prompt] of prompts.entries()) {
      if (texts.has(keyOf(name, index))) continue;
      signal?.throwIfAborted();
      const text = await answer(prompt);
      texts.set(keyOf(name, index), text);
      await answered?.({ player: name, prompt: index, text });
    }
  const done = new Map(known?.games.map((game) => [JSON.stringify([game.a, game.b, game.prompt]), game]));
  const games: ArenaGame[] = [];
  let number = 0;
  for (const [index, prompt] of prompts.entries())
    for (const [place, { name: a }] of players.entries())
      for (const { name: b } of players.slice(place + 1)) {
        const turned = new Random(seed, number++).uniform() < 0.5;
        let game = done.get(JSON.stringify([a, b, index]));
        if (!game) {
          signal?.throwIfAborted();
          const [one, other] = [texts.get(keyOf(a, index))!, texts.get(keyOf(b, index))!];
          const said = await (one === other
            ? Promise.resolve("tie" as const)
            : turned
              ? judge(prompt, other, one)
              : judge(prompt, one, other));
          game = { a, b, prompt: index, winner: turned ? swapped(said) : said };
          await judged?.(game);
        }
        games.push(game);
      }
  return games;
}

const swapped = (winner: Game["winner"]): Game["winner"] =>
  winner === "tie" ? "tie" : winner === "a" ? "b" : "a";

/** A judge who sees both orders, section 3.4: where the two verdicts differ, it is a tie. */
export const inBothOrders =
  (judge: Judge): Judge =>
  async (prompt, first, second) => {
    const [there, back] = [await judge(prompt, first, second), swapped(await judge(prompt, second, first))];
    return there === back ? there : "tie";
  };

/** What a model is asked that judges. */
export const judgePrompt = (prompt: string, first: string, second: string): string =>
  `Which answer to the instruction is better, A or B?\n\nInstruction: ${prompt}\n\nAnswer A: ${first.trim()}\n\nAnswer B: ${second.trim()}\n\nThe better answer is`;

/** A model as judge: the letter that it finds likelier counts. */
export const modelJudge =
  (writer: TextWriter): Judge =>
  async (prompt, first, second) => {
    const context = judgePrompt(prompt, first, second);
    const [a, b] = await logLikelihoods(writer, [
      { context, continuation: " A" },
      { context, continuation: " B" },
    ]);
    return a!.sum === b!.sum ? "tie" : a!.sum > b!.sum ? "a" : "b";
  };

/** A number that some model gives an answer, as judge: the higher one wins. */
export const rewardJudge =
  (reward: (prompt: string, answer: string) => Promise<number>): Judge =>
  async (prompt, first, second) => {
    const [a, b] = [await reward(prompt, first), await reward(prompt, second)];
    return a === b ? "tie" : a > b ? "a" : "b";
  };
