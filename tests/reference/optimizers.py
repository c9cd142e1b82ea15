"""
Parameters after steps of PyTorch's AdamW and SGD, of transformers' Adafactor, and of Adafactor as PaLM set it, which is written here from
the equations of both papers: values/optimizers.json.
"""

import torch
from transformers.optimization import Adafactor

from common import VALUES, deterministic, made_with, write_json

SHAPES = {"matrix": [3, 5], "stack": [2, 4, 3], "vector": [6]}
STEPS = 6



class PalmAdafactor(torch.optim.Optimizer):
    """
    Chowdhery et al. 2022, section 5: Adafactor without factorisation. The rate is 1e-2 for 10,000 steps and 1 / sqrt(k) from then on, beta1
    0.9, beta2 1 - k^-0.8, steps relative to a parameter's root mean square, weight decay of the rate squared. What PaLM does not say is
    Adafactor's own, Shazeer & Stern 2018, algorithm 5: squares plus 1e-30, updates clipped at a root mean square of 1, sizes of 1e-3 at
    least. `first_step` stands for a run that goes on: it shows the falling rate.
    """

    def __init__(self, parameters, first_step=1):
        super().__init__(parameters, {"first_step": first_step})

    @torch.no_grad()
    def step(self):
        rms = lambda x: x.square().mean().sqrt()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(k=group["first_step"] - 1, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["k"] += 1
                k = state["k"]
                rate = min(1e-2, 1 / k**0.5)
                beta2 = 1 - k**-0.8
                state["v"] = beta2 * state["v"] + (1 - beta2) * (p.grad.square() + 1e-30)
                update = p.grad / state["v"].sqrt()
                update = update / max(1.0, rms(update).item())
                update = rate * max(1e-3, rms(p).item()) * update
                state["m"] = 0.9 * state["m"] + 0.1 * update
                p.copy_(p - state["m"] - rate**2 * p)


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
    "palm": lambda p: PalmAdafactor(p),
    "palmLater": lambda p: PalmAdafactor(p, first_step=40_001),
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
