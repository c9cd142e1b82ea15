import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { LineageError } from "../../base/errors.js";
import { bundleFile, requireHere } from "../../base/packages.js";

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

function thisHost(): Host {
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

/** The folder of a package that can be reached from here. */
function packageFolder(name: string): string | undefined {
  try {
    return path.dirname(requireHere.resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

/**
 * Where the engine may lie: in this package, beside its code or, of bundled code, where the package is installed; and in
 * the package onnxruntime-node of the project.
 */
const engineFolders = (): string[] => {
  const own = packageFolder("lineage");
  // Written apart from one another: bundlers take a URL from here for a file that they have to bring along.
  const here = bundleFile === undefined ? fileURLToPath(import.meta.url) : undefined;
  const beside = here === undefined ? [] : [path.resolve(path.dirname(here), "../../../engine")];
  return [
    ...beside,
    ...(own === undefined ? [] : [path.join(own, "dist", "engine")]),
    packageFolder("onnxruntime-node") ?? [],
  ].flat();
};

const versionOf = (folder: string): number[] | undefined => {
  const manifest = path.join(folder, "package.json");
  if (!existsSync(manifest)) return undefined;
  const { version } = JSON.parse(readFileSync(manifest, "utf8")) as { version: string };
  return version.split(/[.-]/, 3).map(Number);
};

/**
 * The newest of several copies of the engine, of equal ones the last: a project's own onnxruntime-node may have CUDA
 * beside it, but one that another package brought may be too old. Undefined where there is none.
 */
export function newestEngine(folders: readonly string[]): string | undefined {
  let newest: { folder: string; version: number[] } | undefined;
  for (const folder of folders) {
    const version = versionOf(folder);
    if (!version) continue;
    const change = newest
      ? version.map((part, place) => part - newest!.version[place]!).find((difference) => difference !== 0)
      : 0;
    if ((change ?? 0) >= 0) newest = { folder, version };
  }
  return newest?.folder;
}

/** The file of ONNX Runtime for a host. Throws `unsupported` where there is none. */
export function locateLibrary(
  { platform, arch, musl }: Host = thisHost(),
  engine: string | undefined = newestEngine(engineFolders()),
): string {
  if (musl) {
    throw new LineageError(
      "unsupported",
      "ONNX Runtime is built for glibc and this is a musl system (Alpine); use an image with glibc, such as node:20-slim",
    );
  }
  if (engine === undefined) {
    throw new LineageError(
      "unsupported",
      "the engine is not to be found: the package lineage, which holds it, must be installed where its code runs. " +
        "Bundle with lineage as an external package, or install it beside the bundle",
    );
  }
  const folder = path.join(engine, "bin", "napi-v6", platform, arch);
  const name = fileNames[platform];
  const file = name && path.join(folder, name);
  if (file && existsSync(file)) return file;
  throw new LineageError(
    "unsupported",
    `ONNX Runtime has no library for ${platform} on ${arch}: ${folder} does not hold ${name ?? "one"}`,
  );
}

/**
 * What to do where the engine's CUDA half does not load: it says which library is missing, and the library's name says which
 * version of CUDA or cuDNN is meant. Empty for other messages.
 */
export function adviceOnCuda(message: string): string {
  const [, part, version] = /lib(cu[a-zA-Z]+)\.so\.(\d+): cannot open shared object/.exec(message) ?? [];
  if (part === undefined) return "";
  if (part === "cuda")
    return "; that is NVIDIA's driver: this machine has no NVIDIA GPU, or its driver is not installed";
  // CUDA's own libraries have its version; a few count for themselves.
  const wanted =
    part === "cudnn"
      ? `cuDNN ${version}`
      : ["cublas", "cublasLt", "cudart"].includes(part)
        ? `CUDA ${version}`
        : "CUDA's libraries";
  return `; install ${wanted}, and name its folder of libraries in LD_LIBRARY_PATH before Node starts`;
}

/** Whether the CUDA half of the engine lies beside its library. */
export function hasCuda(library: string, platform: NodeJS.Platform = process.platform): boolean {
  const name = cudaFileNames[platform];
  return name !== undefined && existsSync(path.join(path.dirname(library), name));
}
