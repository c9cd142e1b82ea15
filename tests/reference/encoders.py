"""What the reference scripts of encoders share: small inputs with padding, and one file for each task of a model."""

from pathlib import Path

import torch

from common import made_with, write, write_json, write_safetensors

BATCH, SEQUENCE, VOCABULARY = 3, 10, 53
LENGTHS = (10, 6, 8)
TINY = dict(
    vocab_size=VOCABULARY, hidden_size=20, num_hidden_layers=2, num_attention_heads=4, intermediate_size=36,
    max_position_embeddings=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)


def inputs(pad: int = 0, segments: bool = True, choices: int = 0, lengths=LENGTHS) -> dict[str, torch.Tensor]:
    """Random ids, the ends of some rows padded; with `choices`, that many rows for each example."""
    rows = BATCH * max(1, choices)
    lengths = torch.tensor(lengths).repeat(max(1, choices))
    mask = (torch.arange(SEQUENCE)[None] < lengths[:, None]).long()
    ids = torch.randint(5, VOCABULARY, (rows, SEQUENCE)) * mask + pad * (1 - mask)
    made = {"input_ids": ids, "attention_mask": mask}
    if segments:
        made["token_type_ids"] = (torch.arange(SEQUENCE)[None] >= lengths[:, None] // 2).long() * mask
    return {k: v.view(BATCH, choices, SEQUENCE) for k, v in made.items()} if choices else made


def masked_labels(given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The ids of about a third of the real tokens; -100 elsewhere."""
    chosen = (torch.rand(given["input_ids"].shape) < 0.35) & (given["attention_mask"] == 1)
    return torch.where(chosen, torch.randint(5, VOCABULARY, chosen.shape), -100)


def perturb(model: torch.nn.Module) -> None:
    """Moves every parameter away from its first value, so that no norm or bias is the identity."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)


def record(path: Path, model: torch.nn.Module, silent: tuple[str, ...] = (), **given: torch.Tensor) -> None:
    """
    Inputs, weights, outputs, loss and every gradient of one task in one file, kept apart by the first part of the name.
    `silent` ends the names of parameters that move all scores of a softmax alike, as a bias of all keys does: it does not
    see them, and their gradient is nothing but rounding.
    """
    perturb(model)
    model.eval()
    out = model(**given)
    out.loss.backward()
    tensors = {f"inputs/{name}": value for name, value in given.items()}
    tensors |= {f"outputs/{name}": value for name, value in out.items() if isinstance(value, torch.Tensor)}
    for name, parameter in model.named_parameters():
        tensors[f"weights/{name}"] = parameter
        rounding = parameter.grad is None or parameter.grad.abs().max() < 1e-6
        if not rounding:
            tensors[f"gradients/{name}"] = parameter.grad
        elif not name.endswith(("key.bias", *silent)):
            raise ValueError(f"{name} has no gradient")
    write_safetensors(path, tensors)


def parameters(build) -> int:
    """The size of a model that is never allocated."""
    with torch.device("meta"):
        model = build()
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())


def write_config(folder: Path, config) -> None:
    write(folder / "config.json", config.to_json_string().encode())


def write_sizes(folder: Path, sizes: dict[str, int]) -> None:
    write_json(folder / "sizes.json", {"madeWith": made_with(), "parameters": sizes})
