"""Soft prompts and prefixes of peft with random numbers before two small decoders: files, logits, gradients."""

import json
import tempfile
from pathlib import Path

import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, GPT2LMHeadModel, LlamaForCausalLM

from common import VALUES, deterministic, write, write_json, write_safetensors


def base(kind, folder: str):
    model = kind(AutoConfig.from_pretrained(VALUES / folder)).eval()
    missing, unexpected = model.load_state_dict(load_file(VALUES / folder / "model.safetensors"), strict=False)
    assert not unexpected and all(name == "lm_head.weight" for name in missing), (missing, unexpected)
    return model


def record(name: str, folder: str, kind, config) -> None:
    values = json.loads((VALUES / folder / "values.json").read_text())
    inputs, labels = torch.tensor(values["inputIds"]), torch.tensor(values["labels"])
    place = VALUES / "adapters" / f"{name}-{folder}"
    torch.manual_seed(7)
    adapted = get_peft_model(base(kind, folder), config).eval()
    [(key, embeddings)] = [(key, one) for key, one in adapted.named_parameters() if one.requires_grad]
    torch.nn.init.normal_(embeddings, std=0.5)
    with tempfile.TemporaryDirectory() as written:
        adapted.save_pretrained(written)
        entries = json.loads((Path(written) / "adapter_config.json").read_text())
        entries["base_model_name_or_path"] = folder
        write(place / "adapter_config.json", (json.dumps(entries, indent=2, sort_keys=True) + "\n").encode())
        write(place / "adapter_model.safetensors", (Path(written) / "adapter_model.safetensors").read_bytes())
    logits = adapted(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[:, -inputs.shape[1] :]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    loss.backward()
    write_safetensors(place / "logits.safetensors", {"logits": logits.detach(), "gradient": embeddings.grad})
    write_json(place / "values.json", {"loss": loss.item()})


def main() -> None:
    deterministic()
    for folder, kind in [("gpt2-tiny", GPT2LMHeadModel), ("llama-grouped-tiny", LlamaForCausalLM)]:
        record("prompt", folder, kind, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
        record("prefix", folder, kind, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))


main()
