"""DPO of encoder-decoders: log-probabilities, loss and gradients by Hugging Face transformers, as trl's trainers computed them while
they took such models (trl 0.9, `is_encoder_decoder`): the prompt is the source, and the answer the labels. values/preference-readers.json."""

import torch
import torch.nn.functional as F
from transformers import AutoModelForSeq2SeqLM

from common import VALUES, deterministic, made_with, write_json

BETA = 0.1
PAIRS = [
    ([5, 9, 11, 4], [8, 6, 2], [10, 12, 14, 3, 2]),
    ([7, 3], [20, 2], [9]),
    ([13], [4, 4, 4, 4, 4, 2], [30, 2]),
]
REFERENCE = [(-9.0, -16.5), (-8.25, -4.0), (-21.0, -7.5)]
MODELS = {
    "t5-tiny": "decoder.block.1.layer.0.SelfAttention.q.weight",
    "bart-tiny": "model.decoder.layers.1.self_attn.q_proj.weight",
}


def log_probability(model, prompt, answer):
    """trl's get_batch_logps of one row."""
    labels = torch.tensor([answer])
    logits = model(input_ids=torch.tensor([prompt]), labels=labels).logits
    return torch.gather(logits.log_softmax(-1), 2, labels.unsqueeze(2)).sum()


def main() -> None:
    deterministic()
    found = {}
    for name, parameter in MODELS.items():
        model = AutoModelForSeq2SeqLM.from_pretrained(VALUES / name).eval()
        log_probs, losses = [], []
        for (prompt, chosen, rejected), (chosen_reference, rejected_reference) in zip(PAIRS, REFERENCE):
            better, worse = (log_probability(model, prompt, answer) for answer in (chosen, rejected))
            log_probs += [better.item(), worse.item()]
            delta = (better - chosen_reference) - (worse - rejected_reference)
            losses.append(-F.logsigmoid(BETA * delta))
        loss = torch.stack(losses).mean()
        loss.backward()
        found[name] = {
            "logProbs": log_probs,
            "loss": loss.item(),
            "parameter": parameter,
            "gradient": dict(model.named_parameters())[parameter].grad.flatten().tolist(),
        }
    write_json(VALUES / "preference-readers.json", {"madeWith": made_with(), "models": found})


main()
