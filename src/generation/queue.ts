import { BeamSearch, type BeamRequest } from "./beam.js";
import type { Decoder } from "./decoder.js";
import { Sequence, type SequenceRequest } from "./sequence.js";
import type { NextRun, Writing } from "./writing.js";

export type { FinishReason } from "./sequence.js";

/** Tokens of prompts that are read between two steps of other texts: what a long prompt holds them up by. */
const sharedChunk = 128;

/** Sources are read together, which takes less than one by one: they wait until this part of the slots is free. */
const readTogether = 1 / 4;

/**
 * The texts that one decoder works on: those in its slots, and those that wait for one (continuous batching; Yu et al. 2022,
 * "Orca", section 3.1). Whoever waits for a token calls `advance`, which lets all texts in slots go on; between two steps
 * texts that have ended leave, waiting ones enter, and a piece of a prompt is read.
 */
export class GenerationQueue {
  private static readonly queues = new WeakMap<Decoder, GenerationQueue>();
  private waiting: Writing[] = [];
  private running: Writing[] = [];
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
    this.check(request);
    return this.enter(new Sequence(request, this.decoder));
  }

  /** Throws as `submit` does, and `argument` for more beams than a slot has. */
  search(request: BeamRequest): BeamSearch {
    this.check(request);
    return this.enter(new BeamSearch(request, this.decoder));
  }

  private check({ prompt, adapter }: Pick<SequenceRequest, "prompt" | "adapter">): void {
    this.decoder.checkAlive();
    this.decoder.checkPrompt(prompt, { adapter });
  }

  private enter<W extends Writing>(writing: W): W {
    if (!writing.ended) this.waiting.push(writing);
    return writing;
  }

  /** Takes a text out that nobody wants any more. */
  cancel(writing: Writing): void {
    writing.ended = true;
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
    writings: readonly Writing[],
    events: Event[],
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Event> {
    for (;;) {
      for (let told = 0; told < events.length; told++) yield events[told]!;
      events.length = 0;
      for (const { error } of writings) if (error !== undefined) throw error;
      if (writings.every(({ ended }) => ended)) return;
      signal?.throwIfAborted();
      await this.advance();
    }
  }

  private clearUp(): void {
    for (const writing of this.running) if (writing.ended) writing.slot?.close();
    this.running = this.running.filter(({ ended }) => !ended);
    this.waiting = this.waiting.filter(({ ended }) => !ended);
  }

  private async takeTurn(): Promise<void> {
    // Texts that are asked for at the same time begin together.
    await Promise.resolve();
    for (const writing of [...this.waiting, ...this.running])
      if (writing.request.signal?.aborted) writing.fail(writing.request.signal.reason);
    this.clearUp();
    this.admit();
    if (this.decoder.readsSources) await this.begin(this.running.filter(({ begun }) => !begun));
    const stepping = this.running.filter(({ reading, ended }) => !reading && !ended);
    await this.readOn(stepping.length > 0 ? sharedChunk : this.decoder.chunk);
    await this.step(stepping);
  }

  /** Gives free slots to those that have waited longest. */
  private admit(): void {
    const { slots, readsSources } = this.decoder;
    const together = Math.min(this.waiting.length, Math.ceil(slots * readTogether));
    if (readsSources && this.running.length > 0 && this.decoder.freeSlots < together) return;
    while (this.waiting.length > 0 && (this.decoder.freeSlots > 0 || this.running.length === 0)) {
      const writing = this.waiting.shift()!;
      try {
        writing.slot = this.decoder.open(writing.request.prompt, writing.request);
        this.running.push(writing);
      } catch (error) {
        // Somebody else holds the slots, and none of ours will become free.
        writing.fail(error);
      }
    }
  }

  /** Makes the slots of some texts hold what the caches have of their prompts, and their sources. */
  private async begin(writings: readonly Writing[]): Promise<void> {
    await attempt(writings, async () => {
      await this.decoder.begin(
        writings.map(({ slot, readable, source }) => ({ slot: slot!, ids: readable, source })),
        // A signal stops a run that nobody else waits for.
        { signal: writings.length === 1 ? writings[0]!.request.signal : undefined },
      );
      for (const writing of writings) writing.begun = true;
    });
  }

  /** Reads about `count` tokens of prompts: the one with the least to read first, so that a long one holds up no short one. */
  private async readOn(count: number): Promise<void> {
    for (let budget = count; budget > 0;) {
      const open = this.running.filter(({ reading, ended }) => reading && !ended);
      const [writing] = open.sort((a, b) => restOf(a) - restOf(b));
      if (!writing) return;
      const slot = writing.slot!;
      const { readable, source } = writing;
      const { signal } = writing.request;
      await attempt([writing], async () => {
        if (!writing.begun) await this.begin([writing]);
        if (writing.ended) return;
        const before = slot.length;
        const logits = await this.decoder.advance(slot, readable, budget, { signal });
        budget -= Math.max(1, slot.length - before);
        if (!logits || writing.ended) return;
        writing.reading = false;
        if (!source) await writing.take([logits]);
      });
      if (writing.error !== undefined) return;
    }
  }

  /** One run over all texts that take one token; and one for each that has guesses to check. */
  private async step(writings: readonly Writing[]): Promise<void> {
    const together: { writing: Writing; run: NextRun }[] = [];
    for (const writing of writings.filter(({ ended }) => !ended)) {
      await attempt([writing], async () => {
        const run = await writing.next();
        const slot = writing.slot!;
        if (run.parents) await this.decoder.follow(slot, run.parents);
        if (!run.guesses?.length) {
          together.push({ writing, run });
          return;
        }
        const { signal } = writing.request;
        await writing.take(await this.decoder.extend(slot, [run.tokens[0]!, ...run.guesses], { signal }));
        if (!writing.ended) this.decoder.truncate(slot, writing.length);
      });
    }
    const stepping = together.filter(({ writing }) => !writing.ended);
    const all = stepping.map(({ writing }) => writing);
    await attempt(all, async () => {
      const scores = await this.decoder.stepBeams(
        stepping.map(({ writing, run: { tokens, ranked } }) => ({ slot: writing.slot!, tokens, ranked })),
        { signal: all.length === 1 ? all[0]!.request.signal : undefined },
      );
      for (const [index, writing] of all.entries())
        await attempt([writing], () => writing.take(scores[index]!));
    });
  }
}

const restOf = ({ readable, slot, begun }: Writing): number => readable.length - (begun ? slot!.length : 0);

/** What fails for some texts is theirs to tell; the others go on. */
async function attempt(writings: readonly Writing[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    for (const writing of writings) writing.fail(error);
  }
}
