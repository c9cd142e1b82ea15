import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { LineageError } from "../../base/errors.js";

const fileNames: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  linux: ["libonnxruntime.so.1"],
  darwin: ["libonnxruntime.1.dylib"],
  win32: ["onnxruntime.dll"],
};

/** Whether this Node was built against musl, for which the engine has no library. */
function isMusl(): boolean {
  if (process.platform !== "linux") return false;
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime === undefined;
}

/** The ONNX Runtime library that the `onnxruntime-node` package ships. Throws `unsupported` where it ships none. */
export function locateLibrary(): string {
  const { platform, arch } = process;
  if (isMusl()) {
    throw new LineageError(
      "unsupported",
      "ONNX Runtime is built for glibc and this is a musl system (Alpine); use an image with glibc, such as node:20-slim",
    );
  }
  const manifest = createRequire(import.meta.url).resolve("onnxruntime-node/package.json");
  const folder = path.join(path.dirname(manifest), "bin", "napi-v6", platform, arch);
  for (const name of fileNames[platform] ?? []) {
    const file = path.join(folder, name);
    if (existsSync(file)) return file;
  }
  throw new LineageError(
    "unsupported",
    `onnxruntime-node has no library for ${platform} on ${arch}: ${folder} does not hold one`,
  );
}
