"""All 256 values of both 8-bit floats, as PyTorch widens them; what is no number is null."""

import torch

from common import VALUES, made_with, write_json

values = {}
for name in ["float8_e4m3fn", "float8_e5m2"]:
    numbers = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).to(torch.float32)
    values[name] = [None if number != number else str(number) for number in numbers.tolist()]
write_json(VALUES / "float8.json", {"madeWith": made_with(), "values": values})
