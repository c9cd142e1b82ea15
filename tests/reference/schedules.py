"""Learning rates of transformers' schedules, and of the schedule of "Attention Is All You Need".

`rates[i]` is the rate that optimiser step `i` uses, counted from 0: transformers' first step therefore has rate 0
wherever there is a warm-up.
"""

import torch
from common import VALUES, made_with, write_json
from transformers import optimization

STEPS = 60
LEARNING_RATE = 1e-3
WARMUP = 10
TRAINING_STEPS = 50


def rates(make_schedule, **options) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=LEARNING_RATE)
    schedule = make_schedule(optimizer, **options)
    result = []
    for _ in range(STEPS):
        result.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return result


def transformer_rate(step: int, d_model: int, warmup_steps: int) -> float:
    """Vaswani et al. 2017, equation 3; `step` counts from 1."""
    return d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


def main() -> None:
    warmup = {"num_warmup_steps": WARMUP}
    limited = {**warmup, "num_training_steps": TRAINING_STEPS}
    named = {
        "constant": (optimization.get_constant_schedule, {}),
        "constantWithWarmup": (optimization.get_constant_schedule_with_warmup, warmup),
        "linear": (optimization.get_linear_schedule_with_warmup, limited),
        "cosine": (optimization.get_cosine_schedule_with_warmup, limited),
        "cosineWithMinimum": (
            optimization.get_cosine_with_min_lr_schedule_with_warmup,
            {**limited, "min_lr_rate": 0.1},
        ),
        "inverseSquareRoot": (optimization.get_inverse_sqrt_schedule, warmup),
        "polynomial": (
            optimization.get_polynomial_decay_schedule_with_warmup,
            {**limited, "lr_end": 1e-5, "power": 2.0},
        ),
    }
    write_json(
        VALUES / "schedules.json",
        {
            "madeWith": made_with(),
            "learningRate": LEARNING_RATE,
            "warmupSteps": WARMUP,
            "trainingSteps": TRAINING_STEPS,
            "schedules": {
                name: {"function": function.__name__, "options": options, "rates": rates(function, **options)}
                for name, (function, options) in named.items()
            },
            "transformer": [
                {
                    "dModel": d_model,
                    "warmupSteps": warmup_steps,
                    "rates": [transformer_rate(step, d_model, warmup_steps) for step in range(1, STEPS + 1)],
                }
                for d_model, warmup_steps in [(512, 10), (512, 4000)]
            ],
        },
    )


if __name__ == "__main__":
    main()
