"""The one walk over expressions, arrays and layers that refer to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def postorder(roots: Iterable[T], below: Callable[[T], Sequence[T]]) -> Iterator[T]:
    """Everything that the roots need, each thing once (by identity) and behind what ``below`` says that it needs."""
    seen: set[int] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        thing, done = stack.pop()
        if done:
            yield thing
        elif id(thing) not in seen:
            seen.add(id(thing))
            needs = below(thing)
            if not needs:
                yield thing
                continue
            stack.append((thing, True))
            stack.extend([(each, False) for each in reversed(needs)])
