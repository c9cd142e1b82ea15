/** A training step, a forward pass or the reading of a prompt by one network, in a process of its own. */
import { tokenBatch } from "../src/data/index.js";
import { compile, input } from "../src/graph/index.js";
import { Decoder } from "../src/generation/index.js";
import { Gpt3, Palm, gpt3Config, palmConfig } from "../src/models/index.js";
import { type CausalLm, Weights } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { TrainingStep } from "../src/training/index.js";
import { peakMiB, request, respond, timed } from "./harness.js";

export interface BlocksQuestion {
  readonly network: "band" | "dense" | "parallel" | "serial";
  readonly pass: "training" | "forward" | "prompt";
  readonly batch: number;
  readonly sequence: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly repeats: number;
}

const { network, pass, batch, sequence, hiddenSize, numLayers, repeats } = request<BlocksQuestion>();
const sizes = {
  hiddenSize,
  numLayers,
  numHeads: hiddenSize / 64,
  vocabSize: 4096,
  contextLength: sequence,
};

function create(): CausalLm {
  if (network === "parallel" || network === "serial")
    return new Palm(palmConfig({ ...sizes, parallelLayers: network === "parallel" }));
  return new Gpt3(
    gpt3Config(
      network === "band"
        ? sizes
        : { ...sizes, layerTypes: Array.from({ length: numLayers }, () => "full_attention" as const) },
    ),
  );
}

const runtime = createRuntime();
const model = create();
using weights = Weights.initialize(runtime, model, 1);
const inputIds = Int32Array.from({ length: batch * sequence }, (_, i) => (i * 7919) % sizes.vocabSize);
let run: () => Promise<unknown>;
if (pass === "training") {
  const gradients = weights.like();
  const objective = nextTokenObjective(model, { batchSize: batch, sequenceLength: sequence });
  const step = await TrainingStep.create(objective, weights, gradients);
  const labels = inputIds.map((id) => (id * 3 + 1) % sizes.vocabSize);
  run = () => step.run(tokenBatch(inputIds, labels, [batch, sequence]));
} else if (pass === "prompt") {
  const decoder = await Decoder.create({ model, weights });
  run = async () => {
    using slot = decoder.open();
    await decoder.read(slot, Array.from(inputIds));
    slot.close();
    decoder.forget();
  };
} else {
  const ids = input("inputIds", "int32", [batch, sequence]);
  const program = await compile(runtime, { states: model.hiddenStates(ids) });
  const given = { ...weights.tensors, inputIds: runtime.createTensor("int32", [batch, sequence], inputIds) };
  run = async () => {
    for (const tensor of Object.values(await program.run(given))) tensor.dispose();
  };
}
await run();
respond({ seconds: await timed(repeats, run), peakMiB: peakMiB() });
