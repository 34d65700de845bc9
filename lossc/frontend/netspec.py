"""Nets written in Python, with the names of pycaffe's net_spec (whose layers and params are called L and P here).

    from lossc import NetSpec, L, P

    n = NetSpec()
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[64, 1, 28, 28]), dict(dim=[64])])
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.ip1, n.label)
    net = lossc.Net(n.to_proto(), lossc.TRAIN)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lossc.errors import UsageError
from lossc.frontend import caffe_pb2
from lossc.frontend.caffe_pb2 import LayerParameter, NetParameter
from lossc.frontend.names import closest
from lossc.order import postorder

_FIELDS = LayerParameter.DESCRIPTOR.fields_by_name
#: Layer types that take the settings of another one.
_ALSO: dict[str, tuple[str, ...]] = {
    "Deconvolution": ("convolution_param",),
    "Im2col": ("convolution_param",),
    "SoftmaxWithLoss": ("loss_param", "softmax_param"),
    "InfogainLoss": ("infogain_loss_param", "loss_param"),
    "RNN": ("recurrent_param",),
    "LSTM": ("recurrent_param",),
}


class Top:
    """What a layer makes: an input of other layers. ``spec.to_proto()`` gives it its name."""

    def __init__(self, maker: _Maker, index: int) -> None:
        self.maker, self.index = maker, index

    def to_proto(self) -> NetParameter:
        """The net of everything that this top needs; blobs have made-up names."""
        return to_proto(self)

    def __bool__(self) -> bool:
        raise UsageError("a top has no value while a net is being described", fix="compile the net, then look at it")


class _Maker:
    """One layer to be: its type, inputs and settings."""

    def __init__(self, type_name: str, bottoms: tuple[Top, ...], settings: dict[str, Any]) -> None:
        for k, bottom in enumerate(bottoms):
            if not isinstance(bottom, Top):
                raise UsageError(f"input {k} of {type_name} is {bottom!r}", fix="give tops of other layers")
        self.type_name, self.bottoms = type_name, bottoms
        self.in_place = bool(settings.pop("in_place", False))
        if self.in_place and len(bottoms) != 1:
            raise UsageError(f"{type_name} in place has {len(bottoms)} inputs", fix="give one")
        count = settings.pop("ntop", 1)
        if not isinstance(count, int) or count < 0 or (self.in_place and count != 1):
            raise UsageError(f"{type_name} with ntop {count!r}", fix="give a whole number; in place only 1")
        self.name: str | None = settings.pop("name", None)
        self.tops = tuple(Top(self, k) for k in range(count))
        self.param = LayerParameter(type=type_name)
        for name, value in settings.items():
            _set_anywhere(self.param, name, value)


class _Layers:
    """``layers.TYPE(*inputs, ntop=1, in_place=False, name=..., **settings)``: a layer of any type.

    Settings are the fields of the type's own message (``num_output=10``), of LayerParameter (``loss_weight=0.3``,
    ``include=dict(phase=0)``, ``pooling_param=dict(...)``), or else go to ``lossc_param``. Messages are dictionaries,
    enum values their names or numbers. Returns a Top, or a tuple of ``ntop`` (0: the layer itself, for ``to_proto``).
    Raises UsageError.
    """

    def __getattr__(self, type_name: str) -> Callable[..., Any]:
        if type_name.startswith("_"):
            raise AttributeError(type_name)

        def make(*bottoms: Top, **settings: Any) -> Any:
            maker = _Maker(type_name, bottoms, settings)
            return maker.tops[0] if len(maker.tops) == 1 else maker.tops or maker

        make.__name__ = type_name
        return make


class _Params:
    """``params.Pooling.MAX``: the values of the enums of a layer type's message."""

    def __getattr__(self, name: str) -> Any:
        message = getattr(caffe_pb2, f"{name}Parameter", None)
        if message is None:
            raise AttributeError(f"Caffe has no message {name}Parameter")
        return message


layers, params = _Layers(), _Params()


class NetSpec:
    """A net as its tops, by the names that they are given: ``spec.conv1 = layers.Convolution(spec.data, ...)``.

    The layer that makes a top has the top's name unless it was given one. ``name`` is the net's.
    """

    def __init__(self, name: str = "") -> None:
        super().__setattr__("tops", {})
        super().__setattr__("net_name", name)

    tops: dict[str, Any]
    net_name: str

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, (Top, _Maker)):
            raise UsageError(f"{name} = {value!r}", fix="assign what layers.TYPE(...) returns")
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.tops[name]
        except KeyError:
            near = closest(name, self.tops)
            hint = f'; did you mean "{near}"?' if near else ""
            raise AttributeError(f'the net has no top "{name}"{hint}') from None

    __setitem__ = __setattr__
    __getitem__ = __getattr__

    def __delattr__(self, name: str) -> None:
        self.tops.pop(name)

    def to_proto(self) -> NetParameter:
        """The net as Caffe's message: ``str`` of it is prototxt."""
        return _write(self.tops, self.net_name)


