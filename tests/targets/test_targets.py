"""Targets: names, flags and what the machine at hand says about itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossc.errors import UsageError
from lossc.targets import (
    AVX2,
    AVX512,
    AVX512_BF16,
    ISAS,
    NEON,
    SCALAR,
    Target,
    check_runnable,
    host_machine,
    host_target,
    parse_target,
    runnable_targets,
)
from lossc.targets import host as host_module
from lossc.targets import machine as machine_module


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends to be a machine: (architecture, CPU features, platform)."""

    def pretend(arch: str, features: set[str] = frozenset(), platform: str = "linux") -> tuple[str, ...]:
        monkeypatch.setattr(host_module.platform, "machine", lambda: arch)
        monkeypatch.setattr(host_module, "_cpu_features", lambda: frozenset(features))
        monkeypatch.setattr(host_module.sys, "platform", platform)
        runnable_targets.cache_clear()
        return tuple(target.name for target in runnable_targets())

    yield pretend
    runnable_targets.cache_clear()


AVX2_FEATURES = {"sse2", "avx", "avx2", "fma", "f16c"}
AVX512_FEATURES = AVX2_FEATURES | {"avx512f", "avx512dq", "avx512bw", "avx512vl"}


@pytest.mark.parametrize(
    ("arch", "features", "platform", "expected"),
    [
        ("x86_64", AVX512_FEATURES, "linux", ("avx512", "avx2", "scalar")),
        ("AMD64", AVX2_FEATURES, "linux", ("avx2", "scalar")),
        ("x86_64", AVX2_FEATURES | {"avx512f"}, "linux", ("avx2", "scalar")),
        ("x86_64", {"avx2"}, "linux", ("scalar",)),
        ("x86_64", set(), "darwin", ("scalar",)),
        ("aarch64", set(), "linux", ("neon", "scalar")),
        ("arm64", set(), "darwin", ("neon", "scalar")),
        ("riscv64", set(), "linux", ("scalar",)),
    ],
)
def test_what_a_machine_can_run(machine, arch, features, platform, expected) -> None:
    assert machine(arch, features, platform) == expected
    assert host_target().name == expected[0]
    assert host_target().os == ("macos" if platform == "darwin" else "linux")


def test_names_are_parsed(machine) -> None:
    machine("x86_64", AVX2_FEATURES)
    assert parse_target("native") == host_target() == Target(AVX2, "x86_64", "linux")
    assert parse_target(" AVX512 ") == Target(AVX512, "x86_64", "linux")
    assert parse_target("neon") == Target(NEON, "aarch64", "linux")
    assert parse_target("scalar", dtype="float64") == Target(SCALAR, "x86_64", "linux", "float64")


def test_instructions_for_bfloat16_are_taken_where_they_are_asked_for(machine) -> None:
    assert machine("x86_64", AVX512_FEATURES | {"avx512_bf16"})[0] == "avx512"
    assert parse_target("native").isa is AVX512
    assert parse_target("native", bf16=True) == parse_target("avx512_bf16") == Target(AVX512_BF16, "x86_64", "linux")
    check_runnable(parse_target("avx512_bf16"))
    assert AVX512_BF16.define == AVX512.define and AVX512_BF16.lanes("float32") == AVX512.lanes("float32")
    assert set(AVX512_BF16.compiler_flags("gcc")) == {*AVX512.compiler_flags("gcc"), "-mavx512bf16"}
    machine("x86_64", AVX512_FEATURES)
    assert parse_target("native", bf16=True).isa is AVX512
    with pytest.raises(UsageError, match="cannot run code for avx512_bf16"):
        check_runnable(parse_target("avx512_bf16"))


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"'avx-2' is not known; did you mean 'avx2'\?") as caught:
        parse_target("avx-2")
    assert "native, avx512, avx2, neon, scalar" in str(caught.value)
    with pytest.raises(UsageError, match="is not known\n"):
        parse_target("cuda")
    with pytest.raises(UsageError, match="float16"):
        parse_target("native", dtype="float16")


def test_code_that_would_end_the_process_is_refused(machine) -> None:
    machine("x86_64", AVX2_FEATURES)
    check_runnable(parse_target("avx2", dtype="float64"))
    for name in ("avx512", "neon"):
        with pytest.raises(UsageError, match=f"cannot run code for {name}") as caught:
            check_runnable(parse_target(name))
        assert "avx2, scalar" in str(caught.value)


def test_lanes_and_triples() -> None:
    assert [isa.lanes("float32") for isa in ISAS] == [16, 8, 4, 1]
    assert [isa.lanes("float64") for isa in ISAS] == [8, 4, 2, 1]
    assert Target(AVX512, "x86_64", "linux", "float64").lanes == 8
    assert Target(AVX2, "x86_64", "linux").triple == "x86_64-linux-gnu"
    assert Target(NEON, "aarch64", "macos").triple == "aarch64-apple-darwin"
    assert Target(NEON, "aarch64", "macos").library_suffix == ".dylib"


def test_flags_choose_the_header_and_keep_zig_from_using_the_builders_processor() -> None:
    assert {"-mavx512f", "-mfma", "-mprefer-vector-width=512", "-DLOSSC_ISA_AVX512"} <= set(
        AVX512.compiler_flags("gcc")
    )
    assert SCALAR.compiler_flags("clang") == ("-DLOSSC_ISA_SCALAR",)
    assert SCALAR.compiler_flags("zig") == ("-mcpu=baseline", "-DLOSSC_ISA_SCALAR")
    for isa in ISAS:
        assert not any(
            flag.startswith(("-march=native", "-Ofast", "-ffast-math")) for flag in isa.compiler_flags("gcc")
        )


def test_this_machine_makes_sense() -> None:
    machine = host_machine()
    assert 8 << 10 <= machine.l1d < machine.l2
    assert machine.l3 > 0
    assert 1 <= machine.cores <= machine.threads <= (os.cpu_count() or 1)


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty /sys, as far as it is read: a function that writes a file below it."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    monkeypatch.setattr(machine_module, "_SYSFS_CPU", tmp_path)
    monkeypatch.setattr(machine_module, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine_module, "_usable_cpus", lambda: [0, 1, 2, 3])
    host_machine.cache_clear()
    yield write
    host_machine.cache_clear()


def test_a_machine_that_says_nothing(sysfs) -> None:
    machine = host_machine()
    assert (machine.l1d, machine.l2, machine.l3) == (32 << 10, 512 << 10, 8 << 20)
    assert (machine.cores, machine.threads) == (4, 4)


def test_caches_and_cores_are_read(sysfs) -> None:
    caches = [
        ("Data", 1, "48K"),
        ("Instruction", 1, "32K"),
        ("Unified", 2, "1280K"),
        ("Unified", 3, "48M"),
        ("Data", 4, "?"),
    ]
    for index, (kind, level, size) in enumerate(caches):
        for name, text in (("type", kind), ("level", str(level)), ("size", size)):
            sysfs(f"cpu0/cache/index{index}/{name}", text)
    for cpu, siblings in enumerate(("0-1", "0-1", "2-3", "2-3")):
        sysfs(f"cpu{cpu}/topology/thread_siblings_list", siblings)
    machine = host_machine()
    assert (machine.l1d, machine.l2, machine.l3) == (48 << 10, 1280 << 10, 48 << 20)
    assert (machine.cores, machine.threads) == (2, 4)


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 4), ("150000 100000", 1), ("300000 100000", 3), ("5", 4)]
)
def test_a_containers_quota_bounds_the_cores(sysfs, quota: str, threads: int) -> None:
    sysfs("cpu.max", quota)
    assert host_machine().threads == threads
