"""
Adapters of peft's with random numbers on encoders with heads (`modules_to_save`), encoder-decoders, and with weight
decomposition (DoRA) on every kind: files, logits beside and merged, gradients of all that learns.
"""

import json
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    BartForConditionalGeneration,
    BertForSequenceClassification,
    BertForTokenClassification,
    ElectraForSequenceClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    RobertaForSequenceClassification,
    T5ForConditionalGeneration,
)

from common import VALUES, deterministic, write, write_json, write_safetensors

PREFIX = "base_model.model."


def base(kind, folder: str, file: str, prefix: str = "", **config):
    model = kind(AutoConfig.from_pretrained(VALUES / folder, **config)).eval()
    stored = load_file(VALUES / folder / file)
    state = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    own = model.state_dict()
    state = {name: value for name, value in state.items() if own[name].shape == value.shape}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
            "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "final_logits_bias"}
    # A head of another number of classes is the adapter's alone.
    assert not unexpected and all(n in tied or n.startswith("classifier.") for n in missing), (missing, unexpected)
    model.tie_weights()
    return model


def record(name: str, model, config: LoraConfig, inputs: dict, labels: torch.Tensor) -> None:
    folder = VALUES / "adapters" / name
    torch.manual_seed(7)
    adapted = get_peft_model(model, config).eval()
    for key, parameter in adapted.named_parameters():
        if "lora_magnitude" in key:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
        elif parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    with tempfile.TemporaryDirectory() as place:
        adapted.save_pretrained(place)
        written = json.loads((Path(place) / "adapter_config.json").read_text())
        written["base_model_name_or_path"] = name
        # Lists made from sets come in another order each time.
        for entry in ("target_modules", "modules_to_save"):
            if isinstance(written[entry], list):
                written[entry].sort()
        write(folder / "adapter_config.json", (json.dumps(written, indent=2, sort_keys=True) + "\n").encode())
        write(folder / "adapter_model.safetensors", (Path(place) / "adapter_model.safetensors").read_bytes())
    logits = adapted(**inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    loss.backward()
    gradients = {}
    for key, parameter in adapted.named_parameters():
        if parameter.requires_grad and parameter.grad is not None and parameter.grad.abs().max() > 1e-6:
            key = key.removeprefix(PREFIX).replace(".modules_to_save", "").replace(".default", "")
            gradients[key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")] = parameter.grad
    merged = adapted.merge_and_unload()(**inputs).logits
    write_safetensors(folder / "logits.safetensors", {"logits": logits, "merged": merged})
    write_safetensors(folder / "gradients.safetensors", gradients)
    write_json(folder / "values.json", {"loss": loss.item(), "labels": labels.tolist()})


def encoder_inputs(folder: str) -> dict:
    stored = load_file(VALUES / folder / "sequence.safetensors")
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: stored[f"inputs/{name}"] for name in names if f"inputs/{name}" in stored}


def main() -> None:
    deterministic()
    torch.manual_seed(3)
    sequence, rows = TaskType.SEQ_CLS, torch.tensor([1, 0, 3])

    def classifier(kind, folder: str):
        return base(kind, folder, "sequence.safetensors", "weights/", num_labels=4)

    # A base whose head tells three classes apart, an adapter whose head tells four.
    record("bert-classify", classifier(BertForSequenceClassification, "bert"),
           LoraConfig(task_type=sequence, r=2, lora_alpha=3, target_modules="all-linear"), encoder_inputs("bert"), rows)
    record("roberta-classify", classifier(RobertaForSequenceClassification, "roberta"),
           LoraConfig(task_type=sequence, r=2, lora_alpha=3, target_modules=["query", "value", "dense"]),
           encoder_inputs("roberta"), rows)
    record("electra-dora", classifier(ElectraForSequenceClassification, "electra"),
           LoraConfig(task_type=sequence, r=2, lora_alpha=3, use_dora=True, target_modules=["query", "key", "dense"]),
           encoder_inputs("electra"), rows)
    tags = torch.randint(0, 3, (3, 10))
    record("bert-tag", base(BertForTokenClassification, "bert", "token.safetensors", "weights/"),
           LoraConfig(task_type=TaskType.TOKEN_CLS, r=2, lora_alpha=3, target_modules=["query", "dense"]),
           encoder_inputs("bert"), tags)

    for folder, kind, config in [
        ("t5-tiny", T5ForConditionalGeneration,
         LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=3, lora_alpha=4, target_modules="all-linear")),
        ("bart-tiny", BartForConditionalGeneration,
         LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=3, lora_alpha=4, use_dora=True,
                    target_modules=["q_proj", "k_proj", "v_proj", "fc1"])),
    ]:
        values = json.loads((VALUES / folder / "values.json").read_text())
        inputs = {
            "input_ids": torch.tensor(values["source"]),
            "attention_mask": torch.tensor(values["mask"]),
            "decoder_input_ids": torch.tensor(values["decoderInputIds"]),
        }
        record(folder, base(kind, folder, "model.safetensors"), config, inputs, torch.tensor(values["labels"]))

    for folder, kind, config in [
        ("gpt2-tiny", GPT2LMHeadModel,
         LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=6, use_dora=True, target_modules="all-linear")),
        ("llama-grouped-tiny", LlamaForCausalLM,
         LoraConfig(task_type=TaskType.CAUSAL_LM, r=3, lora_alpha=5, use_dora=True, use_rslora=True,
                    target_modules=["q_proj", "down_proj"], rank_pattern={"q_proj": 5})),
    ]:
        values = json.loads((VALUES / folder / "values.json").read_text())
        inputs = {"input_ids": torch.tensor(values["inputIds"])}
        record(f"dora-{folder}", base(kind, folder, "model.safetensors"), config, inputs,
               torch.tensor(values["labels"]))


main()
