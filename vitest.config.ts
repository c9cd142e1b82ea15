import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts"],
    // Two engine threads share the machine with the test workers; more workers only make every one slower.
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    coverage: {
      provider: "v8",
      include: ["src/**"],
      exclude: ["src/runtime/web*.ts"],
      reporter: ["text-summary", "json-summary"],
    },
  },
});
