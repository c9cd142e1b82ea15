import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { LineageError } from "../../base/errors.js";

/** A system as far as the choice of a library goes. */
export interface Host {
  readonly platform: NodeJS.Platform;
  readonly arch: string;
  /** Whether the C library is musl, for which the engine has no build. */
  readonly musl: boolean;
}

const fileNames: Partial<Record<NodeJS.Platform, string>> = {
  linux: "libonnxruntime.so.1",
  darwin: "libonnxruntime.1.dylib",
  win32: "onnxruntime.dll",
};

/** The library that the engine loads for CUDA; its package fetches it separately. */
const cudaFileNames: Partial<Record<NodeJS.Platform, string>> = {
  linux: "libonnxruntime_providers_cuda.so",
  win32: "onnxruntime_providers_cuda.dll",
};

export function thisHost(): Host {
  const { platform, arch } = process;
  if (platform !== "linux") return { platform, arch, musl: false };
  // The report would otherwise look up the names of all network peers, which can take seconds.
  const settings = process.report as { excludeNetwork?: boolean };
  const { excludeNetwork } = settings;
  settings.excludeNetwork = true;
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  settings.excludeNetwork = excludeNetwork ?? false;
  return { platform, arch, musl: report.header?.glibcVersionRuntime === undefined };
}

/**
 * The file of ONNX Runtime that the `onnxruntime-node` package ships for a host. Throws `unsupported` where it ships none.
 * @param binaries the package's folder of libraries
 */
export function locateLibrary(
  { platform, arch, musl }: Host = thisHost(),
  binaries: string = path.join(
    path.dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json")),
    "bin",
    "napi-v6",
  ),
): string {
  if (musl) {
    throw new LineageError(
      "unsupported",
      "ONNX Runtime is built for glibc and this is a musl system (Alpine); use an image with glibc, such as node:20-slim",
    );
  }
  const folder = path.join(binaries, platform, arch);
  const name = fileNames[platform];
  const file = name && path.join(folder, name);
  if (file && existsSync(file)) return file;
  throw new LineageError(
    "unsupported",
    `onnxruntime-node has no library for ${platform} on ${arch}: ${folder} does not hold ${name ?? "one"}`,
  );
}

/** Whether the CUDA half of the engine lies beside its library. */
export function hasCuda(library: string, platform: NodeJS.Platform = process.platform): boolean {
  const name = cudaFileNames[platform];
  return name !== undefined && existsSync(path.join(path.dirname(library), name));
}
