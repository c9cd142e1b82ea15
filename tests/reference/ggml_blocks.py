"""GGUF's plain blocks and their values by the gguf package: writes values/ggml-blocks.json. Run with `python -P`."""

import base64
import json
from pathlib import Path

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType

rows, columns = 3, 96
data = np.random.default_rng(5).standard_normal((rows, columns)).astype(np.float32)
data[1] += 2
result = {"rows": rows, "columns": columns, "types": {}}
for name in ("Q4_0", "Q4_1", "Q8_0"):
    kind = GGMLQuantizationType[name]
    blocks = quants.quantize(data, kind)
    result["types"][name] = {
        "blocks": base64.b64encode(blocks.tobytes()).decode(),
        "values": quants.dequantize(blocks, kind).astype(float).round(9).ravel().tolist(),
    }
Path(__file__).parent.joinpath("values/ggml-blocks.json").write_text(json.dumps(result))
