"""Splits items into lists whose items have a limited size together."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def in_parts(items: Iterable[Item], limit: int, size_of: Callable[[Item], int] = lambda _: 1) -> Iterator[list[Item]]:
    """The items in order, in lists that end when the sizes of their items reach a limit. By default each has size 1."""
    part: list[Item] = []
    size = 0
    for item in items:
        part.append(item)
        size += size_of(item)
        if size >= limit:
            yield part
            part, size = [], 0
    if part:
        yield part


async def stream_in_parts(
    items: AsyncIterator[Item], limit: int, size_of: Callable[[Item], int] = lambda _: 1
) -> AsyncIterator[list[Item]]:
    """The same for items that arrive one by one."""
    part: list[Item] = []
    size = 0
    async for item in items:
        part.append(item)
        size += size_of(item)
        if size >= limit:
            yield part
            part, size = [], 0
    if part:
        yield part
