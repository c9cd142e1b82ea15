"""The PyTorch side of the encoders' bench: reads one JSON request a line, answers with one JSON line."""

import json
import resource
import sys
import time

import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification


def bert(config):
    return BertConfig(
        vocab_size=config["vocabSize"], hidden_size=config["hiddenSize"], num_hidden_layers=config["numLayers"],
        num_attention_heads=config["numHeads"], intermediate_size=config["intermediateSize"],
        hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )


def padded(batch, vocabulary):
    """Random ids of the given lengths, padded to the longest, as transformers' collator does."""
    lengths = torch.tensor(batch)
    mask = (torch.arange(max(batch))[None] < lengths[:, None]).long()
    return torch.randint(1000 % vocabulary, vocabulary, mask.shape) * mask, mask


def timed(run, batches):
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        run(*batch)
        seconds.append(time.perf_counter() - start)
    return seconds


def train(config, batches):
    model = BertForMaskedLM(bert(config)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(ids, mask):
        chosen = (torch.rand(ids.shape) < 0.15) & (mask == 1)
        chosen[:, 0] = True
        optimizer.zero_grad(set_to_none=True)
        loss = model(ids, attention_mask=mask, labels=torch.where(chosen, ids, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    given = [padded(batch, config["vocabSize"]) for batch in batches]
    step(*given[0])
    return timed(step, given)


@torch.inference_mode()
def classify(config, batches):
    model = BertForSequenceClassification(bert(config)).eval()
    given = [padded(batch, config["vocabSize"]) for batch in batches]
    model(given[0][0], attention_mask=given[0][1])
    return timed(lambda ids, mask: model(ids, attention_mask=mask).logits, given)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    operations = {"train": train, "classify": classify}
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds = operations[request.pop("op")](**request)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peakMiB": peak}), flush=True)


main()
