"""Collects the items of a stream in a list that a test looks at meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

Item = TypeVar("Item")


def collecting(items: AsyncIterator[Item], into: list[Item]) -> "asyncio.Task[None]":
    """A task that ends with the stream, with its error if it has one."""

    async def collect() -> None:
        async for item in items:
            into.append(item)  # noqa: PERF401 - each item is seen as it comes

    return asyncio.create_task(collect())
