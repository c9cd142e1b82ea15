"""Token ids and vectors of all-MiniLM-L6-v2 by sentence-transformers: values/minilm.json. Its argument is the model's folder."""

import json
import pathlib
import sys

from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
paragraph = (
    "The storm had passed before dawn, and the harbour lay so still that the boats stood on their own reflections. "
    "Nobody spoke of the night; they mended nets, counted what was left, and looked at the sky more often than they needed to. "
)
texts = [
    "A cat sits on the mat.",
    "There is a cat on the rug.",
    "Quarterly revenue fell by 12% against expectations.",
    "x",
    "",
    "   ",
    paragraph * 12,
    paragraph,
    "Über die naïve Señorita, cœur brisé — déjà vu à Ångström!",
    "decomposed: cafe\u0301 and n\u0303o",
    "吾輩は猫である。名前はまだ無い。",
    "I love this 🙂👍🏽 👩‍👩‍👧!!!",
    "Привет, как дела?",
    "code: for (let i = 0; i < 10; i++) { sum += a[i] }",
    "a\tb\nc\u200bd\x07e",
    "[MASK] and [SEP] inside",
]
ids = [model.tokenize([text])["input_ids"][0].tolist() for text in texts]
vectors = model.encode(texts, convert_to_numpy=True)
values = {
    "texts": texts,
    "ids": ids,
    "vectors": [[round(float(x), 6) for x in vector] for vector in vectors],
}
out = pathlib.Path(__file__).parent / "values" / "minilm.json"
out.write_text(json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n")
