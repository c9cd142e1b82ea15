"""States of the real all-MiniLM-L6-v2 in Hugging Face transformers: python minilm.py FOLDER."""

import sys

import torch
from transformers import BertModel

from common import VALUES, deterministic, write_safetensors


def main() -> None:
    deterministic()
    torch.manual_seed(15)
    model = BertModel.from_pretrained(sys.argv[1], attn_implementation="eager").eval()
    lengths = torch.tensor([14, 9, 3])
    mask = (torch.arange(14)[None] < lengths[:, None]).long()
    ids = torch.randint(1000, 30000, (3, 14)) * mask
    with torch.no_grad():
        out = model(ids, attention_mask=mask)
    write_safetensors(VALUES / "minilm.safetensors", {
        "inputs/input_ids": ids, "inputs/attention_mask": mask,
        "outputs/hidden": out.last_hidden_state, "outputs/pooled": out.pooler_output,
    })


main()
