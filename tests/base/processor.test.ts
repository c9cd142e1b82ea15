import { expect, it } from "vitest";
import { multipliesBytes } from "../../src/base/processor.js";

// First lines of /proc/cpuinfo, cut down to a few features.
const haswell =
  "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU E5-2686 v4\nflags\t\t: fpu sse4_2 fma avx avx2 rdseed\n";
const skylake = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512dq avx512bw avx512vl\n";
const icelake = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512_vnni avx512_bitalg\n";
const alder = "processor\t: 0\nflags\t\t: fpu avx2 avx_vnni gfni\n";
const graviton2 = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd atomics asimdhp asimddp ssbs\n";
const pi4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n";

it("a processor's features tell whether it multiplies 8-bit numbers fast", () => {
  expect([haswell, skylake, icelake, alder].map((info) => multipliesBytes("x64", info))).toEqual([
    false,
    false,
    true,
    true,
  ]);
  expect([graviton2, pi4].map((info) => multipliesBytes("arm64", info))).toEqual([true, false]);
  expect(multipliesBytes("riscv64", "processor\t: 0\nisa\t\t: rv64imafdc\n")).toBeUndefined();
});
