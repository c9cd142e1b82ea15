"""Parameters after steps of PyTorch's AdamW and SGD and of transformers' Adafactor: values/optimizers.json."""

import torch
from transformers.optimization import Adafactor

from common import VALUES, deterministic, made_with, write_json

SHAPES = {"matrix": [3, 5], "stack": [2, 4, 3], "vector": [6]}
STEPS = 6

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "adafactor": lambda p: Adafactor(p, lr=1e-2, relative_step=False, scale_parameter=False),
    "adafactorScaled": lambda p: Adafactor(p, lr=5e-2, relative_step=False, scale_parameter=True, weight_decay=0.1),
    "adafactorMomentum": lambda p: Adafactor(
        p, lr=1e-2, relative_step=False, scale_parameter=False, beta1=0.9, clip_threshold=0.5, decay_rate=-0.5
    ),
    # The paper's own step sizes: min(1e-2, 1 / sqrt(step)) times the size of the parameter.
    "adafactorRelative": lambda p: Adafactor(p, relative_step=True, scale_parameter=True),
}

deterministic()
torch.manual_seed(0)
start = {name: torch.randn(shape) for name, shape in SHAPES.items()}
gradients = [{name: torch.randn(shape) * 3 for name, shape in SHAPES.items()} for _ in range(STEPS)]

flat = lambda tensors: {name: tensor.flatten().tolist() for name, tensor in tensors.items()}
results = {}
for name, make in OPTIMIZERS.items():
    parameters = {key: torch.nn.Parameter(value.clone()) for key, value in start.items()}
    optimizer = make(list(parameters.values()))
    states = []
    for step in gradients:
        for key, parameter in parameters.items():
            parameter.grad = step[key].clone()
        optimizer.step()
        states.append(flat({key: value.detach() for key, value in parameters.items()}))
    results[name] = states

write_json(
    VALUES / "optimizers.json",
    {
        "madeWith": made_with(),
        "shapes": SHAPES,
        "start": flat(start),
        "gradients": [flat(step) for step in gradients],
        "after": results,
    },
)
