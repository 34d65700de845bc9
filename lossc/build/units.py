"""Splits a generated C file into translation units, so that several compilers work at once.

The readable file stays the product; units exist for the time of a build. Each repeats what comes before the first
kernel (headers, constants, the net's type) and holds some of the kernels, which lose their ``static`` and stay hidden
in the library; the last unit holds the rest of the file too. ``#line`` lets messages name the file that users know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lossc.errors import InternalError

#: Lines from which on a unit of its own pays: the headers alone take a compiler some tenths of a second.
LEAST = 600

#: (name, first line, last line) of a kernel's text, lines counted from 1.
Kernel = tuple[str, int, int]


def split(source: str, kernels: Sequence[Kernel], jobs: int, file: str = "net.c") -> tuple[str, ...]:
    """The units of ``source`` for ``jobs`` compilers at once: ``source`` alone where more would not pay.
    ``file``: what messages call it.

    ``kernels`` in the order of the file. Raises InternalError where one of them has no definition in its lines.
    """
    lines = source.splitlines(keepends=True)
    total = sum(last - first + 1 for _, first, last in kernels)
    count = min(2 * jobs, total // LEAST, len(kernels)) if jobs > 1 else 1
    if count < 2 * jobs:
        count = min(count, jobs)  # all at once: one more would keep a compiler busy while the others have none
    if count < 2:
        return (source,)
    head, after = "".join(lines[: kernels[0][1] - 1]), kernels[-1][2]
    rest = f'#line {after + 1} "{file}"\n' + "".join(lines[after:])
    groups: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * (count - 1) + [len(lines) - after]
    prototypes = []
    for name, first, last in sorted(kernels, key=lambda k: k[1] - k[2]):  # the longest first, each where least is
        text = "".join(lines[first - 1 : last])
        found = re.search(rf"^static ((?:void|int) {name}\([^{{;]*\))\s*\{{", text, re.MULTILINE)
        if found is None:
            raise InternalError(f"{name} is not defined in its lines of the C")
        prototypes.append(f"{found.group(1)};\n")
        at = sizes.index(min(sizes))
        sizes[at] += last - first + 1
        start = found.start()
        groups[at].append(f'#line {first} "{file}"\n{text[:start]}{text[start + len("static ") :]}\n')
    groups[-1] += [*prototypes, rest]
    return tuple(head + "".join(group) for group in groups)
