"""Strengths of Bradley and Terry by a general optimiser over the likelihood, in float64."""

import torch

from common import VALUES, write_json


def main() -> None:
    generator = torch.Generator().manual_seed(3)
    players = ["a", "b", "c", "d"]
    games = []
    for _ in range(60):
        one, other = torch.randperm(4, generator=generator)[:2].tolist()
        draw = torch.rand(1, generator=generator).item()
        winner = "tie" if draw < 0.15 else "a" if draw < 0.5 + 0.12 * (other - one) else "b"
        games.append({"a": players[one], "b": players[other], "winner": winner})
    strength = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([strength], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for game in games:
            share = {"a": 1.0, "b": 0.0, "tie": 0.5}[game["winner"]]
            difference = strength[players.index(game["a"])] - strength[players.index(game["b"])]
            total = total - share * torch.nn.functional.logsigmoid(difference) - (1 - share) * torch.nn.functional.logsigmoid(-difference)
        total.backward()
        return total

    optimizer.step(loss)
    fitted = (strength - strength.mean()).tolist()
    write_json(VALUES / "bradley-terry" / "values.json", {"games": games, "strengths": dict(zip(players, fitted))})


main()
