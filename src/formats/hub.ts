import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { LineageError, messageOf } from "../base/errors.js";
import { readJson, storageError, writeJson } from "../base/files.js";

export interface PullOptions {
  /** Folder of all pulled models; each gets `ORG--NAME` in it. */
  readonly cache: string;
  /** Branch, tag or commit. Default `main`. */
  readonly revision?: string;
  /** Files to take; default those that `loadModel` reads: configuration, tokenizer, template and safetensors. */
  readonly include?: (path: string) => boolean;
  /** Only looks at what is there already. */
  readonly offline?: boolean;
  /** Where the hub is; default the public one. */
  readonly hubUrl?: string | undefined;
  readonly accessToken?: string | undefined;
  readonly onProgress?: (file: string, done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface PulledFile {
  readonly path: string;
  readonly bytes: number;
  /** `cached` was there and is whole; `resumed` began where an earlier download ended. */
  readonly how: "cached" | "resumed" | "downloaded";
}

interface Manifest {
  readonly name: string;
  readonly revision: string;
  readonly commit: string;
  readonly files: readonly RemoteFile[];
}

interface RemoteFile {
  readonly path: string;
  readonly bytes: number;
  /** What the hub says of the content: the SHA-256 of a large file, git's name of a small one. */
  readonly sha256?: string | undefined;
  readonly gitOid?: string | undefined;
}

const needed =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json$|^merges\.txt$|^vocab\.txt$|^(tokenizer|spiece|sentencepiece\.bpe)\.model$|^chat_template\.jinja$|^model.*\.safetensors(\.index\.json)?$/;

const manifestName = ".lineage-pull.json";

/** The folder that a model is pulled into. Throws `argument` for what is no name of a model. */
export function pullFolder(name: string, cache: string): string {
  const parts = name.split("/");
  if (
    parts.length > 2 ||
    !parts.every((part) => /^[A-Za-z0-9_][A-Za-z0-9._-]*$/.test(part)) ||
    name.includes("..")
  )
    throw new LineageError(
      "argument",
      `${JSON.stringify(name)} is no name of a model: it is ORG/NAME, as in HuggingFaceTB/SmolLM2-135M`,
    );
  return path.join(cache, parts.join("--"));
}

/**
 * Brings a model from the hub into the cache, or finds it there: a file that is there and has its checksum is not fetched
 * again, one that was cut off goes on where it ended, and none takes its name before its checksum is right. Throws
 * `storage` where the hub or the model cannot be reached, saying what is missing.
 */
export async function pullModel(
  name: string,
  options: PullOptions,
): Promise<{ folder: string; commit: string; files: PulledFile[] }> {
  const {
    cache,
    revision = "main",
    include = (file) => needed.test(file),
    offline = false,
    signal,
  } = options;
  const folder = pullFolder(name, cache);
  const manifestFile = path.join(folder, manifestName);
  if (offline) return checkOffline(name, folder, manifestFile);
  const { HubApiError, downloadFile, listFiles, modelInfo } = await import("@huggingface/hub");
  const hub = { repo: name, hubUrl: options.hubUrl, accessToken: options.accessToken } as const;
  const reach = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await work;
    } catch (error) {
      if (error instanceof LineageError) throw error;
      const status = error instanceof HubApiError ? error.statusCode : undefined;
      throw unreachable(name, revision, error, status);
    }
  };
  const { sha: commit } = await reach(modelInfo({ ...hub, name, revision, additionalFields: ["sha"] }));
  const remote: RemoteFile[] = [];
  await reach(
    (async () => {
      for await (const { type, path: file, size, lfs, oid } of listFiles({
        ...hub,
        revision: commit,
        recursive: true,
      }))
        if (type === "file" && include(file))
          remote.push({
            path: file,
            bytes: lfs?.size ?? size,
            ...(lfs ? { sha256: lfs.oid } : { gitOid: oid }),
          });
    })(),
  );
  if (remote.length === 0)
    throw new LineageError(
      "storage",
      `${name} has no file that lineage reads: no config.json, tokenizer or safetensors`,
    );
  for (const { path: file } of remote)
    if (path.isAbsolute(file) || file.split(/[\\/]/).includes(".."))
      throw new LineageError(
        "format",
        `${name} names the file ${JSON.stringify(file)}, which lies outside of it`,
      );
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw storageError("make", folder, error);
  });
  const files: PulledFile[] = [];
  for (const file of remote) {
    signal?.throwIfAborted();
    const target = path.join(folder, file.path);
    await mkdir(path.dirname(target), { recursive: true });
    if (await isWhole(target, file)) {
      files.push({ path: file.path, bytes: file.bytes, how: "cached" });
      continue;
    }
    const fetchRest = async (from: number) => {
      const blob = await reach(downloadFile({ ...hub, path: file.path, revision: commit, xet: false }));
      if (!blob)
        throw new LineageError("storage", `${name} lists ${file.path}, but the hub does not have it`);
      if (blob.size !== file.bytes)
        throw new LineageError(
          "storage",
          `${file.path} of ${name} has ${blob.size} bytes, but the hub lists ${file.bytes}`,
        );
      return blob.slice(from).stream() as unknown as AsyncIterable<Uint8Array>;
    };
    files.push({
      path: file.path,
      bytes: file.bytes,
      how: await download(target, file, fetchRest, name, options),
    });
  }
  await writeJson(manifestFile, { name, revision, commit, files: remote } satisfies Manifest);
  return { folder, commit, files };
}

