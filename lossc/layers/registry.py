"""The built-in layers: adding one is a file of its own and its name here."""

from __future__ import annotations

from lossc.layers.accuracy import Accuracy
from lossc.layers.activation import ReLU, Sigmoid, TanH
from lossc.layers.base import Layer
from lossc.layers.convolution import Convolution
from lossc.layers.data import Data, DummyData, Input
from lossc.layers.dropout import Dropout
from lossc.layers.eltwise import Eltwise
from lossc.layers.euclidean import EuclideanLoss
from lossc.layers.innerproduct import InnerProduct
from lossc.layers.pooling import Pooling
from lossc.layers.power import Power
from lossc.layers.reduction import Reduction
from lossc.layers.shape_layers import Concat, Flatten, Reshape, Silence, Slice, Split
from lossc.layers.sigmoid_ce import SigmoidCrossEntropyLoss
from lossc.layers.softmax import Softmax
from lossc.layers.softmax_loss import SoftmaxWithLoss

BUILTIN: tuple[type[Layer], ...] = (
    Accuracy,
    Concat,
    Convolution,
    Data,
    Dropout,
    DummyData,
    Eltwise,
    EuclideanLoss,
    Flatten,
    InnerProduct,
    Input,
    Pooling,
    Power,
    ReLU,
    Reduction,
    Reshape,
    Sigmoid,
    SigmoidCrossEntropyLoss,
    Silence,
    Slice,
    Softmax,
    SoftmaxWithLoss,
    Split,
    TanH,
)
LAYERS: dict[str, type[Layer]] = {layer.type: layer for layer in BUILTIN}
