"""LoRA adapters of peft with random numbers on three small models: files, logits beside and merged, gradients of A and B."""

import json
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, BertForSequenceClassification, GPT2LMHeadModel, LlamaForCausalLM

from common import VALUES, deterministic, write, write_json, write_safetensors


def base(kind, folder: str, file: str, prefix: str = ""):
    model = kind(AutoConfig.from_pretrained(VALUES / folder)).eval()
    stored = load_file(VALUES / folder / file)
    state = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name == "lm_head.weight" for name in missing), (missing, unexpected)
    return model


def record(name: str, model, config: LoraConfig, inputs: dict, labels: torch.Tensor) -> None:
    folder = VALUES / "adapters" / name
    torch.manual_seed(5)
    adapted = get_peft_model(model, config).eval()
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    with tempfile.TemporaryDirectory() as place:
        adapted.save_pretrained(place)
        written = json.loads((Path(place) / "adapter_config.json").read_text())
        written["base_model_name_or_path"] = name
        # A list made from a set comes in another order each time.
        if isinstance(written["target_modules"], list):
            written["target_modules"].sort()
        write(folder / "adapter_config.json", (json.dumps(written, indent=2, sort_keys=True) + "\n").encode())
        write(folder / "adapter_model.safetensors", (Path(place) / "adapter_model.safetensors").read_bytes())
    logits = adapted(**inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    loss.backward()
    gradients = {
        key.removeprefix("base_model.model.").replace(".default", ""): parameter.grad
        for key, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    merged = adapted.merge_and_unload()(**inputs).logits
    write_safetensors(folder / "logits.safetensors", {"logits": logits, "merged": merged})
    write_safetensors(folder / "gradients.safetensors", gradients)
    write_json(folder / "values.json", {"loss": loss.item(), "labels": labels.tolist()})


def main() -> None:
    deterministic()
    for folder, kind, config in [
        ("gpt2-tiny", GPT2LMHeadModel, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear")),
        (
            "llama-grouped-tiny",
            LlamaForCausalLM,
            LoraConfig(
                r=3, lora_alpha=5, use_rslora=True, lora_dropout=0.1, target_modules=["q_proj", "v_proj", "down_proj"],
                rank_pattern={"q_proj": 5}, alpha_pattern={"layers.1.mlp.down_proj": 2},
            ),
        ),
    ]:
        values = json.loads((VALUES / folder / "values.json").read_text())
        inputs = {"input_ids": torch.tensor(values["inputIds"])}
        record(folder, base(kind, folder, "model.safetensors").eval(), config, inputs, torch.tensor(values["labels"]))
    stored = load_file(VALUES / "bert" / "sequence.safetensors")
    names = ("input_ids", "attention_mask", "token_type_ids")
    record(
        "bert",
        base(BertForSequenceClassification, "bert", "sequence.safetensors", "weights/"),
        LoraConfig(r=2, lora_alpha=2, target_modules=r".*\.(query|value)|bert\.encoder.*dense", exclude_modules=["layer.1.output.dense"]),
        {name: stored[f"inputs/{name}"] for name in names},
        stored["inputs/labels"],
    )


main()
