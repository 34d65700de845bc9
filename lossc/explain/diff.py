"""What choosing a weight that can change, in place of a constant, changes in the C."""

from __future__ import annotations

import difflib
from dataclasses import replace

from lossc.loss_weight import LossWeight, Runtime
from lossc.pipeline import Request, compile_net


def weight_diff(request: Request, loss: str, weight: LossWeight | None = None) -> str:
    """The unified diff of net.c: as ``request`` says, and with another weight for one loss (``Runtime`` if None).

    ``loss`` names a layer or a top. The places of blobs in memory are left out.
    Raises as ``compile_net``.
    """
    chosen = Runtime() if weight is None else weight
    before = compile_net(request).program.source
    after = compile_net(replace(request, loss_weights={**request.loss_weights, loss: chosen})).program.source
    kind = "runtime" if isinstance(chosen, Runtime) else getattr(chosen, "policy", f"{chosen}")
    lines = difflib.unified_diff(
        _comparable(before), _comparable(after), f"net.c, {loss} as it is", f"net.c, {loss} {kind}", lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def _comparable(source: str) -> list[str]:
    """The lines without the sizes and offsets of the memory plan, which any new number in memory shifts."""
    lines = source.split("\n")
    return [" ".join(x.split()[:2]) if x.startswith(("#define AT_", "#define SIZE")) else x for x in lines]
