/** The transformers.js side of the decoding bench: greedy generation from an exported folder, with its own cache. */
import { AutoModelForCausalLM, BaseStreamer, Tensor, env } from "@huggingface/transformers";
import { type Answer, peakMiB, request, respond } from "./harness.js";

const { folder, prompt, tokens, threads } = request<{
  folder: string;
  prompt: number[];
  tokens: number;
  threads: number;
}>();

/** Notes when each token comes. */
class Clock extends BaseStreamer {
  readonly times: number[] = [];
  override put(): void {
    this.times.push(performance.now());
  }
  override end(): void {
    // Nothing is held back.
  }
}

env.allowRemoteModels = false;
env.localModelPath = folder;
const model = await AutoModelForCausalLM.from_pretrained("gpt2", {
  dtype: "fp32",
  device: "cpu",
  session_options: { intraOpNumThreads: threads },
});
const clock = new Clock();
await model.generate({
  inputs: new Tensor("int64", BigInt64Array.from(prompt, BigInt), [1, prompt.length]),
  max_new_tokens: tokens + 1,
  do_sample: false,
  streamer: clock,
} as never);
// The first call gives the prompt, the second the token after it.
const seconds = clock.times.slice(2).map((time, index) => (time - clock.times[index + 1]!) / 1000);
respond({ seconds, peakMiB: peakMiB() } satisfies Answer);
