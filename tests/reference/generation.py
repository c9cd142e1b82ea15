"""
What Hugging Face transformers generates with small random encoder-decoders, whose files other scripts of this folder write:
greedy and beam search under every option of a generation_config.json, and the distributions that its warpers leave.
"""

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM
from transformers.generation import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from common import VALUES, deterministic, made_with, write_json

MODELS = ["t5-tiny", "t5-gated-tiny", "bart-tiny", "mbart-tiny", "marian-tiny"]
# transformers makes a cache of as many layers as the encoder has, which for T5 may be too few.
SHARED = dict(do_sample=False, max_new_tokens=16, use_cache=False)
# Nothing that a configuration brings along; each case adds its own.
PLAIN = dict(forced_bos_token_id=None, forced_eos_token_id=None, bad_words_ids=None, no_repeat_ngram_size=0)
CASES = [
    *[dict(num_beams=beams) for beams in range(1, 9)],
    *[
        dict(num_beams=4, num_return_sequences=4, length_penalty=penalty, early_stopping=early)
        for penalty in (-1.0, 0.0, 0.6, 2.0)
        for early in (False, True, "never")
    ],
    dict(num_beams=1, no_repeat_ngram_size=2),
    dict(num_beams=4, no_repeat_ngram_size=1),
    dict(num_beams=3, no_repeat_ngram_size=3, num_return_sequences=3),
    dict(num_beams=1, min_new_tokens=9),
    dict(num_beams=4, min_new_tokens=9),
    dict(num_beams=5, min_length=7),
    dict(num_beams=1, forced_bos_token_id=17),
    dict(num_beams=4, forced_bos_token_id=17, num_return_sequences=2),
    dict(num_beams=4, forced_eos_token_id=[23], max_new_tokens=5, num_return_sequences=3),
    dict(num_beams=1, forced_eos_token_id=[23], max_new_tokens=5),
    dict(num_beams=1, bad_words_ids=[[5], [9, 11], [30], [31]]),
    dict(num_beams=4, bad_words_ids=[[5], [9, 11], [30], [31]]),
    dict(num_beams=4, suppress_tokens=list(range(4, 44)), num_return_sequences=2),
    dict(num_beams=1, begin_suppress_tokens=list(range(4, 50))),
    dict(num_beams=2, begin_suppress_tokens=list(range(4, 50)), forced_bos_token_id=17),
    dict(num_beams=1, repetition_penalty=1.7),
    dict(num_beams=4, repetition_penalty=1.7),
    dict(num_beams=4, eos_token_id=[2, 7, 12, 25, 40], num_return_sequences=4),
]
WARPERS = [
    dict(temperature=0.7), dict(top_k=5), dict(top_p=0.8), dict(temperature=1.4, top_k=20, top_p=0.9),
    dict(temperature=0.5, top_p=0.3), dict(top_k=1),
]


def load(name):
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(VALUES / name)).eval()
    missing = model.load_state_dict(load_file(VALUES / name / "model.safetensors"), strict=False)
    assert not missing.unexpected_keys, missing
    model.tie_weights()
    return model


def warped(scores, temperature=1.0, top_k=0, top_p=1.0):
    processors = LogitsProcessorList()
    if temperature != 1.0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k > 0:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    return processors(torch.zeros(1, 1, dtype=torch.long), scores).softmax(-1)


def main() -> None:
    deterministic()
    models = {}
    for seed, name in enumerate(MODELS):
        torch.manual_seed(100 + seed)
        model = load(name)
        pad = model.config.pad_token_id
        lengths = [13, 6, 9]
        source = torch.full((3, 13), pad)
        for row, length in enumerate(lengths):
            source[row, :length] = torch.randint(4, 60, (length,))
        mask = (torch.arange(13) < torch.tensor(lengths)[:, None]).long()
        cases = []
        for case in CASES:
            result = model.generate(
                source, attention_mask=mask, return_dict_in_generate=True, output_scores=True, **{**SHARED, **PLAIN, **case}
            )
            scores = result.sequences_scores.tolist() if case["num_beams"] > 1 else None
            cases.append({"options": {**SHARED, **case}, "sequences": result.sequences.tolist(), "scores": scores})
        start = torch.full((3, 1), model.config.decoder_start_token_id)
        with torch.no_grad():
            logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=start).logits[:, -1]
        models[name] = {
            "sources": [row[:length] for row, length in zip(source.tolist(), lengths)],
            "cases": cases,
            "warped": [{"options": options, "probabilities": warped(logits[:1], **options)[0].tolist()} for options in WARPERS],
        }
    write_json(VALUES / "generation.json", {"madeWith": made_with(), "models": models})


main()
