"""Trains a net in JAX, jitted as one function, images as NHWC, which XLA's convolutions want; see peer.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from peer import Arrays, main

Blobs = dict[str, Any]


def make(about: dict[str, Any], kind: str, params: Arrays, inputs: Arrays, threads: int) -> Callable[[], Any]:
    state = {}
    for layer in about["layers"]:
        if layer["type"] != "BatchNorm":
            state |= {key: jnp.asarray(_weights(layer, params[key])) for key in layer["params"]}
    blobs = {name: jnp.asarray(a.transpose(0, 2, 3, 1) if a.ndim == 4 else a) for name, a in inputs.items()}
    rate, momentum, decay = (about["solver"][name] for name in ("rate", "momentum", "decay"))

    def update(state: Blobs, history: Blobs, key: Any) -> Any:
        key, drawn = jax.random.split(key)
        loss, gradients = jax.value_and_grad(lambda state: _loss_of(about, state, blobs, drawn))(state)
        for name in state:
            bias = name.endswith("_1")
            step = gradients[name] if bias else gradients[name] + decay * state[name]
            history = {**history, name: momentum * history[name] + (2 * rate if bias else rate) * step}
        return {name: state[name] - history[name] for name in state}, history, key, loss

    run = jax.jit(update, donate_argnums=(0, 1))
    now: list[Any] = [state, {name: jnp.zeros_like(a) for name, a in state.items()}, jax.random.key(1)]

    def step() -> Any:
        *now[:], loss = run(*now)
        return np.asarray(jax.block_until_ready(loss))

    return step


def _weights(layer: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """As NHWC wants them: kernels HWIO; those of a product on an image with its columns in the image's new order."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    shape = layer["bottom_shapes"][0]
    if array.ndim == 2 and len(shape) == 4:
        return array.reshape(-1, *shape[1:]).transpose(0, 2, 3, 1).reshape(array.shape)
    return array


def _loss_of(about: dict[str, Any], state: Blobs, inputs: Blobs, key: Any) -> Any:
    blobs, total = dict(inputs), 0.0
    for at, layer in enumerate(about["layers"]):
        x = [blobs[b] for b in layer["bottoms"]]
        own = [state.get(name) for name in layer["params"]]
        if layer["type"].endswith("Loss"):
            total = total + layer["weight"] * LOSSES[layer["type"]](layer["options"], x)
            continue
        tops = LAYERS[layer["type"]](layer, x, own, jax.random.fold_in(key, at))
        blobs.update(zip(layer["tops"], tops if isinstance(tops, list) else [tops], strict=True))
    return total


def _convolution(layer: dict[str, Any], x: Any, own: Any, key: Any) -> Any:
    w = layer["window"]
    y = lax.conv_general_dilated(
        x[0], own[0], w["stride"], [(p, p) for p in w["pad"]], rhs_dilation=w["dilation"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=layer["options"].get("group", 1),
    )  # fmt: skip
    return y + own[1] if len(own) > 1 else y


def _product(layer: dict[str, Any], x: Any, own: Any, key: Any) -> Any:
    y = x[0].reshape(x[0].shape[0], -1) @ own[0].T
    return y + own[1] if len(own) > 1 else y


def _pooling(layer: dict[str, Any], x: Any, own: Any, key: Any) -> Any:
    """Windows reach over the border where Caffe's do; its means are over the image and the padding on both sides."""
    w = layer["window"]
    size, strides = (1, *w["kernel"], 1), (1, *w["stride"], 1)
    sides, areas = [(0, 0)], np.ones((1, 1))
    for extent, out, k, s, pad in zip(
        layer["bottom_shapes"][0][2:], layer["top_shapes"][0][2:], w["kernel"], w["stride"], w["pad"], strict=True
    ):
        starts = np.arange(out) * s - pad
        sides.append((pad, max(pad, (out - 1) * s + k - extent - pad)))
        areas = areas[..., None] * (np.minimum(starts + k, extent + pad) - starts)
    sides.append((0, 0))
    if layer["options"].get("pool") != "AVE":
        return lax.reduce_window(x[0], -jnp.inf, lax.max, size, strides, sides)
    return lax.reduce_window(x[0], 0.0, lax.add, size, strides, sides) / areas.reshape(1, *areas.shape[2:], 1)


def _lrn(layer: dict[str, Any], x: Any, own: Any, key: Any) -> Any:
    o = layer["options"]
    size = o.get("local_size", 5)
    sides = [(0, 0), (0, 0), (0, 0), (size // 2, size // 2)]
    squares = lax.reduce_window(x[0] * x[0], 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), sides)
    return x[0] * (o.get("k", 1.0) + o.get("alpha", 1.0) / size * squares) ** -o.get("beta", 0.75)


def _batch_norm(layer: dict[str, Any], x: Any, own: Any, key: Any) -> Any:
    mean, variance = x[0].mean((0, 1, 2)), x[0].var((0, 1, 2))
    return (x[0] - mean) * lax.rsqrt(variance + layer["options"].get("eps", 1e-5))


def _dropout(layer: dict[str, Any], x: Any, own: Any, key: Any) -> Any:
    kept = 1 - layer["options"].get("dropout_ratio", 0.5)
    return jnp.where(jax.random.bernoulli(key, kept, x[0].shape), x[0] / kept, 0)


LAYERS: dict[str, Callable[..., Any]] = {
    "Convolution": _convolution,
    "InnerProduct": _product,
    "Pooling": _pooling,
    "LRN": _lrn,
    "BatchNorm": _batch_norm,
    "Scale": lambda layer, x, own, key: x[0] * own[0] + own[1],
    "Dropout": _dropout,
    "ReLU": lambda layer, x, own, key: jnp.maximum(x[0], 0),
    "Sigmoid": lambda layer, x, own, key: jax.nn.sigmoid(x[0]),
    "Concat": lambda layer, x, own, key: jnp.concatenate(x, -1),
    "Eltwise": lambda layer, x, own, key: x[0] + x[1],
    "Slice": lambda layer, x, own, key: jnp.split(x[0], len(layer["tops"]), -1),
}


def _softmax(o: Blobs, x: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(x[0]), x[1].astype(int).reshape(-1, 1), 1).mean()


def _cross_entropy(o: Blobs, x: Any) -> Any:
    each = jnp.maximum(x[0], 0) - x[0] * x[1] + jnp.log1p(jnp.exp(-jnp.abs(x[0])))
    return each.sum() / x[0].shape[0]


def _contrastive(o: Blobs, x: Any) -> Any:
    squares = ((x[0] - x[1]) ** 2).sum(1)
    far = jnp.maximum(o.get("margin", 1.0) - jnp.sqrt(squares + 1e-12), 0) ** 2
    return (x[2] * squares + (1 - x[2]) * far).sum() / (2 * x[0].shape[0])


LOSSES: dict[str, Callable[..., Any]] = {
    "SoftmaxWithLoss": _softmax,
    "EuclideanLoss": lambda o, x: ((x[0] - x[1]) ** 2).sum() / (2 * x[0].shape[0]),
    "SigmoidCrossEntropyLoss": _cross_entropy,
    "ContrastiveLoss": _contrastive,
}


if __name__ == "__main__":
    main(("jax",), make, lambda kind: jax.__version__)
