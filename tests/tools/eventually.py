"""Turns a check that will hold soon into one that holds now."""

# ruff: noqa: ASYNC109 - a parameter, not asyncio.timeout: the last error of the check says more than a TimeoutError

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import grpc

Result = TypeVar("Result")
# What a check raises while its subject is not there: an assertion, the gRPC answer NOT_FOUND, or what comes of reading
# the JSON body of an error as the list or object it will be. Every other gRPC answer is a fault.
NOT_YET = (AssertionError, LookupError, TypeError, ValueError, grpc.aio.AioRpcError)


@overload
async def eventually(check: Callable[[], Awaitable[Result]], timeout: float = ..., every: float = ...) -> Result: ...


@overload
async def eventually(check: Callable[[], Result], timeout: float = ..., every: float = ...) -> Result: ...


async def eventually(
    check: Callable[[], Any],
    timeout: float = 30.0,
    every: float = 0.02,
) -> Any:
    """Call `check`, plain or async, until it neither fails as NOT_YET says nor answers False; give back its answer.

    Raises:
        Exception: the last one, after `timeout` seconds. Every error that does not mean "not yet" passes immediately.

    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer = check()
            if inspect.isawaitable(answer):
                answer = await answer
            assert answer is not False, f"still False after {timeout} s"
        except NOT_YET as error:
            is_other = isinstance(error, grpc.aio.AioRpcError) and error.code() is not grpc.StatusCode.NOT_FOUND
            if is_other or time.monotonic() >= deadline:
                raise
            await asyncio.sleep(every)
        else:
            return answer
