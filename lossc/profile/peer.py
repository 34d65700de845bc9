"""A net in PyTorch, timed in a process of its own: lossc itself never imports PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lossc.errors import UsageError
from lossc.pipeline import Request
from lossc.profile import PEERS
from lossc.profile.description import describe

_SCRIPT = Path(__file__).with_name("torch_net.py")
_FIX = "pip install torch, or name an interpreter that has it: --torch-python PYTHON"


@dataclass(frozen=True)
class PeerTiming:
    """Seconds: of each iteration, and each layer's mean of its forward and backward, in Caffe's order."""

    peer: str
    version: str
    iterations: tuple[float, ...]
    layers: dict[str, tuple[float, float]]

    def layer(self, section: str, name: str) -> float:
        """0 for a layer that computes nothing."""
        return self.layers.get(name, (0.0, 0.0))[section == "backward"]

    def section(self, section: str) -> float:
        return sum(self.layer(section, name) for name in self.layers)


def time_peer(request: Request, peer: str, python: str, iterations: int, threads: int) -> PeerTiming:
    """Times the request's net in PyTorch, which ``python`` has. Raises UsageError where it has none, or where PyTorch
    cannot run the net."""
    if request.dtype != "float32":
        raise UsageError(f"the peer computes in float32, the net in {request.dtype}", fix="leave out --dtype")
    with tempfile.TemporaryDirectory(prefix="lossc-") as folder:
        path = Path(folder) / "description.json"
        path.write_text(json.dumps(describe(request)), encoding="utf-8")
        command = [python, str(_SCRIPT), str(path), PEERS[peer]]
        command += ["--threads", str(threads), "--iterations", str(iterations)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=_environment(python, threads))
        except OSError as error:
            raise UsageError(f"cannot run {python}: {error.strerror}", fix=_FIX) from None
    if done.returncode:
        if "No module named 'torch'" in done.stderr:
            raise UsageError(f"{python} has no PyTorch", fix=_FIX)
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UsageError(f"PyTorch cannot run this net: {reason}", file=request.source.file)
    found = json.loads(done.stdout.splitlines()[-1])
    layers = {e["name"]: (e["forward"], e["backward"]) for e in found["layers"]}
    return PeerTiming(peer, found["version"], tuple(found["iterations"]), layers)


def _environment(python: str, threads: int) -> dict[str, str]:
    """Without PYTHONPATH where that is another interpreter's, which must not find the packages of this one."""
    dropped = () if python == sys.executable else ("PYTHONPATH", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "OMP_NUM_THREADS": str(threads)}
