import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, expect, it } from "vitest";
import { loadModel } from "../../src/checkpoints/index.js";
import { stories } from "../../src/data/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { pretrain, resumePretraining } from "../../src/tasks/index.js";

const root = mkdtempSync(path.join(os.tmpdir(), "lineage-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});
const at = (name: string) => path.join(root, name);
writeFileSync(at("text"), [...stories({ seed: 1, count: 40 })].join("\n\n"));
const request = {
  system: "bert",
  data: [at("text")],
  sizes: { hiddenSize: 16, numLayers: 1, numHeads: 2, contextLength: 32 },
  ...{ vocabSize: 400, batch: 4, steps: 6, evalEvery: 3 },
} as const;

it("pretrains an encoder in a folder that loads, and goes on to the same weights", async () => {
  const whole = await pretrain({ ...request, out: at("whole") });
  expect(whole).toMatchObject({ outcome: "finished", step: 6 });
  expect(JSON.parse(readFileSync(path.join(at("whole"), "run.json"), "utf8"))).toMatchObject({
    system: "bert",
    sizes: { ...request.sizes, dropout: 0.1 },
  });
  const { model, weights } = await loadModel(createRuntime(), at("whole"), { kind: "encoder" });
  weights.dispose();
  expect(model.config).toMatchObject({ ...request.sizes, vocabSize: 400 });

  const controller = new AbortController();
  const stopped = await pretrain(
    { ...request, out: at("parts") },
    {
      signal: controller.signal,
      observer: {
        stepped: ({ step }) => {
          if (step === 2) controller.abort();
        },
      },
    },
  );
  expect(stopped).toMatchObject({ outcome: "interrupted", step: 2 });
  expect(await resumePretraining(at("parts"))).toMatchObject({ outcome: "finished", step: 6 });
  const [parts, expected] = ["parts", "whole"].map((name) =>
    readFileSync(path.join(at(name), "model.safetensors")),
  );
  expect(parts!.equals(expected!)).toBe(true);
});

it("pretrains an mT5 in two languages with Adafactor, and goes on to the same weights", async () => {
  writeFileSync(at("small"), [...stories({ seed: 2, count: 8 })].join("\n\n"));
  const given = {
    ...request,
    system: "mt5",
    data: [`en=${at("text")}`, `sv=${at("small")}`],
    ...({ optimizer: "adafactor", schedule: "relative", exponent: 0.5 } as const),
  } as const;
  await pretrain({ ...given, out: at("mt5") });
  const controller = new AbortController();
  const observer = {
    stepped: ({ step }: { step: number }) => {
      if (step === 4) controller.abort();
    },
  };
  await pretrain({ ...given, out: at("mt5-parts") }, { signal: controller.signal, observer });
  expect(await resumePretraining(at("mt5-parts"))).toMatchObject({ outcome: "finished", step: 6 });
  const [parts, expected] = ["mt5-parts", "mt5"].map((name) =>
    readFileSync(path.join(at(name), "model.safetensors")),
  );
  expect(parts!.equals(expected!)).toBe(true);
  const { system, weights } = await loadModel(createRuntime(), at("mt5"), { kind: "encoder-decoder" });
  weights.dispose();
  expect(system.name).toBe("mt5");
});

it("refuses translations and sizes that the system does not have", async () => {
  await expect(pretrain({ ...request, parallel: ["en=a,de=b"], out: at("pairs") })).rejects.toThrow(
    "only xlm learns from --parallel",
  );
  await expect(pretrain({ ...request, exponent: 0.3, out: at("power") })).rejects.toThrow(
    "BERT samples languages as published; leave --exponent out",
  );
  const sizes = { ...request.sizes, width: 3 };
  await expect(pretrain({ ...request, sizes, out: at("sizes") })).rejects.toThrow("width");
});
