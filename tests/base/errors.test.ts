import { describe, expect, it } from "vitest";
import { FormatError, LineageError } from "../../src/base/errors.js";

describe("a message", () => {
  it("shows control characters of names instead of sending them to a terminal", () => {
    const { message } = new LineageError(
      "format",
      "the tensor \u001b[31m\u0007a\r\u009b\u202eb\ud800\u2028c is one",
    );
    expect(message).toBe("the tensor \\u001b[31m\\u0007a\\u000d\\u009b\\u202eb\\ud800\\u2028c is one");
  });

  it("keeps letters of all languages, line feeds and pictures of several characters", () => {
    const text = "линия 模型 é ñ\n\t👩‍🚀 \u0301";
    expect(new LineageError("format", text).message).toBe(text);
  });

  it("keeps its beginning and its end, however long names are", () => {
    const { message, file } = new FormatError(
      "model.gguf",
      `the tensor "${"x".repeat(5_000_000)}" is there twice`,
    );
    expect(file).toBe("model.gguf");
    expect(message).toMatch(/^model\.gguf: the tensor "x+ \[\d+ characters\] x+" is there twice$/);
    expect(message.length).toBeLessThan(400);
    const many = new LineageError("data", `these: ${"word ".repeat(100_000)}go`).message;
    expect(many.length).toBeLessThanOrEqual(2000);
    expect(many.endsWith("word go")).toBe(true);
  });
});
