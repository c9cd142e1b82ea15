import { spawn, spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { Tokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { saveModel } from "../../src/checkpoints/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { environment, main } from "../support/cli.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  const trained = trainByteLevelBpe(["the cat sat on the mat. user assistant ".repeat(20)], {
    vocabSize: 290,
  });
  const tokenizer = new Tokenizer(trained.definition, {
    ...trained.config,
    chat_template:
      "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
  });
  const model = new Llama(
    llamaConfig({
      vocabSize: tokenizer.vocabSize,
      hiddenSize: 32,
      intermediateSize: 48,
      numLayers: 1,
      numHeads: 2,
      contextLength: 16_384,
      initializerRange: 0.3,
    }),
  );
  using runtime = createRuntime({ threads: 1 });
  using weights = Weights.initialize(runtime, model, 2);
  // The token that would end an answer never is the most probable: answers go on until they are stopped.
  const { vocabSize, hiddenSize } = model.config;
  weights
    .get("lm_head.weight")
    .view()
    .fill(0, (vocabSize - 1) * hiddenSize);
  await saveModel(folder, { system: systems.llama, model, weights, tokenizer, stopIds: [vocabSize - 1] });
});
afterAll(() => rm(folder, { recursive: true }));

/** A conversation with the command, whose output is told as it comes. */
function talk(options: readonly string[], onOutput: (output: { stdout: string; stderr: string }) => void) {
  const child = spawn(
    process.execPath,
    [main, "chat", "--model", folder, "--temperature", "0", "--threads", "1", ...options],
    { env: environment },
  );
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].on("data", (data: Buffer) => {
      output[name] += data.toString();
      onOutput(output);
    });
  const ended = new Promise<{ code: number | string | null; stdout: string; stderr: string }>((resolve) =>
    child.on("close", (code, signal) => {
      resolve({ code: code ?? signal, ...output });
    }),
  );
  return { child, ended };
}
const records = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe("lineage chat", () => {
  it("answers every line that it is piped, as text, and obeys commands", async () => {
    const file = path.join(folder, "talk.json");
    const { child, ended } = talk(["--max-new-tokens", "5"], () => undefined);
    child.stdin.end(`the cat\n\n/system the mat\nthe user\n/save ${file}\n/nothing\n/exit\nnot read\n`);
    const { code, stdout, stderr } = await ended;
    expect(code).toBe(0);
    expect(stdout.split("\n")).toHaveLength(3);
    expect(stderr.match(/5 tokens written at/g)).toHaveLength(2);
    expect(stderr).toContain("started over with this system message");
    expect(stderr).toContain("there is no command /nothing; /help lists them");
    expect(JSON.parse(await readFile(file, "utf8"))).toMatchObject([
      { role: "system", content: "the mat" },
      { role: "user", content: "the user" },
      { role: "assistant" },
    ]);
  });

  it("takes messages of several lines, saves and loads, writes anew and changes settings", async () => {
    const file = path.join(folder, "lines.json");
    const { child, ended } = talk(["--max-new-tokens", "5", "--json"], () => undefined);
    const input = [
      '"""the cat',
      "/sat",
      'on"""',
      '"""',
      "the mat",
      "",
      "the user",
      '"""',
      `/save ${file}`,
      "/set temperature 2",
      "/set seed 5",
      "/regenerate",
      "/regenerate",
      "/set top-p 7",
      "/set nothing 1",
      "/set",
      `/load ${file}`,
      "/load nowhere.json",
      "the end",
      `/save ${file}`,
    ];
    child.stdin.end(`${input.join("\n")}\n`);
    const { code, stdout, stderr } = await ended;
    expect(code).toBe(0);
    const answers = records(stdout).map(({ content }) => content);
    expect(answers).toHaveLength(5);
    expect(new Set(answers.slice(1, 4)).size).toBe(3);
    const messages = JSON.parse(await readFile(file, "utf8")) as { role: string; content: string }[];
    expect(messages.filter(({ role }) => role === "user").map(({ content }) => content)).toEqual([
      "the cat\n/sat\non",
      "the mat\n\nthe user",
      "the end",
    ]);
    // What was loaded is what was saved before the answers were written anew.
    expect(messages.map(({ content }) => content)).toContain(answers[1]);
    expect(stderr).toContain("temperature is 2");
    expect(stderr).toContain("seed 7");
    expect(stderr).toContain("/set needs a name (temperature");
    expect(stderr).toContain("4 messages from");
    expect(stderr).toContain("nowhere.json");
  });

  it("gives one JSON object for each message, for one that does not fit too, and nothing else", async () => {
    const { child, ended } = talk(["--max-new-tokens", "5", "--context", "64", "--json"], () => undefined);
    child.stdin.end(`the cat\n/reset\n${"the cat sat on the mat ".repeat(40)}\nthe mat\n`);
    const { code, stdout } = await ended;
    expect(code).toBe(0);
    const answer = {
      role: "assistant",
      content: expect.any(String) as string,
      finish: "length",
      newTokens: 5,
    };
    expect(records(stdout)).toMatchObject([
      answer,
      { code: "length", error: expect.stringMatching(/the message needs \d+ tokens/) as string },
      answer,
    ]);
  });

  it("stops an answer at Ctrl-C and goes on with the conversation; a second one ends it", async () => {
    let [interrupted, before] = [0, 0];
    const { child, ended } = talk(
      ["--context", "16384", "--max-new-tokens", "16000"],
      ({ stdout, stderr }) => {
        const stopped = stderr.split(", stopped").length - 1;
        if (stopped === 0 && interrupted === 0 && stdout.length > 20) {
          interrupted++;
          child.kill("SIGINT");
        } else if (stopped === 1 && interrupted === 1) {
          interrupted++;
          before = stdout.length;
          child.stdin.write("the mat\n");
        } else if (stopped === 1 && interrupted === 2 && stdout.length > before + 20) {
          interrupted++;
          child.kill("SIGINT");
        } else if (stopped === 2 && interrupted === 3) {
          interrupted++;
          child.kill("SIGINT");
        }
      },
    );
    child.stdin.write("the cat\n");
    const { code, stderr } = await ended;
    expect(code).toBe(130);
    expect(interrupted).toBe(4);
    expect(stderr.match(/written at .*, stopped; press Ctrl-C again to leave/g)).toHaveLength(2);
  });

  it("warns at a first Ctrl-C where there is nothing to stop", async () => {
    let sent = 0;
    const { child, ended } = talk([], ({ stderr }) => {
      if (sent === 0 && stderr.includes("ready in")) child.kill("SIGINT");
      else if (sent === 1 && stderr.includes("nothing to stop")) child.kill("SIGINT");
      else return;
      sent++;
    });
    expect((await ended).code).toBe(130);
    expect(sent).toBe(2);
  });
});

