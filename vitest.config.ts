import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    // The engine's threads wait by spinning: more of them than cores would only keep each other waiting.
    maxWorkers: 2,
    // What a test's own processes print is compared, whatever colours its terminal wants.
    env: { LINEAGE_THREADS: "1", FORCE_COLOR: "0" },
    testTimeout: 120_000,
    hookTimeout: 120_000,
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      exclude: ["src/runtime/web*.ts"],
      reporter: ["text-summary", "json-summary"],
    },
  },
});