def to_proto(*tops: Top) -> NetParameter:
    """The net of everything that the tops need; layers and blobs have made-up names, such as Convolution1."""
    return _write({f"{k}": top for k, top in enumerate(tops)}, "", named=False)


def _write(tops: Mapping[str, Any], net_name: str, *, named: bool = True) -> NetParameter:
    net = NetParameter()
    if net_name:
        net.name = net_name
    given = {id(value): name for name, value in reversed(list(tops.items()))} if named else {}
    blobs: dict[int, str] = {}
    counts: dict[str, int] = {}

    def name_of(thing: Top | _Maker, maker: _Maker) -> str:
        while id(thing) not in given:
            counts[maker.type_name] = counts.get(maker.type_name, 0) + 1
            name = f"{maker.type_name}{counts[maker.type_name]}"
            if name not in given.values():
                given[id(thing)] = name
        return given[id(thing)]

    makers = [value.maker if isinstance(value, Top) else value for value in tops.values()]
    for maker in postorder(makers, lambda m: [b.maker for b in m.bottoms]):
        layer = net.layer.add(type=maker.type_name)
        layer.name = maker.name or name_of(maker.tops[0] if maker.tops else maker, maker)
        for top in maker.tops:
            blobs[id(top)] = blobs[id(maker.bottoms[0])] if maker.in_place else name_of(top, maker)
        layer.bottom.extend(blobs[id(b)] for b in maker.bottoms)
        layer.top.extend(blobs[id(t)] for t in maker.tops)
        layer.MergeFrom(maker.param)
    return net


def _set_anywhere(layer: LayerParameter, name: str, value: Any) -> None:
    """A setting goes to the type's own message, to the layer itself, or to lossc_param."""
    own = _own_messages(layer.type)
    for message in own:
        if name in _FIELDS[message].message_type.fields_by_name:
            _assign(getattr(layer, message), name, value, layer.type)
            return
    if name in _FIELDS:
        _assign(layer, name, value, layer.type)
        return
    known = [f for message in own for f in _FIELDS[message].message_type.fields_by_name]
    near = closest(name, [*known, *_FIELDS])
    if near:
        raise UsageError(f'{layer.type} has no setting "{name}"', fix=f'did you mean "{near}"?')
    entry = layer.lossc_param.entry.add(name=name)
    for each in value if isinstance(value, (list, tuple)) else [value]:
        kinds = {"truth": bool, "number": (int, float), "text": str}
        kind = next((kind for kind, types in kinds.items() if isinstance(each, types)), None)  # type: ignore[arg-type]
        if kind is None:
            raise UsageError(f"{layer.type}: {name} = {each!r}", fix="give numbers, strings, True or False")
        setattr(entry.value.add(), kind, each)


def _own_messages(type_name: str) -> tuple[str, ...]:
    """The fields of LayerParameter that hold a type's settings: InnerProduct -> inner_product_param."""
    if type_name in _ALSO:
        return _ALSO[type_name]
    field = next((f.name for f in _FIELDS.values() if _message_of(f) == f"{type_name}Parameter"), None)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type_name).lower() + "_param"
    own = (field or plain,) if (field or plain) in _FIELDS else ()
    return (*own, "loss_param") if type_name.endswith("Loss") else own


def _message_of(field: Any) -> str:
    return field.message_type.name if field.message_type is not None else ""


def _assign(message: Any, name: str, value: Any, where: str) -> None:
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        near = closest(name, message.DESCRIPTOR.fields_by_name)
        known = ", ".join(message.DESCRIPTOR.fields_by_name)
        fix = f'did you mean "{near}"?' if near else f"fields: {known}"
        raise UsageError(f'{where}: {message.DESCRIPTOR.name} has no field "{name}"', fix=fix)
    try:
        if hasattr(getattr(message, name), "extend"):
            for each in value if isinstance(value, (list, tuple)) else [value]:
                if field.message_type is not None:
                    _fill(getattr(message, name).add(), each, where)
                else:
                    getattr(message, name).append(_number(field, each))
        elif field.message_type is not None:
            getattr(message, name).SetInParent()
            _fill(getattr(message, name), value, where)
        else:
            setattr(message, name, _number(field, value))
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{where}: {name} = {value!r}", fix=f"it cannot be that: {error}") from None


def _fill(message: Any, value: Any, where: str) -> None:
    if isinstance(value, type(message)):
        message.CopyFrom(value)
        return
    for name, each in dict(value).items():
        _assign(message, name, each, where)


def _number(field: Any, value: Any) -> Any:
    """An enum's value by its name; anything else as it is."""
    if field.enum_type is not None and isinstance(value, str):
        return field.enum_type.values_by_name[value].number
    return value
