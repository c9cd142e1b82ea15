"""Parameters and moments after steps of bitsandbytes 0.50.2's AdamW with moments in 8 bits, on a CPU.

Moments are rounded to the nearest number, as on a GPU: the package's kernel for CPUs looks codes up in a table and takes the
neighbour for half a percent of them. The small parameter has fewer elements than bitsandbytes packs.
"""

import bitsandbytes
import bitsandbytes.backends.cpu.ops as kernels
import torch

from common import VALUES, deterministic, write_safetensors
from double_quantization import quantize_blockwise

SHAPES = {"matrix": [40, 130], "small": [6, 5]}
STEPS = 4


def quantize(values, code, largest, codes, blocksize):
    found, most = quantize_blockwise(values, code)
    codes.copy_(found.reshape(codes.shape))
    largest.copy_(most)


def main() -> None:
    deterministic()
    torch.manual_seed(12)
    kernels._quant_blockwise_fp32_direct = quantize
    parameters = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}
    values = {f"{name}.0": parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = bitsandbytes.optim.AdamW8bit(parameters.values(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(1, STEPS + 1):
        for name, parameter in parameters.items():
            # Blocks of very different sizes, and elements of very different sizes within them.
            scale = 10.0 ** torch.randint(-4, 1, (parameter.shape[0], 1))
            parameter.grad = torch.randn_like(parameter) ** 3 * scale
            values[f"{name}.gradient.{step}"] = parameter.grad.clone()
        optimizer.step()
        for name, parameter in parameters.items():
            values[f"{name}.{step}"] = parameter.detach().clone()
    for name, parameter in parameters.items():
        for key in ("state1", "state2", "absmax1", "absmax2"):
            if key in optimizer.state[parameter]:
                values[f"{name}.{key}"] = optimizer.state[parameter][key].clone()
    write_safetensors(VALUES / "adam-8bit" / "steps.safetensors", values)


if __name__ == "__main__":
    main()
