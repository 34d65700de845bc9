"""The numbers of AVE poolings that add up whole lines, and the maps that are part of them.

Windows are one column wide there, as LRN's across channels. Lines are taken in pieces, so that what a window sees of
them stays in the first-level cache: each is read, and a prologue computed, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lossc.codegen.pool_spec import Maps, PoolSpec, Result
from lossc.ir import Geometry
from lossc.ir.pool import along_lines

#: Bytes of what a window sees of lines that are taken in pieces, and of those that are taken whole: half of a 32 KB
#: first-level cache. On Zen 4 pieces of 8 KB took up to a tenth less time than those of 16 KB, but whole lines a sixth
#: less than two halves.
_PIECE_BYTES, _WHOLE_BYTES = 8 * 1024, 16 * 1024
#: Tasks for a team at least, in pieces of lines where there are fewer images.
_TASKS = 16


@dataclass(frozen=True)
class LineView:
    """Line h of ``to`` sums up ``window`` lines of ``from_``, which has ``before`` lines of 0 in front.

    ``take``: C statements that define ``out`` at image n, channel c, line h, column w of the source (``m`` lanes of
    it), ``give``: those that read ``acc`` there in the result and define what ``stores`` name.
    """

    to: str
    from_: str
    rows_to: int
    rows_from: int
    width: int
    window: int
    before: int
    piece: int  # elements of a line at a time
    pieces: int
    take: tuple[str, ...]
    give: tuple[str, ...]
    stores: tuple[Result, ...]
    aligned: str  # whether all results are
    names_channel: bool


def line_view(spec: PoolSpec, lanes: int, real_bytes: int) -> LineView | None:
    """The view, where windows are one column wide and meet one another line by line, none clipped at the padding."""
    geometry = Geometry(spec.kernel, spec.stride, spec.pad, (1, 1))
    if spec.block or spec.method != "AVE" or not along_lines(geometry, spec.in_shape, spec.out_shape):
        return None
    (window, _), width, v = spec.kernel, spec.in_shape[1], f"vf{8 * real_bytes}"
    size = width * window * real_bytes
    pieces = 1 if size <= _WHOLE_BYTES else math.ceil(size / _PIECE_BYTES)
    pieces = max(pieces, _TASKS // (spec.n * spec.channels))
    piece = math.ceil(math.ceil(width / pieces) / lanes) * lanes
    forward = spec.direction == "forward"
    x, y = (spec.x, spec.x_strides, spec.in_shape[0]), (spec.y, spec.y_strides, spec.out_shape[0])
    (from_, from_strides, rows_from), (to, to_strides, rows_to) = (x, y) if forward else (y, x)

    def place(name: str, strides: tuple[int, int]) -> str:
        channel = f" + c * {strides[1]}" if spec.channels > 1 else ""
        return f"{name} + n * {strides[0]}{channel} + h * {width} + w"

    load = f"const {v} out = {v}_load_n({place(from_, from_strides)}, m);"
    maps = spec.maps or Maps((load,), (f"const {v} out = acc;",), (), ())
    at = place(to, to_strides)
    value = f"{v}_add({v}_load_n({at}, m), out)" if spec.accumulate else "out"
    stores = (Result(to, at, value, (width, *to_strides)), *maps.more)
    return LineView(
        to,
        from_,
        rows_to,
        rows_from,
        width,
        window,
        before=spec.pad[0] if forward else window - 1 - spec.pad[0],
        piece=piece,
        pieces=math.ceil(width / piece),
        take=maps.take,
        give=maps.give,
        stores=stores,
        aligned=" && ".join(f"(uintptr_t){s.name} % sizeof({v}) == 0" for s in stores),
        names_channel=spec.channels > 1,
    )
