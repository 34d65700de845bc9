"""A net's description in PyTorch. Needs nothing but PyTorch: ``lossc time --compare torch`` runs it by its path.

    python torch_net.py DESCRIPTION.json KIND --threads N --iterations N

KIND: "eager" or "channels-last". Prints JSON, in seconds: those of each iteration as a user would run it, then means of
iterations that also take the time of each layer. A layer's backward lasts until that of the next one begins.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Iterations before the first that counts.
_WARM = 2


class Unsupported(Exception):
    """A layer that has no counterpart here."""


class LayerClock:
    """Sums of seconds by layer."""

    def __init__(self) -> None:
        self.forward: dict[str, float] = {}
        self.backward: dict[str, float] = {}
        self._layer, self._since = "", 0.0

    def run(self, name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = call()
        self.forward[name] = self.forward.get(name, 0.0) + time.perf_counter() - start
        return value

    def watch(self, name: str, values: tuple[Any, ...], before: list[Any]) -> None:
        """The layer's backward begins where the gradient of a top is there; tops that are bottoms (``before``: what
        the bottoms came from) do not count."""
        for value in values:
            if value.requires_grad and all(value.grad_fn is not other for other in before):
                value.register_hook(lambda _: self.lap(name))

    def lap(self, name: str) -> None:
        """What was running ends, and the layer's backward begins; "" ends the pass."""
        now = time.perf_counter()
        if self._layer:
            self.backward[self._layer] = self.backward.get(self._layer, 0.0) + now - self._since
        self._layer, self._since = name, now


