"""
The parametric law of Hoffmann et al. 2022, appendix D.2, fitted with scipy's L-BFGS-B to noisy losses of a known law: the
losses, and the minimum that scipy finds from a part of the paper's grid of starts.
"""

import itertools

import numpy
import scipy
from scipy.optimize import minimize
from scipy.special import logsumexp

from common import VALUES, made_with, write_json

DELTA = 1e-3


def main() -> None:
    generator = numpy.random.default_rng(5)
    n, d = (grid.ravel() for grid in numpy.meshgrid(numpy.geomspace(1e6, 3e8, 6), numpy.geomspace(1e8, 1e10, 5)))
    loss = (1.7 + 406.4 / n**0.34 + 410.7 / d**0.28) * numpy.exp(generator.normal(0, 0.004, n.shape))
    log_n, log_d, log_loss = numpy.log(n), numpy.log(d), numpy.log(loss)

    def objective(x: numpy.ndarray) -> float:
        a, b, e, alpha, beta = x
        terms = numpy.stack([a - alpha * log_n, b - beta * log_d, numpy.full_like(log_n, e)])
        error = numpy.abs(logsumexp(terms, axis=0) - log_loss)
        huber = numpy.where(error <= DELTA, error**2 / 2, DELTA * (error - DELTA / 2))
        return huber.mean() / DELTA

    grid = itertools.product((0, 10), (0, 10), (0, 0.5), (0.5,), (0.5,))
    found = []
    for start in grid:
        result = minimize(objective, start, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-9})
        found.append(result)
    # Once more with a search that needs no derivative: numerical ones stop L-BFGS-B a little early.
    best = min(found, key=lambda result: result.fun)
    best = minimize(objective, best.x, method="Nelder-Mead", options={"maxiter": 20000, "maxfev": 20000, "xatol": 1e-10, "fatol": 1e-15})
    a, b, e, alpha, beta = best.x
    write_json(
        VALUES / "scaling" / "values.json",
        {
            "madeWith": {**made_with(), "scipy": scipy.__version__},
            "runs": [{"parameters": p, "tokens": t, "loss": l} for p, t, l in zip(n.tolist(), d.tolist(), loss.tolist())],
            "delta": DELTA,
            "residual": float(best.fun * DELTA),
            "E": float(numpy.exp(e)), "A": float(numpy.exp(a)), "B": float(numpy.exp(b)), "alpha": float(alpha), "beta": float(beta),
        },
    )


main()
