import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { LineageError, messageOf } from "../base/errors.js";
import { readJson, storageError, writeJson } from "../base/files.js";
import { replaceFiles, settleFolder } from "../base/folders.js";

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
  /** Milliseconds for which the hub may say nothing. Default 60,000. */
  readonly silence?: number;
}

export interface PulledFile {
  readonly path: string;
  readonly bytes: number;
  /** `cached` was there and is whole; `resumed` began where an earlier download ended. */
  readonly how: "cached" | "resumed" | "downloaded";
}

/** Whether a path leads to a file in the folder, and to none of lineage's own. */
const isInside = (file: string): boolean =>
  !path.isAbsolute(file) &&
  !/[\\\0]|^\.lineage-/.test(file) &&
  file.split("/").every((step) => !/^\.{0,2}$/.test(step));

const remoteFile = z.object({
  path: z.string().refine(isInside, "it lies outside of the model"),
  bytes: z.int().nonnegative(),
  /** What the hub says of the content: the SHA-256 of a large file, git's name of a small one. */
  sha256: z.string().optional(),
  gitOid: z.string().optional(),
});
type RemoteFile = z.infer<typeof remoteFile>;

const manifestSchema = z.object({
  name: z.string(),
  revision: z.string(),
  commit: z.string().regex(/^[0-9a-f]{7,64}$/),
  files: z.array(remoteFile),
});
type Manifest = z.infer<typeof manifestSchema>;

/** Files that are whole and wait for the others. */
const stagingName = ".lineage-pull";

const needed =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json$|^merges\.txt$|^vocab\.txt$|^(tokenizer|spiece|sentencepiece\.bpe)\.model$|^chat_template\.jinja$|^model.*\.safetensors(\.index\.json)?$/;

/** Written last: where it is, the model is whole. */
export const manifestName = ".lineage-pull.json";

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
      `${JSON.stringify(name)} is not a model's name; write ORG/NAME, as in HuggingFaceTB/SmolLM2-135M`,
    );
  return path.join(cache, parts.join("--"));
}

/** Where the hub is and who asks, by the environment. */
export const hubAccess = (): Pick<PullOptions, "hubUrl" | "accessToken"> => ({
  hubUrl: process.env["HF_ENDPOINT"],
  accessToken: process.env["HF_TOKEN"],
});

/** Whether a model was pulled, and all of it. */
export const isPulled = (name: string, cache: string): boolean =>
  existsSync(path.join(pullFolder(name, cache), manifestName));

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
  const line = new Line(options.silence);
  const accessToken = checkToken(options.accessToken);
  const hub = { repo: name, hubUrl: options.hubUrl, accessToken, fetch: line.fetch } as const;
  const reach = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await line.within(work);
    } catch (error) {
      if (error instanceof LineageError) throw error;
      const status = error instanceof HubApiError ? error.statusCode : undefined;
      throw unreachable(name, revision, error, status);
    }
  };
  const { sha: commit } = await reach(modelInfo({ ...hub, name, revision, additionalFields: ["sha"] }));
  if (!manifestSchema.shape.commit.safeParse(commit).success)
    throw new LineageError("format", `the hub names the commit ${JSON.stringify(commit)}, which is none`);
  const remote: RemoteFile[] = [];
  const listed = listFiles({ ...hub, revision: commit, recursive: true });
  for (;;) {
    const { done, value } = await reach(listed.next());
    if (done) break;
    const { type, path: file, size, lfs, oid } = value;
    if (type !== "file" || !include(file)) continue;
    const parsed = remoteFile.safeParse({
      path: file,
      bytes: lfs?.size ?? size,
      ...(lfs ? { sha256: lfs.oid } : { gitOid: oid }),
    });
    if (!parsed.success)
      throw new LineageError(
        "format",
        `${name} lists the file ${JSON.stringify(file)} of ${lfs?.size ?? size} bytes, which lies outside of it or cannot be`,
      );
    remote.push(parsed.data);
  }
  if (remote.length === 0)
    throw new LineageError(
      "storage",
      `${name} has no file that lineage reads: no config.json, tokenizer or safetensors`,
    );
  const files: PulledFile[] = [];
  const pull = async (file: RemoteFile, staging: string): Promise<void> => {
    signal?.throwIfAborted();
    if (await isWhole(path.join(folder, file.path), file)) {
      files.push({ path: file.path, bytes: file.bytes, how: "cached" });
      return;
    }
    const target = path.join(staging, file.path);
    await mkdir(path.dirname(target), { recursive: true });
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
      how: (await isWhole(target, file))
        ? "resumed"
        : await download(target, file, fetchRest, name, line, options),
    });
  };
  const before = await readManifest(manifestFile);
  const now = new Set(remote.map((file) => file.path));
  const gone = new Set(before?.files.map((file) => file.path).filter((file) => !now.has(file)));
  // Two revisions are never mixed: the files change places when all are whole.
  await replaceFiles(
    folder,
    async (staging) => {
      for (const file of remote) await pull(file, staging);
      await removeOthers(staging, now);
      await writeJson(path.join(staging, manifestName), {
        name,
        revision,
        commit,
        files: remote,
      } satisfies Manifest);
    },
    { part: (file) => gone.has(file), resume: stagingName },
  );
  return { folder, commit, files };
}

