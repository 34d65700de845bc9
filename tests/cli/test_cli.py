"""The command: verbs, messages, exit statuses, files left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.cli.main import VERBS, main

ROOT = Path(__file__).resolve().parents[2]

NET = """\
name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "digits.npz" batch_size: 5 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.0001 lr_policy: "fixed" momentum: 0.9 display: 2 max_iter: 4\n'

# What parsers of Caffe's logs look for.
PREFIX = re.compile(r"^I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [\w.]+(:\d+)?\] ")
ITERATION = re.compile(r"Iteration (\d+) \(\S+ iter/s, \S+s/2 iters\), loss = ([\d.]+)$")
OUTPUT = re.compile(r"    Train net output #(\d+): (\S+) = ([\d.]+) \(\* 1 = [\d.]+ loss\)$")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with net.prototxt, solver.prototxt and digits.npz."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (23, 1, 3, 3)).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", data=images, label=random.integers(0, 4, 23))
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(log: str) -> list[str]:
    lines = log.splitlines()
    assert all(PREFIX.match(line) for line in lines), log
    return [PREFIX.sub("", line) for line in lines]


def test_train_logs_like_caffe_and_leaves_a_snapshot(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "solver.prototxt", "--threads", "1"]) == 0
    out, log = capfd.readouterr()
    lines = texts(log)
    assert out == "" and lines[-1] == lines[-2] == "Optimization Done."
    assert [m[1] for line in lines if (m := ITERATION.match(line))] == ["0", "2"]
    assert [m[2] for line in lines if (m := OUTPUT.match(line))] == ["loss", "loss"]
    assert "Iteration 2, lr = 0.0001" in lines
    assert (folder / "solver_iter_4.caffemodel").exists() and (folder / "solver_iter_4.solverstate").exists()


