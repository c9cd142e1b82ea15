"""Scores of random predictions by scikit-learn and scipy: values/metrics.json."""

import json
import pathlib

import numpy
from scipy import stats
from sklearn import metrics

random = numpy.random.default_rng(3)


def classes(count, rows, agreement):
    truth = random.integers(0, count, rows)
    predictions = numpy.where(random.random(rows) < agreement, truth, random.integers(0, count, rows))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predictions, labels=range(count), zero_division=0
    )
    return {
        "count": count,
        "truth": truth.tolist(),
        "predictions": predictions.tolist(),
        "accuracy": metrics.accuracy_score(truth, predictions),
        "macroF1": metrics.f1_score(truth, predictions, average="macro"),
        "microF1": metrics.f1_score(truth, predictions, average="micro"),
        "matthews": metrics.matthews_corrcoef(truth, predictions),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": support.tolist(),
        "confusion": metrics.confusion_matrix(truth, predictions, labels=range(count)).tolist(),
    }


def numbers(rows):
    truth = random.integers(0, 10, rows) / 2  # with ties
    predictions = truth + random.normal(0, 1.5, rows).round(1)
    return {
        "truth": truth.tolist(),
        "predictions": predictions.tolist(),
        "pearson": stats.pearsonr(truth, predictions).statistic,
        "spearman": stats.spearmanr(truth, predictions).statistic,
        "rootMeanSquaredError": metrics.root_mean_squared_error(truth, predictions),
    }


values = {
    "classes": [classes(2, 60, 0.7), classes(5, 80, 0.4), classes(6, 9, 0.2)],
    "numbers": [numbers(40), numbers(7)],
}
out = pathlib.Path(__file__).parent / "values" / "metrics.json"
out.write_text(json.dumps(values) + "\n")
