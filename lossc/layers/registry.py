"""The built-in layers: adding one is a file of its own and its name here."""

from __future__ import annotations

from lossc.layers.accuracy import Accuracy
from lossc.layers.activation import BNLL, ELU, AbsVal, Clip, ReLU, Sigmoid, Swish, TanH, Threshold
from lossc.layers.argmax import ArgMax
from lossc.layers.base import Layer
from lossc.layers.batchnorm import BatchNorm
from lossc.layers.contrastive import ContrastiveLoss
from lossc.layers.convolution import Convolution
from lossc.layers.cosine import CosineEmbeddingLoss
from lossc.layers.data import Data, DummyData, Input
from lossc.layers.dice import DiceLoss
from lossc.layers.dropout import Dropout
from lossc.layers.eltwise import Eltwise
from lossc.layers.euclidean import EuclideanLoss
from lossc.layers.exponential import Exp, Log
from lossc.layers.focal import FocalLoss, SigmoidFocalLoss
from lossc.layers.hdf5_data import HDF5Data
from lossc.layers.hinge import HingeLoss
from lossc.layers.huber import HuberLoss, L1Loss, SmoothL1Loss
from lossc.layers.infogain import InfogainLoss
from lossc.layers.innerproduct import InnerProduct
from lossc.layers.kl_div import KLDivLoss
from lossc.layers.lrn import LRN
from lossc.layers.multinomial import MultinomialLogisticLoss
from lossc.layers.mvn import MVN
from lossc.layers.poisson import PoissonNLLLoss
from lossc.layers.pooling import Pooling
from lossc.layers.power import Power
from lossc.layers.prelu import PReLU
from lossc.layers.quantile import QuantileLoss
from lossc.layers.reduction import Reduction
from lossc.layers.scale import Bias, Scale
from lossc.layers.shape_layers import Concat, Flatten, Reshape, Silence, Slice, Split
from lossc.layers.sigmoid_ce import SigmoidCrossEntropyLoss
from lossc.layers.softmax import Softmax
from lossc.layers.softmax_loss import SoftmaxWithLoss
from lossc.layers.tile import Tile
from lossc.layers.triplet import TripletMarginLoss

BUILTIN: tuple[type[Layer], ...] = (
    AbsVal,
    Accuracy,
    ArgMax,
    BatchNorm,
    Bias,
    BNLL,
    Clip,
    Concat,
    ContrastiveLoss,
    Convolution,
    CosineEmbeddingLoss,
    Data,
    DiceLoss,
    Dropout,
    DummyData,
    Eltwise,
    ELU,
    EuclideanLoss,
    Exp,
    Flatten,
    FocalLoss,
    HDF5Data,
    HingeLoss,
    HuberLoss,
    InfogainLoss,
    InnerProduct,
    Input,
    KLDivLoss,
    L1Loss,
    Log,
    LRN,
    MultinomialLogisticLoss,
    MVN,
    PoissonNLLLoss,
    Pooling,
    Power,
    PReLU,
    QuantileLoss,
    Reduction,
    ReLU,
    Reshape,
    Scale,
    Sigmoid,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    Silence,
    Slice,
    SmoothL1Loss,
    Softmax,
    SoftmaxWithLoss,
    Split,
    Swish,
    TanH,
    Threshold,
    Tile,
    TripletMarginLoss,
)
LAYERS: dict[str, type[Layer]] = {layer.type: layer for layer in BUILTIN}
