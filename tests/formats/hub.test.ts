import { createHash } from "node:crypto";
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type PullOptions, pullModel } from "../../src/formats/hub.js";

const commit = "0123456789abcdef0123456789abcdef01234567";
const large = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7919) >> 3));
const contents: Readonly<Record<string, Buffer>> = {
  "config.json": Buffer.from('{"model_type": "llama"}\n'),
  "model.safetensors": large,
  "README.md": Buffer.from("not needed"),
};
const sha256 = (data: Buffer) => createHash("sha256").update(data).digest("hex");
const gitOid = (data: Buffer) =>
  createHash("sha1").update(`blob ${data.byteLength}\0`).update(data).digest("hex");

/** A hub on this machine that speaks the protocol as far as a pull needs it. */
let server: Server;
let hubUrl: string;
let cache: string;
/** Bytes after which a download of the large file breaks off. */
let breakAfter: number | undefined;
let damage = false;
let ranges: string[];
/** Whether the hub takes requests and never answers. */
let silent = false;
/** What the hub lists besides. */
let listed: readonly { path: string; size: number }[] = [];

beforeEach(async () => {
  [breakAfter, damage, ranges, silent, listed] = [undefined, false, [], false, []];
  cache = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  server = createServer((request, response) => {
    if (silent) return;
    const url = new URL(request.url!, "http://localhost");
    const json = (value: unknown, status = 200) => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
    };
    if (url.pathname.startsWith("/api/models/org/tiny/revision/") || url.pathname === "/api/models/org/tiny")
      json({
        _id: "1",
        id: "org/tiny",
        modelId: "org/tiny",
        sha: commit,
        private: false,
        gated: false,
        downloads: 0,
        likes: 0,
        lastModified: "2024-01-01T00:00:00.000Z",
      });
    else if (url.pathname === `/api/models/org/tiny/tree/${commit}`)
      json([
        ...listed.map((file) => ({ type: "file", oid: "0", ...file })),
        ...Object.entries(contents).map(([name, data]) => ({
          type: "file",
          path: name,
          size: data.byteLength,
          oid: gitOid(data),
          ...(data === large && { lfs: { oid: sha256(data), size: data.byteLength, pointerSize: 130 } }),
        })),
      ]);
    else if (url.pathname.startsWith(`/org/tiny/resolve/${commit}/`)) {
      const data = contents[url.pathname.split("/").at(-1)!]!;
      const [, from = "0", to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
      const start = Number(from);
      const end = Math.min(to ? Number(to) : Infinity, data.byteLength - 1);
      if (data === large && end > 0) ranges.push(`${start}-${end}`);
      const part = Buffer.from(data.subarray(start, end + 1));
      if (damage && data === large) part[0]! ^= 1;
      response.writeHead(request.headers.range ? 206 : 200, {
        "content-length": part.byteLength,
        "content-range": `bytes ${start}-${end}/${data.byteLength}`,
        etag: `"${sha256(data)}"`,
      });
      if (data === large && end > 0 && breakAfter !== undefined)
        response.write(part.subarray(0, breakAfter), () => response.destroy());
      else response.end(part);
    } else json({ error: "Repository not found" }, 404);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  hubUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await rm(cache, { recursive: true });
});

const pull = ({ name = "org/tiny", ...options }: Partial<PullOptions> & { name?: string } = {}) =>
  pullModel(name, { cache, hubUrl, ...options });

describe("a pull from a hub", () => {
  it("brings what a model needs, and the second time finds it there", async () => {
    const { folder, commit: pulled, files } = await pull();
    expect(pulled).toBe(commit);
    expect(files.map(({ path: file, how }) => [file, how])).toEqual([
      ["config.json", "downloaded"],
      ["model.safetensors", "downloaded"],
    ]);
    expect(await readFile(path.join(folder, "model.safetensors"))).toEqual(large);
    expect((await pull()).files.every(({ how }) => how === "cached")).toBe(true);
    expect((await pull({ offline: true })).folder).toBe(folder);
  });

  it("goes on where a broken download ended", async () => {
    breakAfter = 100_000;
    await expect(pull()).rejects.toThrow(/model\.safetensors (broke off|ended) after \d+ of 300000 bytes/);
    const partial = path.join(cache, "org--tiny", ".lineage-pull", "model.safetensors.incomplete");
    const { size } = await stat(partial);
    expect(size).toBeGreaterThan(0);
    breakAfter = undefined;
    const { folder, files } = await pull();
    expect(files.find(({ path: file }) => file === "model.safetensors")!.how).toBe("resumed");
    expect(ranges.at(-1)).toBe(`${size}-299999`);
    expect(await readFile(path.join(folder, "model.safetensors"))).toEqual(large);
  });

  it("throws a file away whose checksum is wrong, and mends one that was damaged later", async () => {
    damage = true;
    await expect(pull()).rejects.toThrow("does not have the checksum that the hub names");
    damage = false;
    const { folder } = await pull();
    await writeFile(path.join(folder, "model.safetensors"), large.subarray(0, 5000));
    await expect(pull({ offline: true })).rejects.toThrow("is missing or damaged");
    await pull();
    expect(await readFile(path.join(folder, "model.safetensors"))).toEqual(large);
  });

  it("leaves the files of another revision alone until all new ones are whole", async () => {
    const { folder } = await pull();
    const config = path.join(folder, "config.json");
    const manifest = path.join(folder, ".lineage-pull.json");
    // As if an earlier revision had been pulled: another configuration, other weights, and a file that is gone since.
    const old = { "config.json": "old", "model.safetensors": "old weights", "vocab.txt": "old words" };
    for (const [name, text] of Object.entries(old)) await writeFile(path.join(folder, name), text);
    const before = JSON.parse(await readFile(manifest, "utf8")) as {
      files: { path: string; bytes: number }[];
    };
    before.files.push({ path: "vocab.txt", bytes: 9 });
    await writeFile(manifest, JSON.stringify(before));
    await writeFile(path.join(folder, "notes.txt"), "mine");
    breakAfter = 100_000;
    await expect(pull()).rejects.toThrow("model.safetensors");
    expect(await readFile(config, "utf8")).toBe("old");
    expect(await readFile(path.join(folder, "model.safetensors"), "utf8")).toBe("old weights");
    breakAfter = undefined;
    await pull();
    expect(await readFile(config)).toEqual(contents["config.json"]);
    expect((await readdir(folder)).sort()).toEqual([
      ".lineage-pull.json",
      "config.json",
      "model.safetensors",
      "notes.txt",
    ]);
  });

  it("ends when the hub is silent", async () => {
    silent = true;
    await expect(pull({ silence: 200 })).rejects.toThrow("the hub did not answer for 0.2 seconds");
  });

  it("never shows a token that cannot be sent", async () => {
    const error = await pull({ accessToken: "hf_secret\nmore" }).catch((thrown: unknown) => String(thrown));
    expect(error).toContain("HF_TOKEN");
    expect(error).not.toContain("secret");
  });

  it("refuses files that lie elsewhere or cannot be", async () => {
    for (const [file, size] of [
      ["../config.json", 1],
      ["/etc/config.json", 1],
      [".", 1],
      ["a/./config.json", 1],
      ["a\\config.json", 1],
      [".lineage-pull/config.json", 1],
      ["vocab.json", -1],
      ["vocab.json", 1.5],
    ] as const) {
      listed = [{ path: file, size }];
      await expect(pull({ include: () => true }), file).rejects.toThrow("lies outside of it or cannot be");
    }
    expect(await readdir(cache)).toEqual([]);
  });

  it.each(["{}", "null", "[]", '{"commit": 1, "files": [{"path": "../x", "bytes": 1}]}'])(
    "takes the manifest %s for none",
    async (manifest) => {
      const { folder } = await pull();
      await writeFile(path.join(folder, ".lineage-pull.json"), manifest);
      await expect(pull({ offline: true })).rejects.toThrow("is not complete in the cache");
      expect((await pull()).files.every(({ how }) => how === "cached")).toBe(true);
    },
  );

  it("says what cannot be had", async () => {
    await expect(pull({ name: "org/absent" })).rejects.toThrow("the hub has no org/absent at main");
    await expect(pull({ name: "../../etc" })).rejects.toThrow("is not a model's name");
    await expect(pull({ offline: true })).rejects.toThrow("org/tiny is not complete in the cache");
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await expect(pull()).rejects.toThrow("the hub cannot be reached");
  });
});
