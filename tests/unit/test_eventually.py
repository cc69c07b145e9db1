"""The one tool the tests wait with."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from tests.tools.eventually import eventually


async def test_a_check_is_repeated_until_it_holds() -> None:
    answers = iter([False, False, True])
    assert await eventually(lambda: next(answers)) is True
    assert list(answers) == []


async def test_an_async_check_gives_back_what_it_found() -> None:
    tries: list[int] = []

    async def third_time() -> int:
        tries.append(1)
        assert len(tries) == 3
        return len(tries)

    assert await eventually(third_time) == 3


async def test_what_never_holds_fails_with_its_own_words() -> None:
    def check() -> None:
        raise AssertionError("nobody came")

    with pytest.raises(AssertionError, match="nobody came"):
        await eventually(check, timeout=0.05)


async def test_a_grpc_answer_means_not_yet_only_when_it_is_not_found() -> None:
    answers = [grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND]

    def check() -> None:
        raise AioRpcError(answers.pop(), Metadata(), Metadata())

    with pytest.raises(AioRpcError) as raised:
        await eventually(check)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert not answers
