/**
 * Matrix products as a share of the machine's peak, which is the highest rate that either library reaches here on any of
 * the shapes.
 */
import { compile, input, matmul } from "../src/graph/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { Peer, median, options, timed } from "./harness.js";

const runtime = createRuntime();
const peer = await Peer.start(options.python, "gpt2.py", runtime.threads);
const shapes: [m: number, k: number, n: number][] = options.smoke
  ? [[128, 128, 128]]
  : [
      [2048, 2048, 2048],
      [1024, 768, 3072],
      [1024, 3072, 768],
      [1024, 768, 50_257],
      [1, 768, 3072],
    ];
const rows: { shape: string; own: number; theirs: number | undefined }[] = [];
for (const [m, k, n] of shapes) {
  const repeats = options.smoke ? 2 : 9;
  using program = await compile(runtime, {
    y: matmul(input("a", "float32", [m, k]), input("b", "float32", [k, n])),
  });
  const tensor = (...shape: number[]) =>
    runtime.createTensor("float32", shape, new Float32Array(shape[0]! * shape[1]!).fill(0.5));
  using a = tensor(m, k);
  using b = tensor(k, n);
  using y = tensor(m, n);
  using binding = program.bind({ a, b }, { y });
  binding.runSync();
  const rate = (seconds: readonly number[]) => (2 * m * k * n) / median(seconds) / 1e9;
  const own = rate(await timed(repeats, () => binding.run()));
  const answer = await peer?.ask({ op: "matmul", m, k, n, repeats });
  rows.push({ shape: `${m} x ${k} x ${n}`, own, theirs: answer && rate(answer.seconds) });
}
peer?.stop();
const peak = Math.max(...rows.flatMap(({ own, theirs = 0 }) => [own, theirs]));
console.log(`  peak ${peak.toFixed(0)} GFLOP/s${peer ? `; PyTorch ${peer.version}` : "; no PyTorch"}`);
for (const { shape, own, theirs } of rows) {
  const share = (rate: number) => `${rate.toFixed(0)} GFLOP/s (${((100 * rate) / peak).toFixed(0)}% of peak)`;
  const beside =
    theirs === undefined ? "" : `   PyTorch ${share(theirs)}   ${(own / theirs).toFixed(2)}x its speed`;
  console.log(`  ${shape.padEnd(20)} ${share(own)}${beside}`);
}
