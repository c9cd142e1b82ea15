"""Parameter counts of the published GPT-2 sizes, and the distribution of freshly initialised weights."""

import re

import torch
from common import VALUES, deterministic, made_with, write_json
from transformers import GPT2Config, GPT2LMHeadModel

PUBLISHED = {
    "124M": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "355M": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "774M": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "1558M": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
SMALL = {"vocab_size": 512, "n_positions": 128, "n_embd": 64, "n_layer": 8, "n_head": 4}


def kind_of(name: str) -> str:
    """`transformer.h.3.attn.c_proj.weight` -> `h.attn.c_proj.weight`."""
    return re.sub(r"\.\d+\.", ".", name.removeprefix("transformer."))


def counts(size: dict) -> dict:
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(**size))
    model.tie_weights()
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    embeddings = sum(model.get_parameter(f"transformer.{name}.weight").numel() for name in ("wte", "wpe"))
    total = sum(parameter.numel() for parameter in model.parameters())
    return {
        "config": {"vocab_size": 50257, "n_positions": 1024, **size},
        "parameters": total,
        "parametersWithoutEmbeddings": total - embeddings,
        "tensors": len(shapes),
    }


def distribution(config: dict, seed: int) -> dict:
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**config))
    kinds: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        kinds.setdefault(kind_of(name), []).append(parameter.detach().double().flatten())
    result = {}
    for kind, parts in kinds.items():
        values = torch.cat(parts)
        result[kind] = {
            "count": values.numel(),
            "mean": values.mean().item(),
            "std": values.std(correction=0).item(),
            "min": values.min().item(),
            "max": values.max().item(),
        }
    return result


def main() -> None:
    deterministic()
    write_json(
        VALUES / "gpt2-init.json",
        {
            "madeWith": made_with(),
            "sizes": {name: counts(size) for name, size in PUBLISHED.items()},
            "initialisation": {
                "config": {**SMALL, "initializer_range": 0.02},
                "seed": 1,
                "kinds": distribution(SMALL, seed=1),
            },
        },
    )


if __name__ == "__main__":
    main()
