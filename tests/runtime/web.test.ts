import { describe, expect, it } from "vitest";
import { createRuntime } from "../../src/runtime/web.js";

describe("a tensor of the browser's runtime", () => {
  it("is one with those that lie behind it, and with no others", () => {
    const runtime = createRuntime();
    using whole = runtime.createTensor("float32", [6], Float32Array.of(1, 2, 3, 4, 5, 6));
    using first = whole.slice(0, [1, 2]);
    using second = whole.slice(2, [1, 2]);
    using last = whole.slice(5, [1]);
    using elsewhere = runtime.createTensor("float32", [1, 2]);
    using both = first.join([second], [2, 2]);
    expect([...both!.view()]).toEqual([1, 2, 3, 4]);
    expect(first.join([last], [3])).toBeUndefined();
    expect(second.join([first], [2, 2])).toBeUndefined();
    expect(first.join([elsewhere], [2, 2])).toBeUndefined();
    expect(() => first.join([second], [5])).toThrow("join: 4 elements cannot have the shape [5]");
  });
});
