"""
What transformers' `save_pretrained` writes beside the numbers of the small encoder-decoders of t5.py and bart.py: config.json,
generation_config.json, and the tensors that its model has besides those of the small file, with the one that each is a copy of
(null for computed positions): older versions wrote them too. Run once with each of the versions that count, as config_entries.py.
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from common import VALUES

NAMES = ["t5-tiny", "t5-gated-tiny", "mt5-tiny", "bart-tiny", "mbart-tiny", "marian-tiny"]


def holder(tensor: torch.Tensor, known: dict) -> str | None:
    return next((key for key, value in known.items() if value.shape == tensor.shape and torch.equal(value, tensor)), None)


def folder(name: str) -> dict:
    known = load_file(VALUES / name / "model.safetensors")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        source.mkdir()
        (source / "config.json").write_bytes((VALUES / name / "config.json").read_bytes())
        (source / "model.safetensors").write_bytes((VALUES / name / "model.safetensors").read_bytes())
        model = AutoModelForSeq2SeqLM.from_pretrained(source).eval()
        model.generation_config = GenerationConfig.from_model_config(model.config)
        model.generation_config.update(num_beams=4, length_penalty=0.8, max_length=40, no_repeat_ngram_size=3)
        values = json.loads((VALUES / name / "values.json").read_text())
        given = {key: torch.tensor(values[key]) for key in ("source", "mask", "decoderInputIds")}
        with torch.no_grad():
            logits = model(
                input_ids=given["source"], attention_mask=given["mask"], decoder_input_ids=given["decoderInputIds"]
            ).logits
        # Whatever the version, these are the numbers of the file.
        wanted = load_file(VALUES / name / "logits.safetensors")["logits"]
        assert torch.allclose(logits, wanted, atol=1e-4), name
        model.save_pretrained(temporary)
        stored = load_file(Path(temporary) / "model.safetensors")
        assert stored.keys() == known.keys(), name
        return {
            "config": json.loads((Path(temporary) / "config.json").read_text()),
            "generation": json.loads((Path(temporary) / "generation_config.json").read_text()),
            "copies": {key: holder(value, known) for key, value in model.state_dict().items() if key not in known},
        }


def main() -> None:
    torch.set_num_threads(1)
    version = transformers.__version__
    path = VALUES / f"encoder-decoder-folders-{version.split('.')[0]}.json"
    path.write_text(json.dumps({"transformers": version, "folders": {n: folder(n) for n in NAMES}}, indent=1) + "\n")


main()