/** Removes what a pull of another revision left among the files that wait. */
async function removeOthers(staging: string, wanted: ReadonlySet<string>): Promise<void> {
  for (const entry of await readdir(staging, { recursive: true, withFileTypes: true })) {
    const file = path.join(entry.parentPath, entry.name);
    if (!entry.isDirectory() && !wanted.has(path.relative(staging, file).split(path.sep).join("/")))
      await rm(file);
  }
}

/** Throws `argument` for a token that cannot be sent, without showing it. */
function checkToken(token: string | undefined): string | undefined {
  const trimmed = token?.trim();
  if (trimmed && /[^\x21-\x7e]/.test(trimmed))
    throw new LineageError(
      "argument",
      "the token for the hub (HF_TOKEN) holds a space, a line break or another character that no token has; set it again",
    );
  // An empty variable of the environment is none.
  return trimmed === "" ? undefined : trimmed;
}

/** The line to the hub, which is given up when nothing comes over it for a while. */
class Line {
  private readonly controller = new AbortController();

  constructor(private readonly silence = 60_000) {}

  readonly fetch: typeof fetch = (input, init) => {
    const { signal } = this.controller;
    return fetch(input, { ...init, signal: init?.signal ? AbortSignal.any([init.signal, signal]) : signal });
  };

  /** Throws `storage` where `work` takes longer than the hub may be silent. */
  async within<T>(work: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const error = new LineageError(
          "storage",
          `the hub did not answer for ${this.silence / 1000} seconds; try again, or use what was pulled before with --offline`,
        );
        reject(error);
        this.controller.abort(error);
      }, this.silence);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Downloads into `FILE.incomplete`, from where that ends, and gives the file its name when its checksum is right. */
async function download(
  target: string,
  file: RemoteFile,
  fetchRest: (from: number) => Promise<AsyncIterable<Uint8Array>>,
  name: string,
  line: Line,
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
      const chunks = (await fetchRest(from))[Symbol.asyncIterator]();
      for (;;) {
        const { done: ended, value: chunk } = await line.within(chunks.next());
        if (ended) break;
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
      `the download of ${file.path} broke off after ${done} of ${file.bytes} bytes (${messageOf(error)}); pull again to continue from there`,
      { cause: error },
    );
  } finally {
    await handle.close();
  }
  if (done < file.bytes)
    throw new LineageError(
      "storage",
      `the download of ${file.path} ended after ${done} of ${file.bytes} bytes; pull again to continue from there`,
    );
  if (!(await isWhole(partial, file))) {
    await rm(partial);
    throw new LineageError(
      "storage",
      `${file.path} of ${name} does not have the checksum that the hub names; it was deleted: pull again`,
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

/** What was pulled last; undefined where nothing was, or where that is not told as lineage tells it. */
async function readManifest(file: string): Promise<Manifest | undefined> {
  if (!existsSync(file)) return undefined;
  return manifestSchema.safeParse(await readJson(file)).data;
}

async function checkOffline(
  name: string,
  folder: string,
  manifestFile: string,
): Promise<{ folder: string; commit: string; files: PulledFile[] }> {
  await settleFolder(folder);
  const manifest = await readManifest(manifestFile);
  if (!manifest)
    throw new LineageError(
      "storage",
      `${name} is not complete in the cache (${folder}); pull it once without --offline`,
    );
  const { commit, files } = manifest;
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
