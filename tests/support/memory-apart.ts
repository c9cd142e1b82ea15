import koffi from "koffi";
import type { Pointer } from "../../src/runtime/node/api.js";
import { runtimeWithMemory } from "../../src/runtime/node/index.js";
import type { Runtime } from "../../src/runtime/types.js";

/** What memory holds before anything is written: a number that would be seen in every result. */
const garbage = 0x7f;

const library = koffi.load(process.platform === "win32" ? "msvcrt.dll" : null);
const move = library.func("memmove", "void *", ["uint64_t", "uint64_t", "size_t"]);
const fill = library.func("memset", "void *", ["uint64_t", "int", "size_t"]);

/**
 * The processor with tensors in memory of their own, as on a CUDA device, and the number of blocks of each kind that live.
 * The engine computes on the processor; only the ways between the two kinds of memory are a device's.
 */
export function memoryApart(): { runtime: Runtime; blocks: () => { device: number; shared: number } } {
  const live = new Map<Pointer, { place: "device" | "shared"; byteLength: number }>();
  const within = (address: Pointer, byteLength: number): boolean =>
    [...live].some(
      ([start, block]) =>
        address >= start && address + BigInt(byteLength) <= start + BigInt(block.byteLength),
    );
  const runtime = runtimeWithMemory((info, api) => {
    const allocator = api.out("GetAllocatorWithDefaultOptions");
    return {
      info,
      allocate(place, byteLength) {
        const address = api.out("AllocatorAlloc", allocator, Math.max(byteLength, 1));
        live.set(address, { place, byteLength });
        fill(address, garbage, byteLength);
        return address;
      },
      free(place, address) {
        if (live.get(address)?.place !== place) throw new Error(`${place} memory is freed that is not there`);
        live.delete(address);
        api.call("AllocatorFree", allocator, address);
      },
      copy(target, source, byteLength) {
        if (![target, source].some((address) => within(address, byteLength)))
          throw new Error("neither end of a copy is the device's");
        move(target, source, byteLength);
      },
      clear(address, byteLength) {
        if (!within(address, byteLength)) throw new Error("what is cleared is not the device's");
        fill(address, 0, byteLength);
      },
    };
  });
  const count = (kind: string): number => [...live.values()].filter(({ place }) => place === kind).length;
  return { runtime, blocks: () => ({ device: count("device"), shared: count("shared") }) };
}
