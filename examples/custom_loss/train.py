"""Trains the three nets on made-up data: python train.py"""

from pathlib import Path

import numpy as np

import lossc

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)


def line_with_outliers() -> dict[str, np.ndarray]:
    x = RNG.standard_normal((64, 3))
    y = x @ [[1.0], [-2.0], [0.5]]
    y[RNG.random(64) < 0.1] += 20
    return {"x": x, "y": y}


def points_around_two_centres() -> dict[str, np.ndarray]:
    centres = np.eye(16)[:2] * 2
    of = RNG.integers(0, 2, 64)
    noise = RNG.standard_normal((3, 64, 16))
    return {"a": centres[of] + noise[0], "p": centres[of] + noise[1], "n": centres[1 - of] + noise[2]}


def a_label_and_a_place() -> dict[str, np.ndarray]:
    x = RNG.standard_normal((64, 8))
    return {"x": x, "label": (x[:, 0] > 0) * 2 + (x[:, 1] > 0), "target": x[:, 2:4] * 3 + RNG.standard_normal((64, 2))}


def train(name: str, batch, steps: int = 400, rate: float = 0.05) -> tuple[float, float]:
    """Plain gradient descent; returns the mean loss of the first and of the last 20 steps."""
    net = lossc.Net(HERE / f"{name}.prototxt", lossc.TRAIN, layers=HERE / "losses.py")
    losses = []
    for _ in range(steps):
        net.clear_param_diffs()
        losses.append(net.forward_backward(**batch()))
        for layer in net.manifest["params"]:
            blob = net.params[layer["layer"]][layer["index"]]
            blob.data[...] -= rate * blob.diff
    return float(np.mean(losses[:20])), float(np.mean(losses[-20:]))


if __name__ == "__main__":
    for name, batch in (
        ("huber", line_with_outliers),
        ("triplet", points_around_two_centres),
        ("multi_task", a_label_and_a_place),
    ):
        first, last = train(name, batch)
        print(f"{name}: loss {first:.3f} at first, {last:.3f} at last")
