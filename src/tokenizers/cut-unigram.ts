/** A piece of a unigram model. */
export interface ScoredPiece {
  readonly piece: string;
  /** Log-probability. */
  readonly score: number;
  /** Whether it always wins over the pieces that it is made of. */
  readonly userDefined?: boolean;
}

interface TrieNode {
  readonly children: Map<string, TrieNode>;
  score?: number;
}

/** Taken from the lowest score for a character that no piece covers. */
const unknownPenalty = 10;

/** The most probable cut of a text under a unigram model, Kudo 2018, with the rounding and the ties of SentencePiece. */
export class UnigramCutter {
  private readonly root: TrieNode = { children: new Map() };
  private readonly unknownScore: number;

  constructor(pieces: Iterable<ScoredPiece>) {
    const list = [...pieces];
    const normal = list.filter(({ userDefined }) => !userDefined).map(({ score }) => score);
    const lowest = normal.reduce((a, b) => Math.min(a, b), Infinity);
    const highest = normal.reduce((a, b) => Math.max(a, b), -Infinity);
    this.unknownScore = Math.fround(lowest - unknownPenalty);
    const utf8 = new TextEncoder();
    for (const { piece, score, userDefined } of list) {
      let node = this.root;
      for (const character of piece) {
        let child = node.children.get(character);
        if (!child) node.children.set(character, (child = { children: new Map() }));
        node = child;
      }
      node.score = userDefined ? utf8.encode(piece).length * highest - 0.1 : score;
    }
  }

  /** Pieces that add up to `text`; a character that no piece covers stands alone. */
  cut(text: string): string[] {
    const characters = Array.from(text);
    const count = characters.length;
    const best = new Float32Array(count + 1);
    const start = new Int32Array(count + 1).fill(-1);
    for (let from = 0; from < count; from++) {
      const offer = (to: number, score: number): void => {
        const total = Math.fround(best[from]! + score);
        if (start[to] === -1 || total > best[to]!) {
          best[to] = total;
          start[to] = from;
        }
      };
      let single = false;
      let node: TrieNode | undefined = this.root;
      for (let to = from; to < count; to++) {
        node = node.children.get(characters[to]!);
        if (!node) break;
        if (node.score === undefined) continue;
        offer(to + 1, node.score);
        single ||= to === from;
      }
      if (!single) offer(from + 1, this.unknownScore);
    }
    const pieces: string[] = [];
    for (let to = count; to > 0; to = start[to]!) pieces.push(characters.slice(start[to], to).join(""));
    return pieces.reverse();
  }
}
