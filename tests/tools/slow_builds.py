"""Builds of indexes that are slow or refused, before a MongoDB server."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.tools.faulty_mongo import FaultyMongo

_MANY = 100


@contextmanager
def slow_builds(mongo: FaultyMongo, seconds: float, *, after: int = 0, count: int = _MANY) -> Iterator[None]:
    """After the next `after` of them, `count` commands `createIndexes` wait so long. Others do not."""
    mongo.commands, mongo.delays_s = {"createIndexes"}, [0.0] * after + [seconds] * count
    yield
    mongo.delays_s = []


@contextmanager
def refused_builds(mongo: FaultyMongo, code: int, count: int) -> Iterator[None]:
    """The next `count` times `createIndexes` fails with this code."""
    mongo.commands, mongo.refusals = {"createIndexes"}, [{"ok": 0.0, "code": code, "errmsg": "refused"}] * count
    yield
    mongo.refusals = []
