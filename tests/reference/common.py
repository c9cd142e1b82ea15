"""What the reference scripts share: where values go, how they are written, and what no written value may be."""

import json
import math
import os
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import save

VALUES = Path(__file__).parent / "values"
MAXIMUM_BYTES = 300_000


def made_with() -> dict:
    return {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }


def deterministic() -> None:
    """One thread and deterministic kernels, so that a second run writes the same bytes."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def write(path: Path, data: bytes) -> None:
    if len(data) > MAXIMUM_BYTES:
        raise ValueError(f"{path.name} has {len(data)} bytes; reference files stay under {MAXIMUM_BYTES}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    print(f"{path.relative_to(VALUES.parent)}: {len(data)} bytes")


def write_json(path: Path, value: object) -> None:
    write(path, (format_json(value) + "\n").encode())


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        require_telling(name, tensor)
    write(path, save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}))


def require_telling(name: str, tensor: torch.Tensor) -> None:
    """A reference that is not finite, or zero everywhere, proves nothing about the code that is held against it."""
    if not tensor.is_floating_point():
        return
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} has values that are not finite")
    if tensor.abs().max() < 1e-6:
        raise ValueError(f"{name} is zero everywhere")


def format_json(value: object, indent: str = "") -> str:
    """JSON with one line for each list without objects: readable differences, small files."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        members = (f"{inner}{json.dumps(key)}: {format_json(item, inner)}" for key, item in value.items())
        return "{\n" + ",\n".join(members) + "\n" + indent + "}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + format_json(item, inner) for item in value) + "\n" + indent + "]"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON has no number that is not finite")
    return json.dumps(value, allow_nan=False, separators=(", ", ": "))


DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.int64: "int64",
    torch.bool: "bool",
}


def tensor_json(tensor: torch.Tensor) -> dict:
    """A tensor as `{shape, dtype, data}`, its data flat and row-major; booleans are 0 and 1."""
    data = tensor.detach().to(torch.int64) if tensor.dtype == torch.bool else tensor.detach()
    return {"shape": list(tensor.shape), "dtype": DTYPES[tensor.dtype], "data": data.flatten().tolist()}
