"""The schema: what is checked in is what caffe.proto says, and what is on the wire is what Caffe writes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from lossc.frontend import caffe_pb2
from lossc.frontend.pb import enum_name


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed")
def test_generated_files_belong_to_the_schema():
    from lossc.frontend import regenerate

    schema, stub = regenerate.compile_proto(regenerate.FOLDER)
    assert FileDescriptorProto.FromString(schema) == FileDescriptorProto.FromString(caffe_pb2._SCHEMA)
    assert (regenerate.FOLDER / "caffe_pb2.pyi").read_text() == "# ruff: noqa\n" + stub


def test_counts():
    layer = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name
    assert len(caffe_pb2.DESCRIPTOR.message_types_by_name) == 64
    assert len([name for name in layer if name.endswith("_param")]) == 50
    assert len(caffe_pb2.V1LayerParameter.LayerType.keys()) == 40


@pytest.mark.parametrize(
    "message, numbers",
    [
        ("NetParameter", {"name": 1, "layers": 2, "input": 3, "input_dim": 4, "input_shape": 8, "layer": 100}),
        ("BlobProto", {"num": 1, "width": 4, "data": 5, "diff": 6, "shape": 7, "double_data": 8, "double_diff": 9}),
        ("SolverState", {"iter": 1, "learned_net": 2, "history": 3, "current_step": 4}),
        ("LayerParameter", {"loss_weight": 5, "blobs": 7, "propagate_down": 11, "swish_param": 147, "clip_param": 148}),
        ("V1LayerParameter", {"layer": 1, "type": 5, "blobs_lr": 7, "param": 1001, "blob_share_mode": 1002}),
        ("V0LayerParameter", {"kernelsize": 8, "blobs": 50, "new_num": 60, "hdf5_output_param": 1001}),
        ("SolverParameter", {"base_lr": 5, "solver_type": 30, "type": 40, "weights": 42, "net": 24}),
    ],
)
def test_numbers(message, numbers):
    fields = getattr(caffe_pb2, message).DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in numbers} == numbers


def test_defaults():
    assert caffe_pb2.NetState().phase == caffe_pb2.TEST
    assert caffe_pb2.LossParameter().normalization == caffe_pb2.LossParameter.VALID
    assert caffe_pb2.SolverParameter().momentum2 == pytest.approx(0.999)
    assert caffe_pb2.BatchNormParameter().eps == pytest.approx(1e-5)
    assert caffe_pb2.ReductionParameter().operation == caffe_pb2.ReductionParameter.SUM == 1
    assert caffe_pb2.SolverParameter().snapshot_format == caffe_pb2.SolverParameter.BINARYPROTO


def test_wire():
    net = caffe_pb2.NetParameter(name="n")
    net.layer.add(type="X").loss_weight.append(1)
    assert net.SerializeToString() == b"\x0a\x01n" + b"\xa2\x06\x08" + b"\x12\x01X" + b"\x2d\x00\x00\x80\x3f"
    assert caffe_pb2.BlobProto(data=[1]).SerializeToString() == b"\x2a\x04\x00\x00\x80\x3f"


def test_enum_name():
    assert enum_name(caffe_pb2.PoolingParameter(pool=caffe_pb2.PoolingParameter.AVE), "pool") == "AVE"


def test_lives_beside_another_caffe():
    """pycaffe registers the same names in protobuf's default pool."""
    code = """if True:
        from google.protobuf import descriptor_pb2, descriptor_pool
        file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
        file.message_type.add(name="NetParameter")
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
        from lossc.frontend import caffe_pb2
        assert caffe_pb2.NetParameter(name="n").name == "n"
    """
    subprocess.run([sys.executable, "-c", code], check=True)
