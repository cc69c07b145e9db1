"""Turns a check that will hold soon into one that holds now."""

# ruff: noqa: ASYNC109 - a parameter, not asyncio.timeout: the last AssertionError says more than a TimeoutError

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

Result = TypeVar("Result")


@overload
async def eventually(check: Callable[[], Awaitable[Result]], timeout: float = ..., every: float = ...) -> Result: ...


@overload
async def eventually(check: Callable[[], Result], timeout: float = ..., every: float = ...) -> Result: ...


async def eventually(
    check: Callable[[], Any],
    timeout: float = 30.0,
    every: float = 0.02,
) -> Any:
    """Call `check`, plain or async, until it neither raises AssertionError nor answers False; give back its answer.

    Raises:
        AssertionError: the last one, after `timeout` seconds. Every other error passes immediately.

    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer = check()
            if inspect.isawaitable(answer):
                answer = await answer
            assert answer is not False, f"still False after {timeout} s"
        except AssertionError:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(every)
        else:
            return answer
