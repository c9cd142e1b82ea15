"""Losses and gradients of preference training: trl 1.12.0's own functions where they stand alone, its formulas elsewhere.
Needs `pip install --no-deps trl==1.12.0`; its functions are taken from its files, so that none of what it imports has to be
there. values/preference.json."""

import ast
import importlib.util
import types
from pathlib import Path

import torch
import torch.nn.functional as F

from common import VALUES, deterministic, made_with, write_json

TRL = Path(importlib.util.find_spec("trl").submodule_search_locations[0])


def function_of(file: str, name: str):
    """One function of trl, compiled alone."""
    nodes = [node for node in ast.walk(ast.parse((TRL / file).read_text())) if getattr(node, "name", "") == name]
    nodes[0].decorator_list = []
    space = {"torch": torch, "F": F}
    if name != "log1mexp":
        space["log1mexp"] = function_of("experimental/orpo/orpo_trainer.py", "log1mexp")
    exec(compile(ast.Module(nodes[:1], []), file, "exec"), space)
    return space[name]


cpo_loss = function_of("experimental/cpo/cpo_trainer.py", "cpo_loss")
odds_ratio_loss = function_of("experimental/orpo/orpo_trainer.py", "odds_ratio_loss")

deterministic()
torch.manual_seed(4)
PAIRS = 6
lengths = {name: torch.randint(2, 30, (PAIRS,)).double() for name in ("chosen", "rejected")}
start = {
    "chosen": -lengths["chosen"] * (0.3 + 2 * torch.rand(PAIRS).double()),
    "rejected": -lengths["rejected"] * (0.3 + 2 * torch.rand(PAIRS).double()),
}
reference = {name: value + 2 * torch.randn(PAIRS).double() for name, value in start.items()}
accelerator = types.SimpleNamespace(device="cpu")


def dpo(chosen, rejected, loss_type, beta, smoothing=0.0):
    """trl/trainer/dpo_trainer.py, _compute_loss; `conservative` is its loss before 1.0."""
    chosen_ratio, rejected_ratio = chosen - reference["chosen"], rejected - reference["rejected"]
    delta = chosen_ratio - rejected_ratio
    if loss_type == "sigmoid":
        return -F.logsigmoid(beta * delta)
    if loss_type == "conservative":
        return -F.logsigmoid(beta * delta) * (1 - smoothing) - F.logsigmoid(-beta * delta) * smoothing
    if loss_type == "hinge":
        return torch.relu(1 - beta * delta)
    if loss_type == "ipo":
        ipo_delta = chosen_ratio / lengths["chosen"] - rejected_ratio / lengths["rejected"]
        return (ipo_delta - 1 / (2 * beta)) ** 2
    clean = -(1 - smoothing) * F.logsigmoid(beta * delta)
    flipped = -smoothing * F.logsigmoid(-beta * delta)
    return (clean - flipped) / (1 - 2 * smoothing)


def cpo(chosen, rejected, loss_type, beta, smoothing=0.0, gamma=0.0):
    trainer = types.SimpleNamespace(
        alpha=0.0, beta=beta, loss_type=loss_type, simpo_gamma=gamma, label_smoothing=smoothing, accelerator=accelerator
    )
    return cpo_loss(trainer, chosen, rejected)[0]


def orpo(chosen, rejected, beta):
    trainer = types.SimpleNamespace(beta=beta, accelerator=accelerator)
    losses = odds_ratio_loss(trainer, chosen, rejected)[0]
    return -losses  # What the trainer adds to the chosen completions' own loss.


mean = lambda values, name: values / lengths[name]
CASES = {
    "dpo": lambda c, r: dpo(c, r, "sigmoid", 0.1),
    "dpoBeta": lambda c, r: dpo(c, r, "sigmoid", 0.5),
    "conservative": lambda c, r: dpo(c, r, "conservative", 0.1, 0.2),
    "robust": lambda c, r: dpo(c, r, "robust", 0.3, 0.1),
    "hinge": lambda c, r: dpo(c, r, "hinge", 0.1),
    "ipo": lambda c, r: dpo(c, r, "ipo", 0.2),
    "simpo": lambda c, r: cpo(mean(c, "chosen"), mean(r, "rejected"), "simpo", 2.0, 0.1, 0.7),
    "cpo": lambda c, r: cpo(c, r, "sigmoid", 0.1, 0.1),
    "orpo": lambda c, r: orpo(mean(c, "chosen"), mean(r, "rejected"), 0.25),
}

results = {}
for name, losses_of in CASES.items():
    chosen, rejected = (start[key].clone().requires_grad_() for key in ("chosen", "rejected"))
    losses = losses_of(chosen, rejected)
    losses.sum().backward()
    results[name] = {
        "losses": losses.tolist(),
        "chosenGradient": chosen.grad.tolist(),
        "rejectedGradient": rejected.grad.tolist(),
    }

# trl/trainer/kto_trainer.py, _compute_loss; the last is above zero so that its divergence counts.
kto = {}
for name, shift in {"below": -0.5, "above": 0.8}.items():
    ratios = (start["chosen"] - reference["chosen"]).clone().requires_grad_()
    other = torch.randn(PAIRS).double() + shift
    liked = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.double)
    beta, desirable, undesirable = 0.3, 1.2, 0.7
    kl = other.mean().clamp(min=0)
    chosen_losses = desirable * (1 - F.sigmoid(beta * (ratios - kl)))
    rejected_losses = undesirable * (1 - F.sigmoid(beta * (kl - ratios)))
    losses = torch.where(liked == 1, chosen_losses, rejected_losses)
    losses.sum().backward()
    kto[name] = {
        "ratios": ratios.tolist(),
        "other": other.tolist(),
        "liked": liked.tolist(),
        "losses": losses.tolist(),
        "gradient": ratios.grad.tolist(),
    }

write_json(
    VALUES / "preference.json",
    {
        "madeWith": {**made_with(), "trl": "1.12.0"},
        "chosen": start["chosen"].tolist(),
        "rejected": start["rejected"].tolist(),
        "referenceChosen": reference["chosen"].tolist(),
        "referenceRejected": reference["rejected"].tolist(),
        "chosenLength": lengths["chosen"].tolist(),
        "rejectedLength": lengths["rejected"].tolist(),
        "cases": results,
        "kto": kto,
    },
)
