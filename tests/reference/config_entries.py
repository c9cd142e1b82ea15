"""
The entries that transformers writes into the config.json of each system: those of its configuration class, with the values
that it has by default. Run once with each of the versions that count:

    python config_entries.py            # 4.57.6, as in requirements.txt
    python config_entries.py            # 5.24.0: pip install --target DIR transformers==5.24.0, PYTHONPATH=DIR
"""

import json

import transformers
from transformers import AutoConfig

from common import VALUES

TYPES = ["albert", "bert", "deberta", "deberta-v2", "electra", "roberta", "xlm", "xlnet"]
TYPES += ["gpt2", "gpt_neo", "llama", "mistral", "openai-gpt", "qwen2"]
TYPES += ["bart", "marian", "mbart", "mt5", "t5"]


def entries(model_type: str) -> dict:
    config = AutoConfig.for_model(model_type)
    # Private ones are of the process, and are not written.
    return {name: value for name, value in sorted(config.to_dict().items()) if not name.startswith("_")}


def main() -> None:
    version = transformers.__version__
    path = VALUES / f"config-entries-{version.split('.')[0]}.json"
    path.write_text(json.dumps({"transformers": version, "entries": {t: entries(t) for t in TYPES}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
