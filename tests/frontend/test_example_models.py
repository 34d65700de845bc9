"""The nets in examples/models become graphs in both phases and for deployment; ResNet-50's normalisation is folded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lossc.frontend.net import read_net
from lossc.ir import Conv, Graph, Map
from lossc.pipeline import Request, build_graph

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
PARAMETERS = {
    "alexnet": 60_965_224,
    "cifar10_quick": 145_578,
    "googlenet": 13_378_280,
    "lenet": 431_080,
    "mnist_autoencoder": 2_837_314,
    "mnist_siamese": 431_102,
    "resnet50": 25_610_205,
    "vgg16": 138_357_544,
}


def graph_of(name: str, phase: str, *stages: str) -> Graph:
    return build_graph(Request(read_net(MODELS / f"{name}.prototxt", phase=phase, stages=stages)))[0]


def test_every_model_is_tested() -> None:
    assert {f.stem for f in MODELS.glob("*.prototxt")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_training_has_all_parameters_and_a_loss(name: str) -> None:
    graph = graph_of(name, "TRAIN")
    assert sum(graph.blobs[p].size for p in dict.fromkeys(p.blob for p in graph.params)) == PARAMETERS[name]
    assert graph.losses and graph.section("backward")


@pytest.mark.parametrize("name", PARAMETERS)
def test_testing_shows_the_accuracy_where_there_are_labels(name: str) -> None:
    graph = graph_of(name, "TEST")
    assert any("accuracy" in o or "top-1" in o for o in graph.outputs) == ("label" in graph.inputs)


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) - {"mnist_autoencoder", "mnist_siamese"}))
def test_deployment_takes_images_and_gives_probabilities(name: str) -> None:
    graph = graph_of(name, "TEST", "deploy")
    assert (graph.inputs, graph.outputs) == (["data"], ["prob"])


def test_no_sweep_is_left_between_resnets_convolutions() -> None:
    """53 convolutions, each with statistics of as many numbers as it has channels, and the softmax."""
    graph = graph_of("resnet50", "TEST", "deploy")
    maps = [n for n in graph.nodes if isinstance(n.kernel, Map)]
    sweeps = [n for n in maps if math.prod(d.extent for d in n.kernel.dims) > 2048]
    assert sum(isinstance(n.kernel, Conv) for n in graph.nodes) == 53
    assert {n.layer for n in sweeps} <= {"prob"}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_models_compile(name: str, phase: str) -> None:
    import lossc

    assert lossc.Net(str(MODELS / f"{name}.prototxt"), phase, threads=2).source