def test_train_takes_caffes_flags_and_goes_on_from_a_snapshot(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-solver=solver.prototxt"]) == 0
    assert (
        main(["train", "-solver", "solver.prototxt", "-snapshot", "solver_iter_4.solverstate", "-iterations", "7"]) == 0
    )
    assert "Resuming from solver_iter_4.solverstate" in texts(capfd.readouterr().err)
    assert (folder / "solver_iter_7.solverstate").exists()
    first = (folder / "solver_iter_7.caffemodel").read_bytes()
    assert main(["train", "solver.prototxt", "--iterations=7", "--threads=2"]) == 0
    assert (folder / "solver_iter_7.caffemodel").read_bytes() == first


def test_test_prints_batches_and_means(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = lossc.Net("net.prototxt", lossc.TEST)
    net.save("w.caffemodel")
    assert main(["test", "net.prototxt", "--weights", "w.caffemodel", "--iterations", "3"]) == 0
    lines = texts(capfd.readouterr().err)
    losses, hits = [], []
    for k in range(3):
        outputs = net.forward()
        losses.append(float(outputs["loss"]))
        hits.append(float(outputs["accuracy"]))
        assert f"Batch {k}, loss = {losses[-1]:g}" in lines and f"Batch {k}, accuracy = {hits[-1]:g}" in lines
    assert lines[0] == "Running for 3 iterations."
    mean = np.mean(np.float32(losses))
    assert lines[-3:] == [
        f"Loss: {mean:g}",
        f"accuracy = {np.mean(np.float32(hits)):g}",
        f"loss = {mean:g} (* 1 = {mean:g} loss)",
    ]


def test_compile_writes_a_complete_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["compile", "net.prototxt", "-o", "out", "--solver", "solver.prototxt", "--name", "tiny2"]
    assert main(command) == 0
    assert capfd.readouterr().out == "wrote libnet.so, manifest.json, net.c, net.h, runtime to out\n"
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["params"][0]["shape"] == [4, 9] and manifest["inputs"] == ["data", "label"]
    assert manifest["bytes"]["arena"] >= manifest["bytes"]["arena_lower_bound"] > 0
    assert manifest["flops"]["forward"] == 2 * 5 * 9 * 4
    assert manifest["compiler"]["version"] and "-O3" in manifest["command"]
    assert "tiny2_update" in (folder / "out" / "net.h").read_text()
    before = (folder / "out" / "libnet.so").stat().st_size
    done = subprocess.run(manifest["command"], shell=True, cwd=folder / "out", check=False)
    assert done.returncode == 0 and (folder / "out" / "libnet.so").stat().st_size == before
    assert sorted(p.name for p in folder.iterdir()) == ["digits.npz", "net.prototxt", "out", "solver.prototxt"]


def test_compile_leaves_nothing_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "net.c").write_text("old")
    broken = folder / "cc"
    broken.write_text('#!/bin/sh\ncase "$*" in *probe*|*--version*) exec cc "$@";; esac\necho error: no; exit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("LOSSC_CC", str(broken))
    assert main(["compile", "net.prototxt", "-o", "out"]) == 1
    assert [p.name for p in (folder / "out").iterdir()] == ["net.c"]
    assert (folder / "out" / "net.c").read_text() == "old" and not list(folder.glob(".out-*"))
    monkeypatch.setenv("LOSSC_CC", "cc")
    assert main(["compile", "missing.prototxt", "-o", "other"]) == 1
    assert not (folder / "other").exists()


def test_compile_for_another_machine_writes_the_c_alone(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    foreign = "neon" if os.uname().machine == "x86_64" else "avx2"
    assert main(["compile", "net.prototxt", "-o", "out", "--target", foreign]) == 2
    assert "generate the C here and compile it there" in capfd.readouterr().err
    assert main(["compile", "net.prototxt", "-o", "out", "--target", foreign, "--source-only"]) == 0
    assert (folder / "out" / "runtime" / "simd.h").exists() and not list((folder / "out").glob("lib*"))
    assert json.loads((folder / "out" / "manifest.json").read_text())["isa"] == foreign


def test_inspect_shows_graph_c_and_passes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "net.prototxt"]) == 0
    text = capfd.readouterr().out
    assert text.startswith("graph tiny") and "gemm" in text and "N 5" in text
    assert main(["inspect", "net.prototxt", "--after", "infer-shapes"]) == 0
    assert "gemm" not in capfd.readouterr().out
    assert main(["inspect", "net.prototxt", "--format", "dot"]) == 0
    assert capfd.readouterr().out.startswith("digraph")
    assert main(["inspect", "net.prototxt", "--format", "c"]) == 0
    assert "int64_t" in capfd.readouterr().out
    assert main(["inspect", "net.prototxt", "--passes"]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert rows[0] == ["PASS", "CHANGED", "MS"] and {"lower-forward", "plan-memory"} <= {row[0] for row in rows}
    assert all(row[1] in ("yes", "no") and float(row[2]) >= 0 for row in rows[1:])


def test_svg_needs_graphviz(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tools = folder / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert main(["inspect", "net.prototxt", "--format", "svg"]) == 1
    assert "graphviz" in capfd.readouterr().err
    (tools / "dot").write_text('#!/bin/sh\nread line\necho "<svg>$line</svg>"\n')
    (tools / "dot").chmod(0o755)
    assert main(["inspect", "net.prototxt", "--format", "svg"]) == 0
    assert capfd.readouterr().out.startswith("<svg>digraph")


def test_cache_info_and_clear(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSSC_CACHE", str(tmp_path / "cache"))
    from lossc.build.cache import default_cache

    default_cache().put("requests", "key", b"value")
    assert main(["cache", "info"]) == 0
    assert "1 file, " in capfd.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert "removed 1 file, " in capfd.readouterr().out
    assert default_cache().get("requests", "key") is None


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["train", "missing.prototxt"], 1, "missing.prototxt: no such file"),
        (["train"], 2, "no solver file"),
        (["train", "solver.prototxt", "--solver", "solver.prototxt"], 2, "two solver files"),
        (["train", "solver.prototxt", "--weights", "no.caffemodel"], 1, "no.caffemodel"),
        (["train", "solver.prototxt", "--data", "nowhere"], 1, 'layer "data": does not exist'),
        (["train", "net.prototxt"], 1, "net.prototxt"),
        (["train", "solver.prototxt", "--target", "avx1024"], 2, "avx1024"),
        (["inspect", "net.prototxt", "--after", "fuse"], 2, 'no pass "fuse"'),
        (["inspect", "net.prototxt", "--target", "sse"], 2, "the target 'sse' is not known"),
        (["train", 'net: "net.prototxt" base_lr: 1'], 1, "the text of a prototxt was given"),
        (["inspect", "net.prototxt", "--keep", "ipp"], 2, 'did you mean "ip"'),
        (["compile", "net.prototxt", "--phase", "test", "--solver", "solver.prototxt", "-o", "out"], 2, "phase train"),
    ],
)
def test_errors_are_one_message(
    folder: Path, capfd: pytest.CaptureFixture[str], command: list[str], status: int, message: str
) -> None:
    assert main(command) == status
    out, err = capfd.readouterr()
    said = [line for line in err.splitlines() if not PREFIX.match(line)]
    assert out == "" and said[0].startswith("lossc: ") and message in said[0] + said[-1] and "Traceback" not in err


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["tran"],
        ["train", "s", "--threads", "0"],
        ["train", "s", "--weights", "a", "--snapshot", "b"],
        ["cache", "x"],
        ["train", "s", "--iterations", "99999999999999"],
        ["train", "s", "--weights", ""],
        ["train", "s", "--snapshot="],
        ["test", "n", "--weights", ","],
        ["compile", "n", "-o", ""],
        ["inspect", "n", "--level", "99999999999"],
    ],
)
def test_wrong_calls_exit_with_2(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2 and capfd.readouterr().err.startswith("usage: lossc")


def test_a_cache_that_cannot_be_used_is_one_warning(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOSSC_CACHE": str(folder / "digits.npz")}
    for program in (
        ["-m", "lossc.cli.main", "inspect", "net.prototxt", "--format", "c"],
        ["-m", "lossc.cli.main", "train", "solver.prototxt"],
        ["-c", "import lossc; lossc.Net('net.prototxt', lossc.TRAIN)"],
    ):
        done = subprocess.run([sys.executable, *program], env=environment, capture_output=True, text=True, check=True)
        said = [line for line in done.stderr.splitlines() if not PREFIX.match(line)]
        assert len(said) == ("inspect" not in program) and all("cannot be used (Not a directory)" in s for s in said)
        assert "lossc.cli.main" not in program or all(line.startswith("lossc: warning: lossc's") for line in said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_warning_is_shown_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = 'top: "loss" loss_param { normalize: true normalization: FULL }'
    (folder / "net.prototxt").write_text(NET.replace('top: "loss"', both))
    command = ["compile", "net.prototxt", "--data", "digits.npz", "-o", "out", "--source-only", "--checker"]
    assert main(command) == 0
    told = 'lossc: warning: net.prototxt:5: layer "loss": normalize: true has no effect beside normalization: FULL\n'
    assert capfd.readouterr().err == told + "  fix: remove normalize\n"


def test_output_that_is_full_or_closed(folder: Path) -> None:
    command = [sys.executable, "-m", "lossc.cli.main", "inspect", "net.prototxt"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "lossc: output: No space left on device\n"
    closed = ["sh", "-c", '"$@" >&-', "sh", *command]
    done = subprocess.run(closed, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""


def test_training_needs_an_end(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "solver.prototxt").write_text(SOLVER.replace("max_iter: 4", ""))
    assert main(["train", "solver.prototxt"]) == 1
    assert "solver.prototxt: max_iter, the number of iterations, is missing" in capfd.readouterr().err
    assert main(["train", "solver.prototxt", "--iterations", "2"]) == 0


def test_what_cannot_be_written_exits_with_1(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "net.prototxt", "-o", "digits.npz/out"]) == 1
    err = capfd.readouterr().err
    assert "cannot write to digits.npz/out: it, or what should be a folder around it, is a file\n  fix: " in err


def test_inputs_that_nothing_fills_cannot_be_tested(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "net.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 } } }\n'
        'layer { name: "s" type: "Sigmoid" bottom: "data" top: "s" }\n'
    )
    assert main(["test", "net.prototxt", "--weights", "w"]) == 2
    assert "nothing fills the input data" in capfd.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0 and f"usage: lossc {verb}" in capfd.readouterr().out


def test_the_package_is_the_command() -> None:
    told = subprocess.run([sys.executable, "-m", "lossc", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (told.returncode, told.stdout) == (0, f"lossc {lossc.__version__}\n")


def test_version_and_help_import_nothing_heavy() -> None:
    text = (
        "import sys\nfrom lossc.cli.main import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('numpy', 'google.protobuf', 'networkx', 'jinja2', 'rich') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"lossc {lossc.__version__}\n") and done.stdout.endswith("[]\n")


def test_sigint_stops_with_a_snapshot(folder: Path) -> None:
    (folder / "solver.prototxt").write_text(SOLVER.replace("max_iter: 4", "max_iter: 100000000"))
    command = [sys.executable, "-m", "lossc.cli.main", "train", "solver.prototxt", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = folder / "log"
    with (
        log.open("w") as stream,
        subprocess.Popen(command, stderr=stream, env=environment, start_new_session=True) as process,
    ):
        until = time.monotonic() + 60
        while "Iteration 2 " not in log.read_text() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    lines = texts(log.read_text())
    assert "Optimization stopped early." in lines
    (state,) = folder.glob("solver_iter_*.solverstate")
    assert f"Snapshotting solver state to binary proto file {state.name}" in lines


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal of Linux")
def test_a_terminal_gets_a_progress_bar(folder: Path) -> None:
    import pty

    command = [sys.executable, "-m", "lossc.cli.main", "train", "solver.prototxt"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # Linux reports the end of a terminal's other side as an error
            while part := os.read(ours, 65536):
                seen += part
        os.close(ours)
        assert process.wait() == 0
    text = seen.decode()
    assert "4/4" in text and "rate 0.0001" in text and "iter/s" in text
    assert "] Iteration 2 (" in text and "] Optimization Done." in text
