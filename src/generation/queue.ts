import type { Decoder } from "./decoder.js";
import { Sequence, type SequenceRequest } from "./sequence.js";

export type { FinishReason } from "./sequence.js";

/** Tokens of prompts that are read between two steps of other texts: what a long prompt holds them up by. */
const sharedChunk = 128;

/**
 * The texts that one decoder works on: those in its slots, and those that wait for one (continuous batching; Yu et al. 2022,
 * "Orca", section 3.1). Whoever waits for a token calls `advance`, which lets all texts in slots go on; between two steps
 * texts that have ended leave, waiting ones enter, and a piece of a prompt is read.
 */
export class GenerationQueue {
  private static readonly queues = new WeakMap<Decoder, GenerationQueue>();
  private waiting: Sequence[] = [];
  private running: Sequence[] = [];
  private turn: Promise<void> | undefined;

  private constructor(private readonly decoder: Decoder) {}

  /** The one queue of a decoder. */
  static of(decoder: Decoder): GenerationQueue {
    let queue = GenerationQueue.queues.get(decoder);
    if (!queue) GenerationQueue.queues.set(decoder, (queue = new GenerationQueue(decoder)));
    return queue;
  }

  /** Throws for a prompt that no slot can hold, and `disposed` where the decoder has been disposed. */
  submit(request: SequenceRequest): Sequence {
    this.decoder.checkAlive();
    this.decoder.checkPrompt(request.prompt);
    const sequence = new Sequence(request, this.decoder);
    if (!sequence.ended) this.waiting.push(sequence);
    return sequence;
  }

  /** Takes a text out that nobody wants any more. */
  cancel(sequence: Sequence): void {
    sequence.ended = true;
    // A turn that is under way may be running the slot; it clears up itself.
    if (!this.turn) this.clearUp();
  }

  /** Lets all texts go on: one turn, or what is left of the one under way. A text that fails keeps its error to itself. */
  async advance(): Promise<void> {
    this.turn ??= this.takeTurn().finally(() => {
      this.turn = undefined;
      this.clearUp();
    });
    await this.turn;
  }

  /** What some texts tell, in the order in which it comes, until all have ended. Throws what one of them failed with. */
  async *follow<Event>(
    sequences: readonly Sequence[],
    events: Event[],
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Event> {
    for (;;) {
      for (let told = 0; told < events.length; told++) yield events[told]!;
      events.length = 0;
      for (const { error } of sequences) if (error !== undefined) throw error;
      if (sequences.every(({ ended }) => ended)) return;
      signal?.throwIfAborted();
      await this.advance();
    }
  }

  private clearUp(): void {
    for (const sequence of this.running) if (sequence.ended) sequence.slot?.close();
    this.running = this.running.filter(({ ended }) => !ended);
    this.waiting = this.waiting.filter(({ ended }) => !ended);
  }

  private async takeTurn(): Promise<void> {
    for (const sequence of [...this.waiting, ...this.running])
      if (sequence.request.signal?.aborted) sequence.fail(sequence.request.signal.reason);
    this.clearUp();
    this.admit();
    const writing = this.running.filter(({ reading }) => !reading);
    await this.readOn(writing.length > 0 ? sharedChunk : this.decoder.chunk);
    await this.step(writing);
  }

  /** Gives free slots to those that have waited longest. */
  private admit(): void {
    while (this.waiting.length > 0 && (this.decoder.freeSlots > 0 || this.running.length === 0)) {
      const sequence = this.waiting.shift()!;
      try {
        sequence.slot = this.decoder.open(sequence.request.prompt);
        this.running.push(sequence);
      } catch (error) {
        // Somebody else holds the slots, and none of ours will become free.
        sequence.fail(error);
      }
    }
  }

  /** Reads about `count` tokens of prompts: the one with the least to read first, so that a long one holds up no short one. */
  private async readOn(count: number): Promise<void> {
    for (let budget = count; budget > 0;) {
      const open = this.running.filter(({ reading, ended }) => reading && !ended);
      const [sequence] = open.sort((a, b) => restOf(a) - restOf(b));
      if (!sequence) return;
      const slot = sequence.slot!;
      const { prompt, signal } = sequence.request;
      await attempt([sequence], async () => {
        if (!sequence.begun) {
          await this.decoder.begin(slot, prompt);
          sequence.begun = true;
        }
        const before = slot.length;
        const logits = await this.decoder.advance(slot, prompt, budget, { signal });
        budget -= Math.max(1, slot.length - before);
        if (!logits || sequence.ended) return;
        sequence.reading = false;
        await sequence.take([logits]);
      });
      if (sequence.error !== undefined) return;
    }
  }

  /** One run over all texts that take one token; and one for each that has guesses to check. */
  private async step(writing: readonly Sequence[]): Promise<void> {
    const together: { sequence: Sequence; token: number }[] = [];
    for (const sequence of writing.filter(({ ended }) => !ended)) {
      await attempt([sequence], async () => {
        const [token, ...guesses] = await sequence.next();
        if (guesses.length === 0) {
          together.push({ sequence, token: token! });
          return;
        }
        const slot = sequence.slot!;
        const { signal } = sequence.request;
        await sequence.take(await this.decoder.extend(slot, [token!, ...guesses], { signal }));
        if (!sequence.ended) this.decoder.truncate(slot, sequence.length);
      });
    }
    const stepping = together.filter(({ sequence }) => !sequence.ended);
    const sequences = stepping.map(({ sequence }) => sequence);
    await attempt(sequences, async () => {
      const logits = await this.decoder.step(
        sequences.map(({ slot }) => slot!),
        stepping.map(({ token }) => token),
        // A signal stops a run that nobody else waits for.
        { signal: sequences.length === 1 ? sequences[0]!.request.signal : undefined },
      );
      for (const [index, sequence] of sequences.entries())
        await attempt([sequence], () => sequence.take([logits[index]!]));
    });
  }
}

const restOf = ({ request: { prompt }, slot, begun }: Sequence): number =>
  prompt.length - (begun ? slot!.length : 0);

/** What fails for some texts is theirs to tell; the others go on. */
async function attempt(sequences: readonly Sequence[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    for (const sequence of sequences) sequence.fail(error);
  }
}
