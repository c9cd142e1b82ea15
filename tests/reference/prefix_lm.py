"""
Prefix language models (Raffel et al. 2020, figure 4; Tay et al. 2022, section 3.2) on the small random weights of palm.py,
llama.py and gpt2.py: PaLM by its own equations, LLaMA and GPT-2 by Hugging Face transformers, each with a mask that lets every
token see the whole prefix of its row. Logits, loss and the gradient of every parameter of a batch whose rows have prefixes of
their own and padding; greedy ids, each from a whole pass without a cache.
"""

import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from common import VALUES, deterministic, made_with, write_json, write_safetensors
from palm import Palm

# Of each row its tokens, and how many of them are its prefix.
LENGTHS, PREFIXES = [16, 12], [6, 9]


def visible(n: int, prefixes: list[int]) -> torch.Tensor:
    """[batch, 1, n, n]: whether a query (a line) sees a key (a column)."""
    query, key = torch.arange(n)[:, None], torch.arange(n)[None, :]
    return torch.stack([(key <= query) | (key < prefix) for prefix in prefixes])[:, None]


def palm(folder):
    model = Palm(parallel=True)
    for name, value in load_file(folder / "model.safetensors").items():
        model.tensors[name] = value.requires_grad_()
    return model.forward, model.tensors


def transformers_model(kind, config):
    def load(folder):
        settings = config.from_json_file(folder / "config.json")
        # The eager attention of GPT-2 hides what is after a query whatever the mask says.
        settings._attn_implementation = "sdpa"
        model = kind(settings).eval()
        missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        assert all(name.startswith("lm_head") or name.endswith("attn.bias") for name in missing) and not unexpected

        def forward(ids, seen):
            bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
            return model(ids, attention_mask=bias, use_cache=False).logits

        return forward, dict(model.named_parameters())

    return load


MODELS = {
    "palm-tiny": palm,
    "llama-grouped-tiny": transformers_model(LlamaForCausalLM, LlamaConfig),
    "gpt2-tiny": transformers_model(GPT2LMHeadModel, GPT2Config),
}


def main() -> None:
    deterministic()
    for seed, (base, load) in enumerate(MODELS.items()):
        torch.manual_seed(60 + seed)
        forward, parameters = load(VALUES / base)
        folder = VALUES / f"prefix-{base}"
        ids = torch.randint(0, 97, (2, 17))
        inputs, labels = ids[:, :-1].clone(), ids[:, 1:].clone()
        for row, (length, prefix) in enumerate(zip(LENGTHS, PREFIXES)):
            labels[row, : prefix - 1] = -100
            labels[row, length - 1 :] = -100
            inputs[row, length:] = 0
        logits = forward(inputs, visible(16, PREFIXES))
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 97), labels.reshape(-1))
        loss.backward()
        write_safetensors(folder / "logits.safetensors", {"logits": logits.detach()})
        write_safetensors(folder / "gradients.safetensors", {key: value.grad for key, value in parameters.items()})
        greedy = ids[:1, :9]
        with torch.no_grad():
            for _ in range(32):
                greedy = torch.cat([greedy, forward(greedy, visible(greedy.shape[1], [9]))[:, -1:].argmax(-1)], 1)
        write_json(
            folder / "values.json",
            {
                "madeWith": made_with(), "inputIds": inputs.tolist(), "labels": labels.tolist(), "lengths": LENGTHS,
                "prefixes": PREFIXES, "loss": loss.item(), "prompt": ids[0, :9].tolist(), "greedy": greedy[0, 9:].tolist(),
            },
        )


main()
