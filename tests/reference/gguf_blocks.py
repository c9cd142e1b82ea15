"""Blocks of GGUF's formats and their values, from the gguf package (llama.cpp's own Python)."""

import base64

import numpy
from common import VALUES, write_json
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from importlib.metadata import version

rng = numpy.random.default_rng(11)
#: where a block's half-precision numbers lie: random bits there would be infinite or no number
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}


def encode(array: numpy.ndarray) -> str:
    return base64.b64encode(numpy.ascontiguousarray(array).tobytes()).decode()


result = {"madeWith": {"gguf": version("gguf"), "numpy": numpy.__version__}, "dequantized": {}, "quantized": {}}
for name, places in HALVES.items():
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (6 if elements == 256 else 12, size), dtype=numpy.uint8)
    for place in places:
        scales = rng.normal(0, 0.1, len(blocks)).astype(numpy.float16)
        blocks[:, place : place + 2] = scales.view(numpy.uint8).reshape(-1, 2)
    if name == "MXFP4":
        # exponents of which no value is infinite; the smallest are denormal
        blocks[:, 0] = numpy.linspace(0, 250, len(blocks)).astype(numpy.uint8)
    result["dequantized"][name] = {"bytes": encode(blocks), "values": encode(quants.dequantize(blocks, kind).astype("<f4"))}
values = numpy.concatenate(
    [rng.normal(0, 1, 256), rng.normal(0, 1e-7, 64), numpy.zeros(32), rng.normal(0, 3e4, 64), numpy.linspace(-1, 1, 64)]
).astype("<f4")
result["values"] = encode(values)
for name in ["F16", "BF16", "Q8_0", "Q4_0"]:
    kind = GGMLQuantizationType[name]
    result["quantized"][name] = encode(quants.quantize(values.reshape(-1, 32), kind))
write_json(VALUES / "gguf-blocks.json", result)
