"""PyTorch's side of the bench `cuda`: reads one JSON request a line, answers with one JSON line."""

import json
import subprocess
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

device = sys.argv[1]


def wait():
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run, repeats):
    seconds = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return seconds


def used_mib():
    if device != "cuda":
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def gpt2(small):
    shape = dict(n_positions=256, n_embd=128, n_layer=2, n_head=4, vocab_size=1024) if small else {}
    return GPT2LMHeadModel(GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **shape)).to(device)


def train(small, batch, sequence, repeats):
    model = gpt2(small).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, model.config.vocab_size, (batch, sequence + 1), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    timed(step, 2)
    return timed(step, repeats)


@torch.no_grad()
def decode(small, batch, sequence, repeats):
    model = gpt2(small).eval()
    out = model(torch.randint(0, model.config.vocab_size, (batch, sequence), device=device), use_cache=True)
    past, last = out.past_key_values, out.logits[:, -1:].argmax(-1)

    def step():
        nonlocal past, last
        out = model(last, past_key_values=past, use_cache=True)
        past, last = out.past_key_values, out.logits[:, -1:].argmax(-1)

    timed(step, 2)
    return timed(step, repeats)


def main():
    operations = {"train": train, "decode": decode}
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        torch.backends.cuda.matmul.allow_tf32 = request.pop("tf32")
        seconds = operations[request.pop("kind")](**request)
        print(json.dumps({"seconds": seconds, "usedMiB": used_mib()}), flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()


main()
