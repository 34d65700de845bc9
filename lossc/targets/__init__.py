"""What generated code runs on: instruction sets, compiler flags, and what the machine at hand offers."""

from lossc.targets.host import (
    check_runnable,
    host_target,
    parse_target,
    processor_name,
    rounding_targets,
    runnable_targets,
)
from lossc.targets.isa import AVX2, AVX512, AVX512_BF16, ISAS, NEON, SCALAR, Isa
from lossc.targets.machine import Machine, host_machine
from lossc.targets.target import Target

__all__ = [
    "AVX2",
    "AVX512",
    "AVX512_BF16",
    "ISAS",
    "NEON",
    "SCALAR",
    "Isa",
    "Machine",
    "Target",
    "check_runnable",
    "host_machine",
    "host_target",
    "parse_target",
    "processor_name",
    "rounding_targets",
    "runnable_targets",
]
