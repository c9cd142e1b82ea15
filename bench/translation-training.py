"""The PyTorch side of the translation bench: reads one JSON request a line, answers with one JSON line."""

import json
import resource
import sys
import time

import torch
from transformers import MarianConfig, MarianMTModel


def marian(config):
    return MarianConfig(
        vocab_size=config["vocabSize"], d_model=config["hiddenSize"], max_position_embeddings=config["contextLength"],
        encoder_layers=config["numLayers"], decoder_layers=config["numDecoderLayers"],
        encoder_attention_heads=config["numHeads"], decoder_attention_heads=config["numDecoderHeads"],
        encoder_ffn_dim=config["intermediateSize"], decoder_ffn_dim=config["decoderIntermediateSize"],
        activation_function="relu", scale_embedding=True, dropout=0, attention_dropout=0, activation_dropout=0,
        pad_token_id=0, decoder_start_token_id=0, eos_token_id=1, forced_eos_token_id=1,
    )


def padded(lengths, vocabulary):
    """Random ids of the given lengths, padded to the longest, as transformers' collator does."""
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return torch.randint(3, vocabulary, mask.shape) * mask, mask


def train(config, batches):
    """`batches`: of each sentence the lengths of its source and its target."""
    model = MarianMTModel(marian(config)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(source, mask, labels):
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=source, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    given = []
    for batch in batches:
        source, mask = padded([lengths[0] for lengths in batch], config["vocabSize"])
        target, target_mask = padded([lengths[1] for lengths in batch], config["vocabSize"])
        given.append((source, mask, torch.where(target_mask == 1, target, -100)))
    step(*given[0])
    seconds = []
    for batch in given:
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    return seconds


def main():
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        request.pop("op")
        seconds = train(**request)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peakMiB": peak}), flush=True)


main()
