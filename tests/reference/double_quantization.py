"""NF4 with double quantisation and 8-bit blocks of bitsandbytes 0.50.2: codes, scales and values.

Blocks of 8 bits are rounded by the package's portable kernel, to the nearest number, as on a GPU; its kernel for CPUs looks codes
up in a table and takes the neighbour for half a percent of them.
"""

import bitsandbytes
import bitsandbytes.functional as F
import torch

from common import VALUES, deterministic, write_json, write_safetensors

OUT = VALUES / "double-quantization"


def quantize_blockwise(values: torch.Tensor, code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`bitsandbytes::quantize_blockwise` of the backend `default`."""
    blocks = torch.split(values.flatten(), 256)
    largest = torch.stack([block.abs().max() for block in blocks])
    scaled = torch.cat([block / most for block, most in zip(blocks, largest)]).clamp(-1, 1)
    return (scaled[:, None] - code).abs().argmin(dim=1).to(torch.uint8), largest


def dequantize_blockwise(codes: torch.Tensor, largest: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    return code[codes.long()] * largest.repeat_interleave(256)[: codes.numel()]


def main() -> None:
    deterministic()
    torch.manual_seed(11)
    # 300 blocks, so that the second blocks of 256 scales have a short one.
    matrix = torch.randn(75, 256) * torch.logspace(-2, 0, 75)[:, None]
    packed, state = F.quantize_4bit(matrix, blocksize=64, quant_type="nf4")
    offset = state.absmax.mean()
    signed, unsigned = F.create_dynamic_map(signed=True), F.create_dynamic_map(signed=False)
    codes, largest = quantize_blockwise(state.absmax - offset, signed)
    state.absmax = dequantize_blockwise(codes, largest, signed) + offset
    write_safetensors(
        OUT / "nf4.safetensors",
        {
            "matrix": matrix,
            "values": packed.flatten(),
            "codes": codes,
            "largest": largest,
            "offset": offset.reshape(1),
            "dequantized": F.dequantize_4bit(packed, state),
        },
    )
    numbers = torch.randn(1000) * torch.logspace(-4, 0, 1000)
    tensors = {"signedMap": signed, "unsignedMap": unsigned, "numbers": numbers}
    for name, code, given in [("signed", signed, numbers), ("unsigned", unsigned, numbers.abs())]:
        codes, largest = quantize_blockwise(given, code)
        tensors |= {
            f"{name}Codes": codes,
            f"{name}Largest": largest,
            f"{name}Values": dequantize_blockwise(codes, largest, code),
        }
    write_safetensors(OUT / "blocks.safetensors", tensors)
    write_json(OUT / "values.json", {"bitsandbytes": bitsandbytes.__version__})


if __name__ == "__main__":
    main()
