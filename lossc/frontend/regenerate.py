"""Writes caffe_pb2.py and caffe_pb2.pyi from caffe.proto: ``python -m lossc.frontend.regenerate``.

Needs grpcio-tools, which brings protoc. protoc's own Python output is not used, for two reasons: it refuses protobuf
runtimes of other major versions than its own, and it registers its messages in the pool that all modules share, where
they clash with those of an installed pycaffe.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

FOLDER = Path(__file__).parent

MODULE = '''\
"""Caffe's messages. Made from caffe.proto by `python -m lossc.frontend.regenerate`: edit that file, not this one.

Works with protobuf 4.25 and later. The messages live in a pool of their own, so that a process can hold pycaffe too.
"""

from __future__ import annotations

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

# What protoc makes of caffe.proto, in the binary form of google.protobuf.FileDescriptorProto.
_SCHEMA = (
{chunks}
)

_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_SCHEMA)
DESCRIPTOR = _POOL.FindFileByName("caffe.proto")

for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = enum_type_wrapper.EnumTypeWrapper(_enum)
    globals().update((_value.name, _value.number) for _value in _enum.values)
'''


def compile_proto(folder: Path) -> tuple[bytes, str]:
    """The serialised FileDescriptorProto and the type stub that protoc makes of ``folder``/caffe.proto."""
    with tempfile.TemporaryDirectory() as out:
        outputs = [f"--descriptor_set_out={out}/set", f"--pyi_out={out}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", *outputs, "caffe.proto"], check=True)
        schema = FileDescriptorSet.FromString(Path(out, "set").read_bytes()).file[0]
        for message in schema.message_type:
            for field in message.field:
                field.ClearField("json_name")  # follows from the name
        return schema.SerializeToString(deterministic=True), Path(out, "caffe_pb2.pyi").read_text()


def main() -> None:
    """Rewrite both generated files beside this one."""
    schema, stub = compile_proto(FOLDER)
    step = 64
    chunks = "\n".join(f"    {schema[i : i + step]!r}" for i in range(0, len(schema), step))
    (FOLDER / "caffe_pb2.py").write_text("# ruff: noqa\n" + MODULE.replace("{chunks}", chunks))
    (FOLDER / "caffe_pb2.pyi").write_text("# ruff: noqa\n" + stub)


if __name__ == "__main__":
    main()
