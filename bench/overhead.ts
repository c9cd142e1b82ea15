/** What one run costs besides its arithmetic: a program of one addition to four numbers. */
import { compile, input } from "../src/graph/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { median, timed } from "./harness.js";

const runtime = createRuntime();
const x = input("x", "float32", [4]);
using program = await compile(runtime, { y: x.add(1) });
using state = runtime.createTensor("float32", [4]);
using binding = program.bind({ x: state }, { y: state });

const count = 2000;
const microseconds = async (run: () => unknown): Promise<string> => {
  await run();
  return `${((median(await timed(9, run)) / count) * 1e6).toFixed(1)} us`;
};
const bound = await microseconds(() => {
  for (let i = 0; i < count; i++) binding.runSync();
});
const apart = await microseconds(async () => {
  for (let i = 0; i < count; i++) await binding.run();
});
const fresh = await microseconds(async () => {
  for (let i = 0; i < count; i++) (await program.run({ x: state }))["y"]!.dispose();
});
console.log(`  one run of a binding                        ${bound}`);
console.log(`  the same off the event loop                 ${apart}`);
console.log(`  the same with a new tensor for the result   ${fresh}`);