/** Whether util-linux's `script` can give a command a terminal. */
const hasTerminal = process.platform === "linux" && spawnSync("script", ["--version"]).status === 0;

describe.skipIf(!hasTerminal)("lineage chat in a terminal", () => {
  /** Answers each text that the command shows with keys. Gives all that it showed. */
  async function type(cache: string, steps: readonly (readonly [shown: string, keys: string])[]) {
    const words = [process.execPath, main, "chat", "--model", folder, "--max-new-tokens", "5"];
    const command = [...words, "--temperature", "0", "--threads", "1"].map((word) => `'${word}'`).join(" ");
    const child = spawn("script", ["-qfec", command, "/dev/null"], {
      env: { ...environment, LINEAGE_CACHE: cache, TERM: "xterm" },
    });
    onTestFinished(() => void child.kill());
    let [screen, seen, step] = ["", 0, 0];
    child.stdout.on("data", (data: Buffer) => {
      screen += data.toString();
      for (;;) {
        const [shown, keys] = steps[step] ?? [];
        const place = shown === undefined ? -1 : screen.indexOf(shown, seen);
        if (place < 0) return;
        seen = place + shown!.length;
        step++;
        child.stdin.write(keys!);
      }
    });
    const code = await new Promise((resolve) => child.on("close", resolve));
    return { screen, code, left: steps.length - step };
  }
  const prompt = "> \u001b[3G";

  it("takes pasted lines as one message, and has the lines of the last session under the arrow", async () => {
    const cache = await mkdtemp(path.join(folder, "cache-"));
    const file = path.join(cache, "talk.json");
    const first = await type(cache, [
      [prompt, "\u001b[200~the cat\r  sat\r\ron\u001b[201~"],
      ["\non", "\r"],
      [prompt, `/save ${file}\r`],
      [prompt, "/exit\r"],
    ]);
    expect(first).toMatchObject({ code: 0, left: 0 });
    const read = async () => JSON.parse(await readFile(file, "utf8")) as { role: string; content: string }[];
    expect((await read())[0]).toEqual({ role: "user", content: "the cat\n  sat\n\non" });
    expect((await stat(path.join(cache, "chat-history"))).mode & 0o777).toBe(0o600);

    const up = "\u001b[A";
    const second = await type(cache, [
      // /exit, /save, on, "  sat", "the cat"
      [prompt, up.repeat(5)],
      ["the cat", "\r"],
      [prompt, `/save ${file}\r`],
      [prompt, "\u0004"],
    ]);
    expect(second).toMatchObject({ code: 0, left: 0 });
    expect((await read())[0]).toEqual({ role: "user", content: "the cat" });
  });
});