class TorchNet(nn.Module):
    """The layers of a description, in Caffe's order; a Scale on a BatchNorm's top is one with it, as users write it."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__()
        self.layers, self.outputs = about["layers"], about["outputs"]
        self.weights = nn.ParameterDict()
        self.scales = {}
        for layer in self.layers:
            if layer["type"] == "BatchNorm":
                channels = layer["param_shapes"][0][0]
                self.register_buffer(f"mean_{self.key(layer['name'])}", torch.zeros(channels))
                self.register_buffer(f"variance_{self.key(layer['name'])}", torch.ones(channels))
                continue
            for key, shape in zip(layer["params"], layer["param_shapes"], strict=True):
                fan = max(torch.Size(shape[1:]).numel(), 1)
                start = torch.ones(shape) if layer["type"] == "Scale" else torch.randn(shape) / fan**0.5
                self.weights[self.key(key)] = nn.Parameter(start if key.endswith("_0") else torch.zeros(shape))
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            pair = (before["type"], after["type"]) == ("BatchNorm", "Scale")
            if pair and before["tops"] == after["bottoms"]:
                self.scales[before["name"]] = after

    @staticmethod
    def key(name: str) -> str:
        """A name that PyTorch takes for a parameter."""
        return name.replace(".", "_").replace("/", "_")

    def _params(self, layer: dict[str, Any]) -> list[Tensor | None]:
        found = [self.weights[self.key(key)] for key in layer["params"]]
        return [*found, *[None] * (2 - len(found))]

    def forward(self, inputs: dict[str, Tensor], clock: LayerClock | None = None) -> Tensor | list[Tensor]:
        """The total loss; the outputs where there is none."""
        blobs, loss = dict(inputs), None
        joined = {scale["name"] for scale in self.scales.values()}
        for layer in self.layers:
            bottoms = [blobs[b] for b in layer["bottoms"]]
            if layer["name"] in joined:
                blobs[layer["tops"][0]] = bottoms[0]
                continue
            if clock is None:
                value = self._layer(layer, bottoms)
            else:
                before = [b.grad_fn for b in bottoms]
                value = clock.run(layer["name"], lambda: self._layer(layer, bottoms))  # noqa: B023
                clock.watch(layer["name"], value if isinstance(value, tuple) else (value,), before)
            if layer["type"].endswith("Loss"):
                loss = value if loss is None else loss + value
            blobs.update(zip(layer["tops"], value if isinstance(value, tuple) else (value,), strict=False))
        return [blobs[name] for name in self.outputs] if loss is None else loss

    def _layer(self, layer: dict[str, Any], x: list[Tensor]) -> Any:
        kind, o, window = layer["type"], layer["options"], layer["window"]
        _check(layer)
        if kind == "Convolution":
            w, b = self._params(layer)
            return F.conv2d(x[0], w, b, window["stride"], window["pad"], window["dilation"], o.get("group", 1))
        if kind == "InnerProduct":
            w, b = self._params(layer)
            return F.linear(x[0].flatten(1), w, b)
        if kind == "Pooling":
            pool = F.avg_pool2d if o.get("pool") == "AVE" else F.max_pool2d
            ceil = o.get("round_mode") != "FLOOR"
            return pool(x[0], window["kernel"], window["stride"], window["pad"], ceil_mode=ceil)
        if kind == "BatchNorm":
            w, b = self._params(self.scales[layer["name"]]) if layer["name"] in self.scales else (None, None)
            name = self.key(layer["name"])
            mean, variance = getattr(self, f"mean_{name}"), getattr(self, f"variance_{name}")
            of_batch = not o.get("use_global_stats", not self.training)
            return F.batch_norm(x[0], mean, variance, w, b, of_batch, 0.001, o.get("eps", 1e-5))
        if kind == "LRN":
            size, alpha, beta = o.get("local_size", 5), o.get("alpha", 1.0), o.get("beta", 0.75)
            return F.local_response_norm(x[0], size, alpha, beta, o.get("k", 1.0))
        if kind == "Dropout":
            return F.dropout(x[0], o.get("dropout_ratio", 0.5), self.training)
        if kind.endswith("Loss"):
            return _loss(kind, o, x) * layer["weight"]
        simple: dict[str, Callable[[], Any]] = {
            "AbsVal": lambda: x[0].abs(),
            "Accuracy": lambda: (x[0].detach().argmax(1) == x[1]).float().mean(),
            "BNLL": lambda: F.softplus(x[0]),
            "Concat": lambda: torch.cat(x, o.get("axis", 1)),
            "ELU": lambda: F.elu(x[0], o.get("alpha", 1.0)),
            "Eltwise": lambda: reduce(_ELTWISE[o.get("operation", "SUM")], x),
            "Flatten": lambda: x[0].flatten(1),
            "ReLU": lambda: F.leaky_relu(x[0], slope) if (slope := o.get("negative_slope")) else F.relu(x[0], True),
            "Sigmoid": lambda: torch.sigmoid(x[0]),
            "Slice": lambda: x[0].split([s[o.get("axis", 1)] for s in layer["top_shapes"]], o.get("axis", 1)),
            "Softmax": lambda: torch.softmax(x[0], o.get("axis", 1)),
            "TanH": lambda: torch.tanh(x[0]),
        }
        if kind not in simple:
            raise Unsupported(f'layer "{layer["name"]}": {kind} has no counterpart in the PyTorch net')
        return simple[kind]()


_ELTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": lambda a, b: a + b, "PROD": lambda a, b: a * b, "MAX": torch.maximum,
}  # fmt: skip
#: Settings under which a layer would compute something else than what is built here.
_OTHER = ("lossc_param", "coeff", "norm_region", "transpose", "ignore_label", "normalization")


def _check(layer: dict[str, Any]) -> None:
    found = [name for name in _OTHER if name in layer["options"]]
    if found:
        raise Unsupported(f'layer "{layer["name"]}": {found[0]} has no counterpart in the PyTorch net')


def _loss(kind: str, o: dict[str, Any], x: list[Tensor]) -> Tensor:
    count = x[0].shape[0]
    if kind == "SoftmaxWithLoss":
        return F.cross_entropy(x[0], x[1].long().reshape(count, *x[0].shape[2:]))
    if kind == "EuclideanLoss":
        return ((x[0] - x[1]) ** 2).sum() / (2 * count)
    if kind == "SigmoidCrossEntropyLoss":
        return F.binary_cross_entropy_with_logits(x[0], x[1], reduction="sum") / count
    if kind == "ContrastiveLoss":
        squares = ((x[0] - x[1]) ** 2).sum(1)
        far = torch.clamp(o.get("margin", 1.0) - torch.sqrt(squares + 1e-12), min=0) ** 2
        return (x[2] * squares + (1 - x[2]) * far).sum() / (2 * count)
    raise Unsupported(f"{kind} has no counterpart in the PyTorch net")


def inputs_of(about: dict[str, Any]) -> dict[str, Tensor]:
    return {e["name"]: torch.randn(e["shape"]) if e["noise"] else torch.zeros(e["shape"]) for e in about["inputs"]}


def step_of(about: dict[str, Any], kind: str, net: TorchNet, inputs: dict[str, Tensor],
            clock: LayerClock | None = None) -> Callable[[], Any]:
    """What runs one iteration (forward, and where there is a loss backward, and the update of a solver); it returns
    the loss, or the outputs. ``kind``: "eager", "channels-last" or "compile"."""
    net.train(about["training"])
    if kind == "channels-last":
        net = net.to(memory_format=torch.channels_last)
        inputs = {k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in inputs.items()}
    forward: Callable[..., Any] = torch.compile(net) if kind == "compile" else net
    if not about["backward"]:
        return torch.inference_mode()(lambda: forward(inputs, clock))
    optimiser = _optimiser(about["solver"], net) if about["solver"] else None

    def step() -> Any:
        net.zero_grad(set_to_none=True)
        loss = forward(inputs, clock)
        loss.backward()
        if clock is not None:
            clock.lap("")
        if optimiser is not None:
            optimiser.step()
        return loss

    return step


def _optimiser(solver: dict[str, float], net: TorchNet) -> torch.optim.Optimizer:
    """SGD; biases learn twice as fast and without decay, as in most nets of Caffe's."""
    biases = [p for name, p in net.named_parameters() if name.endswith("_1")]
    others = [p for name, p in net.named_parameters() if not name.endswith("_1")]
    groups = [
        {"params": others, "weight_decay": solver["decay"]},
        {"params": biases, "lr": 2 * solver["rate"]},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=solver["rate"], momentum=solver["momentum"], fused=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("description")
    parser.add_argument("kind", choices=("eager", "channels-last"))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    with open(args.description, encoding="utf-8") as file:
        about = json.load(file)
    net, inputs = TorchNet(about), inputs_of(about)
    try:
        step = step_of(about, args.kind, net, inputs)
        for _ in range(_WARM):
            step()
    except Unsupported as error:
        raise SystemExit(str(error)) from None
    times = []
    for _ in range(args.iterations):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    clock = LayerClock()
    step = step_of(about, args.kind, net, inputs, clock)
    step()
    clock.forward.clear()
    clock.backward.clear()
    for _ in range(args.iterations):
        step()
    layers = [
        {"name": name, "forward": clock.forward.get(name, 0.0) / args.iterations,
         "backward": clock.backward.get(name, 0.0) / args.iterations}
        for name in (layer["name"] for layer in about["layers"])
    ]  # fmt: skip
    print(json.dumps({"version": torch.__version__, "iterations": times, "layers": layers}))


if __name__ == "__main__":
    main()
