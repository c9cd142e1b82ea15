import js from "@eslint/js";
import tseslint from "typescript-eslint";

/** The floors of docs/architecture.md, lowest first: a file imports from its own floor and from floors before it. */
const floors = [
  ["base"],
  ["runtime"],
  ["onnx"],
  ["graph"],
  ["nn", "tokenizers"],
  ["quantization", "formats", "data", "metrics", "pictures"],
  ["training", "generation", "objectives"],
  ["models"],
  ["checkpoints"],
  ["tasks", "alignment", "search", "look", "evaluation"],
  ["library"],
  ["cli"],
];

const floorRules = floors.map((names, level) => {
  const above = floors.slice(level + 1).flat();
  return {
    files: names.map((name) => `src/${name}/**/*.ts`),
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: [
            ...above.map((name) => ({
              regex: `(^|/)\\.\\./${name}(/|$)`,
              message: `floors import downwards only: ${names.join(" and ")} may not import from ${name}`,
            })),
            ...(names.includes("runtime")
              ? []
              : [
                  {
                    regex: "^(onnxruntime-|koffi)",
                    message: "only the runtime floor knows the engine",
                  },
                ]),
          ],
        },
      ],
    },
  };
});

export default tseslint.config(
  { ignores: ["dist", "coverage", "node_modules", "runs", "tests/reference/values", "src/**/*_pb.ts"] },
  js.configs.recommended,
  ...tseslint.configs.strict,
  {
    files: ["**/*.ts"],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "@typescript-eslint/unified-signatures": "off",
      "@typescript-eslint/no-extraneous-class": "off",
      "no-empty": ["error", { allowEmptyCatch: false }],
    },
  },
  ...floorRules,
);
