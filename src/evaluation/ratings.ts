import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";

// Strengths of players from games between two of them.

/** A game between two players; of a tie each has half a point. */
export interface Game {
  readonly a: string;
  readonly b: string;
  readonly winner: "a" | "b" | "tie";
}

/** By player. */
export type Ratings = ReadonlyMap<string, number>;

const points = ({ winner }: Game): number => (winner === "a" ? 1 : winner === "b" ? 0 : 0.5);

/** The players of games, in the order of their first ones. */
export const playersOf = (games: readonly Game[]): string[] => [
  ...new Set(games.flatMap(({ a, b }) => [a, b])),
];

export interface EloOptions {
  /** Rating before the first game. Default 1000. */
  readonly start?: number;
  /** Most that a game moves a rating. Default 32, Dettmers et al. 2023, section 5.3. */
  readonly k?: number;
  /** Orders of the games over which ratings are averaged, since late games count more. Default 100. */
  readonly orders?: number;
  readonly seed?: number;
}

/** Elo's ratings, Elo 1967: after each game a player gains `k` times what it scored beyond what was to be expected. */
export function elo(games: readonly Game[], options: EloOptions = {}): Map<string, number> {
  const { start = 1000, k = 32, orders = 100, seed = 0 } = options;
  const sums = new Map(playersOf(games).map((player) => [player, 0]));
  const random = new Random(seed);
  for (let order = 0; order < orders; order++) {
    const ratings = new Map([...sums.keys()].map((player) => [player, start]));
    for (const game of orders === 1 ? games : shuffled(games, random)) {
      const [a, b] = [ratings.get(game.a)!, ratings.get(game.b)!];
      const gain = k * (points(game) - 1 / (1 + 10 ** ((b - a) / 400)));
      ratings.set(game.a, a + gain).set(game.b, b - gain);
    }
    for (const [player, rating] of ratings) sums.set(player, sums.get(player)! + rating / orders);
  }
  return sums;
}

function shuffled<T>(items: readonly T[], random: Random): T[] {
  const result = [...items];
  for (let last = result.length - 1; last > 0; last--) {
    const other = random.integer(last + 1);
    [result[last], result[other]] = [result[other]!, result[last]!];
  }
  return result;
}

/** Rounds of the algorithm at most, and the change of a strength that ends it. */
const [mostRounds, settled] = [10_000, 1e-10];

/**
 * Strengths of Bradley & Terry 1952, in nats around a mean of 0: `a` beats `b` with the odds `exp(strength a - strength b)`.
 * The likeliest ones, by the algorithm of Hunter 2004, section 3.
 * @param ties drawn games added for each pair that met, which keep the strength of a player finite that won every game.
 * Default 0.1
 */
export function bradleyTerry(games: readonly Game[], { ties = 0.1 } = {}): Map<string, number> {
  const players = playersOf(games);
  const place = new Map(players.map((player, index) => [player, index]));
  const n = players.length;
  const met = new Float64Array(n * n);
  const score = new Float64Array(n);
  const pairs = new Set<number>();
  const count = (a: number, b: number, share: number, weight: number): void => {
    met[a * n + b]! += weight;
    met[b * n + a]! += weight;
    score[a]! += share * weight;
    score[b]! += (1 - share) * weight;
  };
  for (const game of games) {
    const [a, b] = [place.get(game.a)!, place.get(game.b)!];
    if (a === b) throw new LineageError("argument", `${game.a} plays against itself`);
    count(a, b, points(game), 1);
    pairs.add(Math.min(a, b) * n + Math.max(a, b));
  }
  for (const pair of pairs) count(Math.floor(pair / n), pair % n, 0.5, ties);
  if (ties === 0 && score.some((own) => own === 0))
    throw new LineageError(
      "argument",
      "a player lost every game, so that no strength is likeliest; give ties",
    );
  let strength = new Float64Array(n);
  for (let round = 0; round < mostRounds; round++) {
    const next = strength.map((_, a) => {
      let shared = 0;
      for (let b = 0; b < n; b++)
        if (met[a * n + b]! > 0)
          shared += met[a * n + b]! / (Math.exp(strength[a]!) + Math.exp(strength[b]!));
      return Math.log(score[a]! / shared);
    });
    const mean = next.reduce((sum, value) => sum + value, 0) / n;
    const centred = next.map((value) => value - mean);
    const change = Math.max(...centred.map((value, a) => Math.abs(value - strength[a]!)));
    strength = centred;
    if (change < settled) break;
  }
  return new Map(players.map((player, index) => [player, strength[index]!]));
}

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** Between which numbers 95% of the ratings lie that games drawn from the given ones, with replacement, have. */
export function bootstrap(
  games: readonly Game[],
  rate: (games: readonly Game[]) => Ratings,
  { samples = 200, seed = 0 } = {},
): Map<string, Interval> {
  const random = new Random(seed);
  const found = new Map(playersOf(games).map((player) => [player, [] as number[]]));
  for (let sample = 0; sample < samples; sample++)
    for (const [player, rating] of rate(games.map(() => games[random.integer(games.length)]!)))
      found.get(player)!.push(rating);
  return new Map(
    [...found].map(([player, ratings]) => {
      ratings.sort((a, b) => a - b);
      const at = (share: number): number => ratings[Math.round(share * (ratings.length - 1))] ?? NaN;
      return [player, { low: at(0.025), high: at(0.975) }];
    }),
  );
}
