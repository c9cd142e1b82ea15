"""BLEU and chrF by sacreBLEU, ROUGE by Google's rouge-score, of random texts: values/text-metrics.json."""

import json
import pathlib
import random

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

random.seed(7)
WORDS = (
    "the a cat dog sat on mat, house. (red) 3,000 3.5% don't U.S. well-known \"yes\" &amp; &quot;no&quot; x-ray "
    "größer Straße ein Hund. — … “quoted” €5 naïve 東京 です。 猫 café! why? 1-2 a/b e.g. 🙂 👩‍🚀 İstanbul ΣΑΣ <skipped> @home"
).split(" ")


def sentence(length):
    return " ".join(random.choice(WORDS) for _ in range(length))


def changed(text):
    words = [w for w in text.split(" ") if random.random() > 0.15]
    if words and random.random() < 0.5:
        words[random.randrange(len(words))] = random.choice(WORDS)
    if random.random() < 0.3:
        random.shuffle(words)
    return " ".join(words)


def corpus(rows, references, shortest, longest):
    wanted = [[sentence(random.randint(shortest, longest)) for _ in range(rows)] for _ in range(references)]
    said = [changed(random.choice(wanted)[i]) for i in range(rows)]
    if rows > 3:
        said[0] = ""
        said[1] = said[1] + "  \u00a0\u2028 "
    return said, wanted


cases = []
for rows, references, shortest, longest in [
    (12, 1, 3, 30), (8, 3, 2, 20), (1, 1, 5, 12), (1, 1, 2, 3), (5, 1, 1, 2), (1, 2, 6, 9), (20, 1, 10, 25), (4, 2, 1, 40),
]:
    said, wanted = corpus(rows, references, shortest, longest)
    case = {"said": said, "wanted": wanted, "bleu": [], "chrf": []}
    for options in [
        {}, {"tokenize": "intl"}, {"tokenize": "char"}, {"tokenize": "none"}, {"lowercase": True},
        {"effective_order": True}, {"smooth_method": "none"},
    ]:
        metric = BLEU(**options)
        score = metric.corpus_score(said, wanted)
        case["bleu"].append({
            "options": options, "score": score.score, "precisions": score.precisions, "bp": score.bp,
            "sys_len": score.sys_len, "ref_len": score.ref_len,
            "signature": str(metric.get_signature()).split("|version")[0],
        })
    for options in [{}, {"word_order": 2}, {"lowercase": True, "beta": 3, "char_order": 4}]:
        metric = CHRF(**options)
        score = metric.corpus_score(said, wanted)
        case["chrf"].append({
            "options": options, "score": score.score, "name": score.name,
            "signature": str(metric.get_signature()).split("|version")[0],
        })
    cases.append(case)

scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
pairs = []
for _ in range(60):
    wanted = "\n".join(sentence(random.randint(0, 12)) for _ in range(random.randint(1, 4)))
    said = "\n".join(changed(line) for line in wanted.split("\n")) if random.random() < 0.9 else sentence(4)
    if random.random() < 0.05:
        said = ""
    scores = scorer.score(wanted, said)
    pairs.append({"said": said, "wanted": wanted, "scores": {k: [v.precision, v.recall, v.fmeasure] for k, v in scores.items()}})

out = pathlib.Path(__file__).parent / "values" / "text-metrics.json"
out.write_text(json.dumps({"cases": cases, "pairs": pairs}, ensure_ascii=False) + "\n")
