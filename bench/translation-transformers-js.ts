/** transformers.js's side of the translation bench: greedy translation from an exported folder. One JSON request a line in, one JSON line out. */
import { createInterface } from "node:readline";
import path from "node:path";
import { AutoModelForSeq2SeqLM, Tensor, env } from "@huggingface/transformers";
import { peakMiB, respond } from "./harness.js";

type Request =
  | { readonly engine: string; readonly exported: string }
  | { readonly sources: number[][]; readonly beams: number; readonly length: number };
interface Model {
  generate(options: object): Promise<{ tolist(): bigint[][] }>;
  readonly config: { readonly pad_token_id: number };
}

env.allowRemoteModels = false;
let model: Model | undefined;
respond({ version: env.version });

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line) as Request;
  if ("engine" in asked) {
    env.localModelPath = path.dirname(asked.exported);
    model = (await AutoModelForSeq2SeqLM.from_pretrained(path.basename(asked.exported), {
      dtype: "fp32",
      device: "cpu",
      session_options: { intraOpNumThreads: Number(process.argv[2]) },
    })) as unknown as Model;
    respond({ seconds: [], peakMiB: peakMiB() });
    continue;
  }
  const { sources, length } = asked;
  const longest = Math.max(...sources.map((source) => source.length));
  const pad = model!.config.pad_token_id;
  const rows = (of: (source: number[], place: number) => number) =>
    new Tensor(
      "int64",
      BigInt64Array.from(
        sources.flatMap((source) => Array.from({ length: longest }, (_, place) => BigInt(of(source, place)))),
      ),
      [sources.length, longest],
    );
  const start = performance.now();
  const written = await model!.generate({
    inputs: rows((source, place) => source[place] ?? pad),
    attention_mask: rows((source, place) => Number(place < source.length)),
    do_sample: false,
    min_new_tokens: length,
    max_new_tokens: length,
  });
  const seconds = [(performance.now() - start) / 1000];
  respond({ seconds, peakMiB: peakMiB(), ids: written.tolist().map((row) => row.slice(1).map(Number)) });
}
