"""The PyTorch side of the bench: reads one JSON request a line, answers with one JSON line."""

import json
import resource
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def timed(run, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def matmul(m, k, n, repeats):
    a, b = torch.randn(m, k), torch.randn(k, n)
    a @ b
    return timed(lambda: a @ b, repeats)


def gpt2(config):
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=config["vocabSize"], n_positions=config["contextLength"], n_embd=config["hiddenSize"],
        n_layer=config["numLayers"], n_head=config["numHeads"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    ))


def train(config, batch, sequence, repeats):
    model = gpt2(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, config["vocabSize"], (batch, sequence + 1))

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()
    return timed(step, repeats)


@torch.no_grad()
def decode(config, context, tokens):
    model = gpt2(config).eval()
    out = model(torch.randint(0, config["vocabSize"], (1, context)), use_cache=True)
    past, last = out.past_key_values, out.logits[:, -1:].argmax(-1)

    def step():
        nonlocal past, last
        out = model(last, past_key_values=past, use_cache=True)
        past, last = out.past_key_values, out.logits[:, -1:].argmax(-1)

    step()
    return timed(step, tokens)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    operations = {"matmul": matmul, "train": train, "decode": decode}
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds = operations[request.pop("op")](**request)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peakMiB": peak}), flush=True)


main()
