"""Runs a net's description in PyTorch; needs nothing but PyTorch. bench_nets.py writes descriptions and starts this.

    python torch_net.py DESCRIPTION.json PEER --threads N --seconds S

PEER: "eager", "channels-last" or "compile". Prints JSON: milliseconds of single iterations (or of forward passes, where
the description says that it is for inference): median and minimum.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from clock import measure
from torch import Tensor, nn

#: A low rate: on one batch that never changes, a net must not learn so well that its gradients become denormal.
RATE = 1e-5


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
                self.register_buffer(f"mean_{self._name(layer['name'])}", torch.zeros(channels))
                self.register_buffer(f"variance_{self._name(layer['name'])}", torch.ones(channels))
                continue
            for key, shape in zip(layer["params"], layer["param_shapes"], strict=True):
                fan = max(torch.Size(shape[1:]).numel(), 1)
                start = torch.ones(shape) if layer["type"] == "Scale" else torch.randn(shape) / fan**0.5
                self.weights[self._name(key)] = nn.Parameter(start if key.endswith("_0") else torch.zeros(shape))
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if (before["type"], after["type"]) == ("BatchNorm", "Scale") and before["tops"] == after["bottoms"]:
                self.scales[before["name"]] = after

    @staticmethod
    def _name(key: str) -> str:
        return key.replace(".", "_").replace("/", "_")

    def _params(self, layer: dict[str, Any]) -> list[Tensor | None]:
        found = [self.weights[self._name(key)] for key in layer["params"]]
        return [*found, *[None] * (2 - len(found))]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        blobs, loss = dict(inputs), None
        joined = {scale["name"] for scale in self.scales.values()}
        for layer in self.layers:
            if layer["name"] in joined:
                blobs[layer["tops"][0]] = blobs[layer["bottoms"][0]]
                continue
            value = self._layer(layer, [blobs[b] for b in layer["bottoms"]])
            if layer["type"].endswith("Loss"):
                value = value * layer["weight"]
                loss = value if loss is None else loss + value
            blobs.update(zip(layer["tops"], value if isinstance(value, tuple) else (value,), strict=False))
        return blobs[self.outputs[0]] if loss is None else loss

    def _layer(self, layer: dict[str, Any], x: list[Tensor]) -> Any:
        kind, o = layer["type"], layer["options"]
        if kind == "Convolution":
            w, b = self._params(layer)
            geometry = _one(o, "stride", 1), _one(o, "pad", 0), _one(o, "dilation", 1)
            return F.conv2d(x[0], w, b, *geometry, o.get("group", 1))
        if kind == "InnerProduct":
            w, b = self._params(layer)
            return F.linear(x[0].flatten(1), w, b)
        if kind == "Pooling":
            size = x[0].shape[2] if o.get("global_pooling") else o["kernel_size"]
            pool = F.avg_pool2d if o.get("pool") == "AVE" else F.max_pool2d
            return pool(x[0], size, o.get("stride", 1), o.get("pad", 0), ceil_mode=True)
        if kind == "BatchNorm":
            w, b = self._params(self.scales[layer["name"]]) if layer["name"] in self.scales else (None, None)
            name = self._name(layer["name"])
            mean, variance = getattr(self, f"mean_{name}"), getattr(self, f"variance_{name}")
            return F.batch_norm(x[0], mean, variance, w, b, self.training, 0.001, o.get("eps", 1e-5))
        if kind == "LRN":
            return F.local_response_norm(x[0], o.get("local_size", 5), o.get("alpha", 1.0), o.get("beta", 0.75), 1.0)
        if kind == "Dropout":
            return F.dropout(x[0], o.get("dropout_ratio", 0.5), self.training)
        if kind == "ContrastiveLoss":
            squares = ((x[0] - x[1]) ** 2).sum(1)
            far = torch.clamp(o.get("margin", 1.0) - torch.sqrt(squares + 1e-12), min=0) ** 2
            return (x[2] * squares + (1 - x[2]) * far).sum() / (2 * x[0].shape[0])
        simple: dict[str, Callable[[], Any]] = {
            "ReLU": lambda: F.relu(x[0], inplace=True),
            "Sigmoid": lambda: torch.sigmoid(x[0]),
            "Softmax": lambda: torch.softmax(x[0], 1),
            "Concat": lambda: torch.cat(x, 1),
            "Eltwise": lambda: x[0] + x[1],
            "Slice": lambda: x[0].chunk(len(layer["tops"]), 1),
            "SoftmaxWithLoss": lambda: F.cross_entropy(x[0], x[1].long()),
            "EuclideanLoss": lambda: ((x[0] - x[1]) ** 2).sum() / (2 * x[0].shape[0]),
            "SigmoidCrossEntropyLoss": lambda: F.binary_cross_entropy_with_logits(x[0], x[1], reduction="sum")
            / x[0].shape[0],
        }
        return simple[kind]()


def _one(options: dict[str, Any], name: str, default: int) -> int:
    value = options.get(name, default)
    return int(value[0]) if isinstance(value, list) else int(value)


def step_of(about: dict[str, Any], peer: str) -> Callable[[], object]:
    torch.manual_seed(1)
    net: nn.Module = TorchNet(about)
    inputs = {e["name"]: torch.randn(e["shape"]) if e["noise"] else torch.zeros(e["shape"]) for e in about["inputs"]}
    if peer == "channels-last":
        net = net.to(memory_format=torch.channels_last)
        inputs = {k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in inputs.items()}
    if about["inference"]:
        net.eval()
    weights = [p for name, p in net.named_parameters() if not name.endswith("_1")]
    biases = [p for name, p in net.named_parameters() if name.endswith("_1")]
    forward = torch.compile(net) if peer == "compile" else net
    if about["inference"]:
        return lambda: _inference(forward, inputs)
    groups = [{"params": weights, "weight_decay": 0.0005}, {"params": biases, "lr": 2 * RATE}]
    optimiser = torch.optim.SGD(groups, lr=RATE, momentum=0.9, fused=True)

    def step() -> object:
        optimiser.zero_grad(set_to_none=True)
        loss = forward(inputs)
        loss.backward()
        optimiser.step()
        return loss

    return step


@torch.inference_mode()
def _inference(forward: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
    return forward(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("description")
    parser.add_argument("peer", choices=("eager", "channels-last", "compile"))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with open(args.description, encoding="utf-8") as file:
        about = json.load(file)
    times = measure(step_of(about, args.peer), args.seconds, warm=2, least=3)
    print(json.dumps({**times, "version": torch.__version__}))


if __name__ == "__main__":
    main()
