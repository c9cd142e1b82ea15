import { describe, expect, it } from "vitest";
import { type SystemConfig, systemsOfKind } from "../../src/models/index.js";
import type { ConfigTable } from "../../src/nn/index.js";
import { Reference } from "../support/reference.js";

type Json = Record<string, unknown>;
const versions = [4, 5].map(
  (version) =>
    new Reference(".").json(`config-entries-${version}.json`) as {
      transformers: string;
      entries: Record<string, Json>;
    },
);
const cases = versions.flatMap(({ transformers, entries }) =>
  [...systemsOfKind("decoder"), ...systemsOfKind("encoder-decoder")]
    .filter(({ type }) => entries[type])
    .map((system) => ({ system, transformers, name: system.name, entries: entries[system.type]! })),
);

it("walks over every decoder and encoder-decoder", () => {
  expect([...new Set(cases.map(({ name }) => name))].sort()).toEqual(
    [...systemsOfKind("decoder"), ...systemsOfKind("encoder-decoder")]
      .map(({ name }) => name)
      // Its weights were never published, so transformers does not know it.
      .filter((name) => name !== "palm")
      .sort(),
  );
});

describe.each(cases)(
  "the config.json that transformers $transformers writes of $name",
  ({ system, entries }) => {
    it("has no entry that is dropped", () => {
      const warnings: string[] = [];
      system.config.read(entries, (sentence) => warnings.push(sentence));
      expect(warnings).toEqual([]);
      expect(Object.keys(entries).filter((name) => system.config.meaningOf(name) === undefined)).toEqual([]);
    });

    it("is read with the values that it has", () => {
      const table: ConfigTable<SystemConfig> = system.config;
      const again = table.write(table.read(entries));
      for (const [name, value] of Object.entries(again))
        if (name in entries && entries[name] !== null) expect([name, value]).toEqual([name, entries[name]]);
    });

    it("is refused where an entry asks for a network that is not computed", () => {
      for (const name of Object.keys(entries)) {
        if (system.config.meaningOf(name) !== "refused") continue;
        expect(() => system.config.read({ ...entries, [name]: "something else" }), name).toThrow(name);
      }
    });
  },
);