/** Downloads into `FILE.incomplete`, from where that ends, and gives the file its name when its checksum is right. */
async function download(
  target: string,
  file: RemoteFile,
  fetchRest: (from: number) => Promise<AsyncIterable<Uint8Array>>,
  name: string,
  { onProgress, signal }: PullOptions,
): Promise<"resumed" | "downloaded"> {
  const partial = `${target}.incomplete`;
  let done = await stat(partial).then(
    ({ size }) => size,
    () => 0,
  );
  if (done > file.bytes) {
    await rm(partial);
    done = 0;
  }
  const from = done;
  const handle = await open(partial, "a").catch((error: unknown) => {
    throw storageError("write", partial, error);
  });
  try {
    if (done < file.bytes) {
      for await (const chunk of await fetchRest(from)) {
        signal?.throwIfAborted();
        await handle.write(chunk);
        done += chunk.byteLength;
        onProgress?.(file.path, done, file.bytes);
        if (done > file.bytes) break;
      }
    }
    await handle.sync();
  } catch (error) {
    if (signal?.aborted || error instanceof LineageError) throw error;
    throw new LineageError(
      "storage",
      `the download of ${file.path} broke off after ${done} of ${file.bytes} bytes (${messageOf(error)}); pull again to go on from there`,
      { cause: error },
    );
  } finally {
    await handle.close();
  }
  if (done < file.bytes)
    throw new LineageError(
      "storage",
      `the download of ${file.path} ended after ${done} of ${file.bytes} bytes; pull again to go on from there`,
    );
  if (!(await isWhole(partial, file))) {
    await rm(partial);
    throw new LineageError(
      "storage",
      `${file.path} of ${name} does not have the checksum that the hub names; it was thrown away, pull again`,
    );
  }
  await rename(partial, target);
  return from > 0 ? "resumed" : "downloaded";
}

/** Whether a file is there with the length and the checksum that it should have. */
async function isWhole(file: string, { bytes, sha256, gitOid }: RemoteFile): Promise<boolean> {
  const size = await stat(file).then(
    (entry) => entry.size,
    () => undefined,
  );
  if (size !== bytes) return false;
  if (sha256 === undefined && gitOid === undefined) return true;
  const hash = createHash(sha256 === undefined ? "sha1" : "sha256");
  if (sha256 === undefined) hash.update(`blob ${bytes}\0`);
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest("hex") === (sha256 ?? gitOid);
}

async function checkOffline(
  name: string,
  folder: string,
  manifestFile: string,
): Promise<{ folder: string; commit: string; files: PulledFile[] }> {
  if (!existsSync(manifestFile))
    throw new LineageError(
      "storage",
      `${name} is not in the cache (${folder}), or not whole; pull it once without --offline`,
    );
  const { commit, files } = (await readJson(manifestFile)) as Manifest;
  for (const file of files)
    if (!(await isWhole(path.join(folder, file.path), file)))
      throw new LineageError(
        "storage",
        `${path.join(folder, file.path)} is missing or damaged; pull ${name} once without --offline`,
      );
  return {
    folder,
    commit,
    files: files.map(({ path: file, bytes }) => ({ path: file, bytes, how: "cached" })),
  };
}

function unreachable(
  name: string,
  revision: string,
  error: unknown,
  status: number | undefined,
): LineageError {
  const reason =
    status === 404
      ? `the hub has no ${name} at ${revision}`
      : status === 401 || status === 403
        ? `the hub does not let you read ${name}: it does not exist, or needs a token (HF_TOKEN) that may read it`
        : status !== undefined
          ? `the hub answered ${status} to a question about ${name}`
          : `the hub cannot be reached (${messageOf(error)}); what was pulled before is there with --offline`;
  return new LineageError("storage", reason, { cause: error });
}
