"""C text of a map's rows: from a row's number to its indices, and the vectors of rows side by side."""

from __future__ import annotations

from lossc.codegen.mapblocks import BlockWriter
from lossc.codegen.mapvalues import Block, Scope


class RowWriter(BlockWriter):
    """Writes what a task does for one row, or for vectors of rows."""

    def _decode(self, lines: list[str | Block], row: str) -> None:
        """The indices of the outer dimensions from one row number."""
        step = 1
        out = []
        for d in reversed(self.outer):
            text = row if step == 1 else f"{row} / {step}"
            if d is not self.outer[0]:
                text = f"({text}) % {d.extent}" if step != 1 else f"{text} % {d.extent}"
            out.append(f"const ptrdiff_t {self.index[d]} = {text};")
            step *= d.extent
        lines += reversed(out)

    def _one_row(self, lines: list[str | Block], begin: str, end: str, count: int | None) -> None:
        self.row = Scope(lines)
        if self.v is None or not self.plan.vector_in_rows:
            self.block = self.row
            self._loops(lines)
            return

        def leaf(body: list[str | Block], strip: int = 1) -> None:
            self.block = Scope(body, strip=strip)
            self.loop = self.block
            self._loops(body)

        i, step = self.index[self.v], self.style.lanes
        if (strip := self._strip()) > 1:
            wide = strip * self.lanes
            rest = self.v.extent % wide
            stop = end
            if rest and end == "end":
                stop = self.names.fresh("whole")
                lines.append(f"const ptrdiff_t {stop} = end - (end - begin) % ({strip} * {step});")
            elif rest:
                stop = str(self.v.extent - rest)
            block = Block(f"for (ptrdiff_t {i} = {begin}; {i} < {stop}; {i} += {strip} * {step})")
            self.index[self.v] = f"({i} + u * {step})"
            leaf(block.body, strip)
            self.index[self.v] = i
            lines.append(block)
            if not rest:
                return
            begin = stop
        if count == -1:  # chunks of whole vectors
            block = Block(f"for (ptrdiff_t {i} = {begin}; {i} < {end}; {i} += {step})")
            leaf(block.body)
            lines.append(block)
        else:
            self._vector_loop(lines, self.v, begin, end, count, leaf)
