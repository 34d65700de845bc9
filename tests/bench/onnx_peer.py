"""Runs a net for inference in ONNX Runtime or OpenVINO, in float32, or in OpenVINO's bfloat16; see peer.py."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from peer import Arrays, main

#: Layers that are one operator without settings.
SIMPLE = {"ReLU": "Relu", "Sigmoid": "Sigmoid", "TanH": "Tanh", "Eltwise": "Sum"}


def model_of(about: dict[str, Any], params: Arrays) -> bytes:
    """The net as an ONNX model. A Scale on a BatchNorm's top is one operator with it, as exporters write it."""
    nodes, constants = [], {}
    names = {e["name"]: e["name"] for e in about["inputs"]}

    def constant(key: str, array: np.ndarray) -> str:
        constants[key] = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), key)
        return key

    def add(kind: str, inputs: list[str], layer: dict[str, Any], **settings: Any) -> None:
        output = f"{layer['tops'][0]}@{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **settings))
        names[layer["tops"][0]] = output

    layers = about["layers"]
    for at, layer in enumerate(layers):
        kind, o = layer["type"], layer["options"]
        x = [names[b] for b in layer["bottoms"]]
        own = [constant(key, params[key]) for key in layer["params"]]
        if kind == "Convolution":
            add("Conv", [*x, *own], layer, **_window(layer), dilations=layer["window"]["dilation"],
                group=o.get("group", 1))  # fmt: skip
        elif kind == "InnerProduct":
            if len(layer["bottom_shapes"][0]) > 2:
                nodes.append(helper.make_node("Flatten", x, [f"{layer['name']}@flat"], axis=1))
                x = [f"{layer['name']}@flat"]
            add("Gemm", [*x, *own], layer, transB=1)
        elif kind == "Pooling":
            ave = o.get("pool") == "AVE"
            more = {"count_include_pad": int(any(layer["window"]["pad"]))} if ave else {}
            add("AveragePool" if ave else "MaxPool", x, layer, **_window(layer), **more)
        elif kind == "LRN":
            add("LRN", x, layer, size=o.get("local_size", 5), alpha=o.get("alpha", 1.0), beta=o.get("beta", 0.75),
                bias=o.get("k", 1.0))  # fmt: skip
        elif kind == "BatchNorm":
            mean, variance, _ = own
            scale = layers[at + 1]
            if scale["type"] != "Scale" or scale["bottoms"] != layer["tops"]:
                raise SystemExit(f"{layer['name']}: a BatchNorm without Scale")
            factors = [constant(key, params[key]) for key in scale["params"]]
            add("BatchNormalization", [*x, *factors, mean, variance], layer, epsilon=o.get("eps", 1e-5))
        elif kind in ("Scale", "Dropout"):
            names[layer["tops"][0]] = x[0]
        elif kind in ("Concat", "Softmax"):
            add(kind, x, layer, axis=o.get("axis", 1))
        elif kind in SIMPLE and not o:
            add(SIMPLE[kind], x, layer)
        else:
            raise SystemExit(f"{layer['name']}: no operator for {kind} with {o}")
    shapes = {top: shape for layer in layers for top, shape in zip(layer["tops"], layer["top_shapes"], strict=True)}
    inputs = [helper.make_tensor_value_info(e["name"], TensorProto.FLOAT, e["shape"]) for e in about["inputs"]]
    outputs = [helper.make_tensor_value_info(names[o], TensorProto.FLOAT, shapes[o]) for o in about["outputs"]]
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def _window(layer: dict[str, Any]) -> dict[str, Any]:
    """The window with the padding that lets the last one reach over the border, as Caffe's does."""
    w, after = layer["window"], list(layer["window"]["pad"])
    if layer["type"] == "Pooling":
        sizes = zip(layer["bottom_shapes"][0][2:], layer["top_shapes"][0][2:], w["kernel"], w["stride"], strict=True)
        reach = [(out - 1) * stride + kernel - size for size, out, kernel, stride in sizes]
        after = [max(pad, r - pad) for pad, r in zip(w["pad"], reach, strict=True)]
    return {"kernel_shape": w["kernel"], "strides": w["stride"], "pads": [*w["pad"], *after]}


def make(about: dict[str, Any], kind: str, params: Arrays, inputs: Arrays, threads: int) -> Callable[[], Any]:
    model = model_of(about, params)
    if kind == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, inputs)
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if about["bf16"] else "f32"
    compiled = openvino.compile_model(openvino.Core().read_model(model), "CPU", settings)
    request = compiled.create_infer_request()

    def step() -> list[np.ndarray]:
        found = request.infer(inputs, share_inputs=True)
        return [found[k] for k in range(len(about["outputs"]))]

    return step


if __name__ == "__main__":
    main(("onnxruntime", "openvino"), make, version)
