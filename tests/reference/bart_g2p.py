"""
What transformers writes, greedily, for the 1,000 words of a real BART that spells English in phonemes (needs ../shared/data), and its
published rates: words that are exact, and edits over the ids of the references, the start and both marks of a text counted in.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import BartConfig, BartForConditionalGeneration

from common import VALUES, made_with, write_json

DATA = Path(__file__).parents[3] / "shared" / "data" / "bart_g2p"


def edits(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def main() -> None:
    published = json.loads((DATA / "published_config.json").read_text())
    model = BartForConditionalGeneration(BartConfig(**published)).eval()
    missing, unexpected = model.load_state_dict(load_file(DATA / "model.safetensors"), strict=False)
    # Copies of the shared embeddings alone.
    assert set(missing) <= {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"}
    assert not unexpected
    letters = {letter: index for index, letter in enumerate(published["grapheme_chars"])}
    phonemes = published["phoneme_chars"]
    rows = [line.split("\t") for line in (DATA / "cmudict_ref_1000.tsv").read_text().splitlines()]
    written = []
    for word, _ in rows:
        ids = [1, *(letters.get(letter, 3) for letter in word), 2]
        out = model.generate(torch.tensor([ids]), do_sample=False, num_beams=1)[0].tolist()
        assert out[:2] == [1, 1] and out[-1] == 2
        written.append("".join(phonemes[index] for index in out[2:-1]))
    total = sum(edits(text, reference) for text, (_, reference) in zip(written, rows))
    write_json(
        VALUES / "bart-g2p.json",
        {
            "madeWith": made_with(),
            "exact": sum(text == reference for text, (_, reference) in zip(written, rows)) / len(rows),
            "errorRate": total / sum(len(reference) + 3 for _, reference in rows),
            "written": written,
        },
    )


main()
