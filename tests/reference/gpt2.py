"""A small random GPT-2 of Hugging Face transformers: logits, loss, gradients, AdamW losses and generated ids."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors


def main() -> None:
    deterministic()
    torch.manual_seed(7)
    folder = VALUES / "gpt2-tiny"
    config = GPT2Config(
        vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=5,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    tensors = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    write(folder / "config.json", config.to_json_string().encode())
    write_safetensors(folder / "model.safetensors", tensors)

    ids = torch.randint(0, 97, (2, 17))
    inputs, labels = ids[:, :-1], ids[:, 1:].clone()
    labels[0, 3:6] = -100
    logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 97), labels.reshape(-1))
    loss.backward()
    write_safetensors(folder / "logits.safetensors", {"logits": logits})
    write_safetensors(folder / "gradients.safetensors", {name: p.grad for name, p in model.named_parameters()})

    start = {name: value.clone() for name, value in model.state_dict().items()}
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizers = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8),
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    }
    steps = {}
    for name, make in optimizers.items():
        model.load_state_dict(start)
        optimizer = make()
        steps[name] = {"losses": [], "norms": []}
        for _ in range(10):
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(model(inputs).logits.reshape(-1, 97), labels.reshape(-1))
            value.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps[name]["losses"].append(value.item())
            steps[name]["norms"].append(norm.item())
    model.load_state_dict(start)

    prompt = ids[:1, :5]
    common = dict(do_sample=False, max_new_tokens=40, pad_token_id=0, attention_mask=torch.ones_like(prompt))
    beams = []
    for penalty in (0.6, 1.0, 2.0):
        for early in (False, True):
            out = model.generate(prompt, num_beams=4, length_penalty=penalty, early_stopping=early, eos_token_id=9, **common)
            beams.append({"lengthPenalty": penalty, "earlyStopping": early, "ids": out[0, 5:].tolist()})
    write_json(
        folder / "values.json",
        {
            "madeWith": made_with(),
            "inputIds": inputs.tolist(),
            "labels": labels.tolist(),
            "loss": loss.item(),
            "steps": steps,
            "prompt": prompt[0].tolist(),
            "greedy": model.generate(prompt, eos_token_id=None, **common)[0, 5:].tolist(),
            "repetitionPenalty": model.generate(prompt, eos_token_id=None, repetition_penalty=1.3, **common)[0, 5:].tolist(),
            "beams": beams,
        },
    )


main()
