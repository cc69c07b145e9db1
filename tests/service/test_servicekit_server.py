"""What a caller and an operator see of a server that the service kit runs: statuses, health, metrics, the stop."""

import asyncio
import gzip
import os
import re
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from footfall_servicekit import channel, logs, metrics, probe
from footfall_servicekit.background import NotReadyError, repeat
from footfall_servicekit.channel import forwarded, open_channel, remaining, time_left
from footfall_servicekit.errors import ErrorDetails, RequestError, details_of
from footfall_servicekit.health import reason_in
from footfall_servicekit.server import Server
from footfall_servicekit.settings import ServiceSettings
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # ships none

from tests.tools.eventually import eventually

SERVICE = "servicekit.test.v1.Answering"
Text = wrappers_pb2.StringValue
Behaviour = Callable[[Any, Any], Any]
HEALTH = health_pb2.HealthCheckResponse


def _declare_service() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="servicekit/test/v1/answering.proto",
        package="servicekit.test.v1",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    service = file.service.add(name="Answering")
    text = ".google.protobuf.StringValue"
    service.method.add(name="Answer", input_type=text, output_type=text)
    service.method.add(name="AnswerBatch", input_type=text, output_type=text)
    service.method.add(name="Stream", input_type=text, output_type=text, server_streaming=True)
    descriptor_pool.Default().Add(file)


_declare_service()


async def echo(request: Text, _context: Any) -> Text:
    return request


def add(answer: Behaviour = echo, stream: Behaviour | None = None) -> Callable[[grpc.aio.Server], None]:
    """What adds the service with these two behaviours to a server, as generated code would. A batch is any answer."""
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(answer, Text.FromString, Text.SerializeToString)
        for name in ("Answer", "AnswerBatch")
    }
    if stream:
        handlers["Stream"] = grpc.unary_stream_rpc_method_handler(stream, Text.FromString, Text.SerializeToString)
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    return lambda server: server.add_generic_rpc_handlers((generic,))


def settings(**changes: Any) -> ServiceSettings:
    return ServiceSettings(**({"drain_delay_ms": 0} | changes))


class Client:
    """The methods of the service, and health, over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.answer: Any = channel.unary_unary(f"/{SERVICE}/Answer", Text.SerializeToString, Text.FromString)
        self.batch: Any = channel.unary_unary(f"/{SERVICE}/AnswerBatch", Text.SerializeToString, Text.FromString)
        self.stream: Any = channel.unary_stream(f"/{SERVICE}/Stream", Text.SerializeToString, Text.FromString)
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def why_not_serving(self) -> str:
        call = self.health.Check(health_pb2.HealthCheckRequest())
        await call
        return reason_in(await call.trailing_metadata())

    async def is_serving(self, service: str = "") -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(answer.status == HEALTH.SERVING)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Client]:
    port = await server.start()
    channel = open_channel(f"127.0.0.1:{port}")
    try:
        yield Client(channel)
    finally:
        await channel.close()
        await server.stop()


async def failure(call: Awaitable[object]) -> ErrorDetails:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return details_of(caught.value)


async def succeeds(call: Awaitable[object]) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError:
        return False
    return True


def raising(error: Exception) -> Behaviour:
    async def behaviour(_request: Text, _context: Any) -> Text:
        raise error

    return behaviour


@pytest.mark.parametrize(
    ("make", "arguments", "expected"),
    [
        (
            RequestError.invalid_fields,
            ([("page_size", "must not be negative"), ("filter.site", "must be known")],),
            ErrorDetails(
                grpc.StatusCode.INVALID_ARGUMENT,
                "page_size: must not be negative; filter.site: must be known",
                "INVALID_FIELD",
                violations=(("page_size", "must not be negative"), ("filter.site", "must be known")),
            ),
        ),
        (
            RequestError.not_found,
            ("book", "books/a b"),
            ErrorDetails(grpc.StatusCode.NOT_FOUND, "no such book", "RESOURCE_NOT_FOUND", resource_type="book"),
        ),
        (
            RequestError.failed_precondition,
            ("BOOK_LENT", "it is lent"),
            ErrorDetails(grpc.StatusCode.FAILED_PRECONDITION, "it is lent", "BOOK_LENT"),
        ),
        (
            RequestError.exhausted,
            ("too many", 250),
            ErrorDetails(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", "LIMIT_REACHED", retry_ms=250),
        ),
        (
            RequestError.permission_denied,
            ("not yours",),
            ErrorDetails(grpc.StatusCode.PERMISSION_DENIED, "not yours", "NOT_ALLOWED"),
        ),
        (
            RequestError.unavailable,
            ("no store", 0),
            ErrorDetails(grpc.StatusCode.UNAVAILABLE, "no store", "DEPENDENCY_UNAVAILABLE", retry_ms=0),
        ),
    ],
    ids=lambda value: value.reason if isinstance(value, ErrorDetails) else "",
)
async def test_a_refusal_reaches_the_caller_with_its_details(
    make: Callable[..., RequestError], arguments: tuple[Any, ...], expected: ErrorDetails
) -> None:
    async with running(Server(settings(), {SERVICE: add(raising(make(*arguments)))})) as client:
        assert await failure(client.answer(Text(), timeout=5)) == expected


async def test_an_unhandled_exception_tells_the_caller_an_id_and_nothing_else() -> None:
    server = Server(settings(), {SERVICE: add(raising(ValueError("the secret of ada@example.com")))})
    async with running(server) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.answer(Text(), timeout=5, metadata=(("x-request-id", "abc123"),))
    error = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error, request id abc123"
    assert ("x-request-id", "abc123") in [*(error.trailing_metadata() or ())]
    everything = f"{error!r} {[*(error.trailing_metadata() or ())]} {[*(error.initial_metadata() or ())]}"
    assert "ada" not in everything
    assert "ValueError" not in everything


async def test_an_exception_in_a_stream_tells_no_more_and_what_came_before_arrives() -> None:
    async def stream(request: Text, _context: Any) -> AsyncIterator[Text]:
        yield request
        raise ValueError("secret")

    async with running(Server(settings(), {SERVICE: add(stream=stream)})) as client:
        call = client.stream(Text(value="first"), timeout=5)
        assert (await call.read()).value == "first"
        problem = await failure(call.read())
    assert problem.code is grpc.StatusCode.INTERNAL
    assert "secret" not in problem.message


async def test_a_method_that_the_service_did_not_write_is_unimplemented() -> None:
    def placeholder(_request: Text, context: Any) -> Text:  # as generated code has it
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        raise NotImplementedError

    async with running(Server(settings(), {SERVICE: add(placeholder, placeholder)})) as client:
        for name in ("Answer", "AnswerBatch", "Stream", "Invented"):
            method: Any = client.channel.unary_unary(f"/{SERVICE}/{name}")
            problem = await failure(method(b"", timeout=5))
            assert (problem.code, problem.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")


async def test_a_message_that_cannot_be_parsed_is_refused_without_a_word_of_it() -> None:
    async with running(Server(settings(), {SERVICE: add()})) as client:
        send_raw: Any = client.channel.unary_unary(f"/{SERVICE}/Answer")
        problem = await failure(send_raw(b"\xffsecret", timeout=5))
    assert problem.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "secret" not in problem.message


async def test_a_message_that_is_too_large_is_refused_with_details_up_to_twice_the_limit() -> None:
    async with running(Server(settings(max_message_bytes=1_024), {SERVICE: add()})) as client:
        assert await client.answer(Text(value="x" * 1_000), timeout=5)
        problem = await failure(client.answer(Text(value="x" * 1_500), timeout=5))
        assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        assert problem.retry_ms is None
        problem = await failure(client.answer(Text(value="x" * 3_000), timeout=5))
        assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")


async def test_a_compressed_request_is_decompressed_up_to_the_limit() -> None:
    text = Text(value="x" * 1_000)
    async with running(Server(settings(max_message_bytes=1_024), {SERVICE: add()})) as client:
        assert await client.answer(text, compression=grpc.Compression.Gzip, timeout=5) == text
        large = client.answer(Text(value="x" * 1_000_000), compression=grpc.Compression.Gzip, timeout=5)
        # With details: it was not decompressed by gRPC, which has no limit of memory.
        assert (await failure(large)).reason == "MESSAGE_TOO_LARGE"
        send_raw: Any = client.channel.unary_unary(f"/{SERVICE}/Answer")
        for damaged in (gzip.compress(text.SerializeToString())[:-1], b"\x1f\x8bno gzip"):
            assert (await failure(send_raw(damaged, timeout=5))).reason == "MALFORMED_MESSAGE"


@pytest.mark.parametrize(("encoding", "is_small"), [("identity", False), ("gzip", True)])
async def test_a_call_that_asks_for_gzip_is_answered_with_gzip(encoding: str, *, is_small: bool) -> None:
    async def stream(request: Text, _context: Any) -> AsyncIterator[Text]:
        yield request

    received = 0

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(passed(reader, to_server), passed(from_server, writer))

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        with closing(writer):
            while data := await reader.read(65_536):
                received += len(data)
                writer.write(data)

    server, text = Server(settings(), {SERVICE: add(stream=stream)}), Text(value="of little variety " * 5_000)
    async with running(server):
        proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
        async with proxy, open_channel(f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}") as channel:
            client = Client(channel)
            asking = {"timeout": 5, "metadata": (("x-answer-encoding", encoding),)}
            assert await client.answer(text, **asking) == text
            assert await client.stream(text, **asking).read() == text
    assert (received < 200_000) is is_small


async def test_no_call_outlives_the_ceiling_of_its_server() -> None:
    cancelled = asyncio.Event()

    async def slow(_request: Text, _context: Any) -> Text:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return Text()

    async with running(Server(settings(max_rpc_duration_ms=50), {SERVICE: add(slow)})) as client:
        problem = await failure(client.answer(Text(), timeout=30))
        assert (problem.code, problem.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "CEILING_REACHED")
        assert cancelled.is_set()


async def test_what_there_is_no_room_for_is_refused_with_the_time_to_wait_and_nothing_because_of_other_kinds() -> None:
    release = asyncio.Event()

    async def answer(request: Text, _context: Any) -> Text:
        if request.value == "slow":
            await release.wait()
        return request

    async def endless(request: Text, _context: Any) -> AsyncIterator[Text]:
        yield request
        await asyncio.Event().wait()

    told = settings(max_concurrent_rpcs=1, max_streams_per_method=2, stop_grace_ms=0)
    server = Server(told, {SERVICE: add(answer, endless)}, frequent=["AnswerBatch"])
    slow, health = Text(value="slow"), health_pb2.HealthCheckRequest()
    async with running(server) as client:
        streams = [client.stream(Text(value=str(number))) for number in range(2)]
        watches = [client.health.Watch(health) for _ in range(2)]
        for call in (*streams, *watches):
            await call.read()
        assert await client.answer(Text(value="room"), timeout=5) == Text(value="room")
        assert await client.batch(Text(value="room"), timeout=5) == Text(value="room")
        calls = [asyncio.ensure_future(method(slow, timeout=30)) for method in (client.answer, client.batch)]
        await eventually(lambda: metrics.RPC_IN_FLIGHT.labels(f"/{SERVICE}/Answer")._value.get() == 1)
        await eventually(lambda: metrics.RPC_IN_FLIGHT.labels(f"/{SERVICE}/AnswerBatch")._value.get() == 1)
        for refused in (
            client.answer(Text(), timeout=5),
            client.batch(Text(), timeout=5),
            client.stream(Text(), timeout=5).read(),
            client.health.Watch(health, timeout=5).read(),
        ):
            problem = await failure(refused)
            assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
            assert problem.retry_ms
        await eventually(client.is_serving)
        release.set()
        await asyncio.gather(*calls)
        for call in (streams[0], watches[0]):
            call.cancel()
        await eventually(lambda: succeeds(client.answer(Text(), timeout=5)))
        await eventually(lambda: succeeds(client.batch(Text(), timeout=5)))
        await eventually(lambda: succeeds(client.stream(Text()).read()))
        await eventually(lambda: succeeds(client.health.Watch(health).read()))


async def test_a_timeout_of_the_handlers_own_is_no_ceiling() -> None:
    async with running(Server(settings(), {SERVICE: add(raising(TimeoutError()))})) as client:
        assert (await failure(client.answer(Text(), timeout=5))).code is grpc.StatusCode.INTERNAL


async def test_a_call_made_for_another_gets_what_is_left_of_its_time() -> None:
    async def tell(_request: Text, context: Any) -> Text:
        return Text(value=str(remaining(context, ceiling_s=10.0, margin_s=0.5)))

    async with running(Server(settings(), {SERVICE: add(tell)})) as client:
        # 0.5 s is kept back; the clocks of both ends differ by some milliseconds.
        assert (
            4.0 < float((await client.answer(Text(), timeout=9)).value) <= 8.6
        )  # 0.5 is kept back; clocks of gRPC differ by some ms
        assert float((await client.answer(Text(), timeout=0.4)).value) == 0.0
        assert float((await client.answer(Text(), timeout=60)).value) == 10.0
        assert float((await client.answer(Text())).value) == 10.0
    assert time_left() is None  # outside a call
    async with running(Server(settings(), {SERVICE: add(tell_time_left)})) as client:
        assert 4.0 < float((await client.answer(Text(), timeout=9)).value) <= 8.9
        assert (await client.answer(Text(), timeout=0.1)).value == "0.0"
        assert (await client.answer(Text())).value == "None"


async def tell_time_left(_request: Text, _context: Any) -> Text:
    return Text(value=str(time_left()))


@pytest.mark.parametrize(("sent", "kept"), [("abc-123", True), ("two words", False), ("x" * 65, False), ("", False)])
async def test_a_request_keeps_its_id_across_services_when_it_is_fit_for_a_log(sent: str, *, kept: bool) -> None:
    async def tell(_request: Text, _context: Any) -> Text:
        assert forwarded() == (("x-request-id", logs.request_id.get()),)
        return Text(value=logs.request_id.get())

    async with running(Server(settings(), {SERVICE: add(tell)})) as client:
        call = client.answer(Text(), timeout=5, metadata=(("x-request-id", sent),))
        told = (await call).value
        assert (await call.trailing_metadata())["x-request-id"] == told
    assert (told == sent) is kept
    assert len(told) in (len(sent), 32)


@pytest.mark.parametrize(("frequent", "levels"), [((), ["info", "info"]), (("Answer",), ["debug", "info"])])
async def test_a_call_has_a_line_in_the_log_but_one_that_comes_with_every_batch_only_when_it_fails(
    frequent: tuple[str, ...], levels: list[str]
) -> None:
    async def picky(request: Text, _context: Any) -> Text:
        if request.value:
            raise RequestError.invalid("value", "must be empty")
        return request

    with structlog.testing.capture_logs() as lines:
        async with running(Server(settings(), {SERVICE: add(picky)}, frequent=frequent)) as client:
            await client.answer(Text(), timeout=5)
            await failure(client.answer(Text(value="x"), timeout=5))
    written = [line for line in lines if line.get("method") == f"/{SERVICE}/Answer"]
    assert [(line["code"], line["log_level"]) for line in written] == list(
        zip(["OK", "INVALID_ARGUMENT"], levels, strict=True)
    )


async def test_calls_that_fail_in_the_same_way_have_one_line() -> None:
    async def failing(_request: Text, _context: Any) -> Text:
        raise RequestError.exhausted("full", 1, "FULL")

    with structlog.testing.capture_logs() as lines:
        async with running(Server(settings(), {SERVICE: add(failing)})) as client:
            for _ in range(20):
                await failure(client.answer(Text(), timeout=5))
    written = [line for line in lines if line.get("method") == f"/{SERVICE}/Answer" and line["log_level"] != "debug"]
    assert [(line["event"], line["code"], line["reason"]) for line in written] == [
        ("calls of a method fail", "RESOURCE_EXHAUSTED", "FULL")
    ]


async def test_every_call_is_counted_by_its_code() -> None:
    def counted(code: str) -> float:
        return float(metrics.RPC_CALLS.labels(f"/{SERVICE}/Answer", code)._value.get())

    async def picky(request: Text, context: Any) -> Text:
        if request.value == "abort":
            await context.abort(grpc.StatusCode.ABORTED, "no")
        if request.value == "slow":
            await asyncio.sleep(60)
        return request

    before = {code: counted(code) for code in ("OK", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED")}
    async with running(Server(settings(), {SERVICE: add(picky)})) as client:
        await client.answer(Text(), timeout=5)
        assert (await failure(client.answer(Text(value="abort"), timeout=5))).code is grpc.StatusCode.ABORTED
        await failure(client.answer(Text(value="slow"), timeout=0.1))
        in_flight = metrics.RPC_IN_FLIGHT.labels(f"/{SERVICE}/Answer")._value
        await eventually(lambda: in_flight.get() == 0)
        leaving = client.answer(Text(value="slow"), timeout=5)
        await eventually(lambda: in_flight.get() == 1)
        leaving.cancel()
        await eventually(lambda: all(counted(code) == before[code] + 1 for code in before))
        assert in_flight.get() == 0


async def test_health_follows_a_change_of_readiness_that_lasts() -> None:
    answers = [False]

    async def ready() -> bool:
        if answers[0] is None:
            raise NotReadyError("the shop's store is full")
        return answers[0]

    async with running(Server(settings(), {SERVICE: add()}, ready=ready)) as client:
        assert not await client.is_serving()
        assert await client.why_not_serving()
        assert not await client.is_serving(SERVICE)
        assert (await failure(client.is_serving("someone.else"))).reason == "RESOURCE_NOT_FOUND"
        answers[0] = True
        await eventually(client.is_serving)
        assert await client.is_serving(SERVICE)
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        other = client.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        leaving = client.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        for call in (watch, other, leaving):
            assert (await call.read()).status == HEALTH.SERVING
        leaving.cancel()
        answers[0] = None  # type: ignore[call-overload]
        for call in (watch, other):
            assert (await asyncio.wait_for(call.read(), 5)).status == HEALTH.NOT_SERVING
        assert await client.why_not_serving() == "the shop's store is full"
        answers[0] = True
        await eventually(client.is_serving)
        assert await client.why_not_serving() == ""


async def test_a_store_that_fails_slowly_is_reported_as_soon_as_one_that_fails_at_once() -> None:
    failures = [0]
    is_broken = asyncio.Event()

    async def ready() -> bool:
        if is_broken.is_set():
            await asyncio.sleep(0.9)
            failures[0] += 1
            raise NotReadyError("the shop's store does not answer")
        return True

    async with running(Server(settings(), {SERVICE: add()}, ready=ready)) as client:
        await eventually(client.is_serving)
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == HEALTH.SERVING
        is_broken.set()
        assert (await asyncio.wait_for(watch.read(), 10)).status == HEALTH.NOT_SERVING
        assert failures[0] <= 2


async def says(client: Client, reason: str) -> bool:
    return await client.why_not_serving() == reason


async def test_the_probe_of_a_container_prints_why_a_server_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ready() -> bool:
        raise NotReadyError("the shop's store is full")

    server = Server(settings(), {SERVICE: add()}, ready=ready)
    async with running(server) as client:
        await eventually(lambda: says(client, "the shop's store is full"))
        monkeypatch.setattr("sys.argv", ["probe", f"127.0.0.1:{server.port}"])
        assert await asyncio.to_thread(probe.main) == 1
    assert capsys.readouterr().err == f"127.0.0.1:{server.port}: the shop's store is full\n"


async def test_open_streams_do_not_hold_up_a_stop_and_calls_in_flight_end_well() -> None:
    stopping = asyncio.Event()
    order: list[str] = []

    async def slow(_request: Text, _context: Any) -> Text:
        await asyncio.sleep(0.3)
        order.append("call ended")
        return Text(value="done")

    async def endless(request: Text, _context: Any) -> AsyncIterator[Text]:
        yield request
        await stopping.wait()

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            order.append("background cancelled")

    async def close() -> None:
        order.append("closed")

    server = Server(
        settings(stop_grace_ms=30_000),
        {SERVICE: add(slow, endless)},
        background=[background],
        close=[close],
        stopping=stopping,
    )
    port = await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        client = Client(channel)
        watch = client.health.Watch(health_pb2.HealthCheckRequest())
        await eventually(client.is_serving)
        await watch.read()
        stream = client.stream(Text())
        await stream.read()
        in_flight = asyncio.ensure_future(client.answer(Text(), timeout=5))
        await eventually(lambda: metrics.RPC_IN_FLIGHT.labels(f"/{SERVICE}/Answer")._value.get() == 1)
        started = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - started < 20  # not the 30 s of grace
        assert (await in_flight).value == "done"
        assert (await watch.read()).status == HEALTH.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await stream.read() is grpc.aio.EOF
    assert order == ["call ended", "background cancelled", "closed"]


async def test_asked_twice_a_stop_waits_for_nothing() -> None:
    async def slow(_request: Text, _context: Any) -> Text:
        await asyncio.sleep(60)
        return Text()

    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    server = Server(settings(drain_delay_ms=60_000, stop_grace_ms=60_000), {SERVICE: add(slow)}, close=[close])
    port = await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        in_flight = asyncio.ensure_future(Client(channel).answer(Text()))
        await eventually(lambda: metrics.RPC_IN_FLIGHT.labels(f"/{SERVICE}/Answer")._value.get() == 1)
        server.request_stop()
        server.request_stop()
        started = time.monotonic()
        await server.stopped()
        assert time.monotonic() - started < 30  # not the 60 s of either
        assert closed.is_set()
        assert (await failure(in_flight)).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_process_whose_background_work_dies_stops_with_exit_code_1(error: type[BaseException]) -> None:
    async def background() -> None:
        raise error

    server = Server(settings(), {SERVICE: add()}, background=[background])
    await server.start()
    assert await asyncio.wait_for(server.stopped(), 30) == 1


async def test_background_work_may_end_and_a_failing_close_does_not_keep_the_others_from_closing() -> None:
    closed = asyncio.Event()

    async def background() -> None:
        pass

    async def fail() -> None:
        raise OSError

    async def close() -> None:
        closed.set()

    server = Server(settings(), {SERVICE: add()}, background=[background], close=[fail, close])
    async with running(server) as client:
        await eventually(client.is_serving)
    assert closed.is_set()


async def test_repeated_work_outlives_an_unavailable_store_and_unexpected_failures() -> None:
    outcomes = iter((ConnectionError, None, KeyError, *[ConnectionError] * 9, KeyError, asyncio.CancelledError))

    async def work() -> None:
        if outcome := next(outcomes):
            raise outcome

    failures = metrics.BACKGROUND_FAILURES.labels(work.__qualname__)
    with structlog.testing.capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await repeat(0, ConnectionError, work)
    assert [(line["log_level"], "exc_info" in line) for line in lines] == [("warning", False), ("error", True)]
    assert failures._value.get() == 2


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_what_is_served_and_describes_it(version: str) -> None:
    itself = f"grpc.reflection.{version}.ServerReflection"
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in (SERVICE, itself)),
    ]
    async with running(Server(settings(), {SERVICE: add()})) as client:
        method: Any = client.channel.stream_stream(
            f"/{itself}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        listed, *described = [answer async for answer in method(iter(requests))]
    assert {SERVICE, "grpc.health.v1.Health", itself} <= {one.name for one in listed.list_services_response.service}
    for answer in described:
        assert answer.file_descriptor_response.file_descriptor_proto


async def test_a_taken_port_is_an_error_and_not_shared() -> None:
    first = Server(settings(), {SERVICE: add()})
    async with running(first):
        second = Server(settings(port=first.port), {SERVICE: add()})
        with pytest.raises(RuntimeError):
            await second.start()
        assert await second.stop() == 0


async def test_connections_take_half_of_the_open_files_and_those_that_are_there_go_on() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = len(os.listdir("/dev/fd"))
    connections = max(100, open_files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * connections, before[1]))
    try:
        server = Server(settings(), {SERVICE: add()})
        async with running(server) as client, AsyncExitStack() as held:
            assert await client.is_serving()
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(connections + 10)]
            for _, writer in silent:
                held.callback(writer.transport.abort)

            def open_count() -> int:
                return sum(not (reader.at_eof() or reader.exception()) for reader, _ in silent)

            await eventually(lambda: open_count() == connections - 1)
            assert await client.is_serving()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_service_that_no_proto_defines_is_refused_at_the_start() -> None:
    server = Server(settings(), {"servicekit.test.v1.Misspelt": add()})
    with pytest.raises(KeyError):
        await server.start()
    await server.stop()


async def test_a_caller_that_came_early_reaches_a_server_that_comes_later() -> None:
    first = Server(settings(), {SERVICE: add()})
    port = await first.start()
    await first.stop()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        client = Client(channel)
        assert (await failure(client.answer(Text(), timeout=5))).code is grpc.StatusCode.UNAVAILABLE
        async with running(Server(settings(port=port), {SERVICE: add()})):
            answer = await client.answer(Text(value="hello"), timeout=10, wait_for_ready=True)
            assert answer.value == "hello"


async def test_what_is_unavailable_is_tried_again_and_nothing_else() -> None:
    calls: list[str] = []

    async def third_time(request: Text, _context: Any) -> Text:
        calls.append(request.value)
        if request.value == "exhausted":
            raise RequestError.exhausted("full", 1)
        if request.value == "waited":
            raise RequestError.unavailable("no answer within the time limit", 1, repeats=False)
        if len(calls) < 3:
            raise RequestError.unavailable("not yet", 1)
        return request

    async with running(Server(settings(), {SERVICE: add(third_time)})) as client:
        await client.answer(Text(value="again"), timeout=5)
        assert calls == ["again"] * 3
        await failure(client.answer(Text(value="exhausted"), timeout=5))
        refused = await failure(client.answer(Text(value="waited"), timeout=5))
        assert (refused.code, refused.retry_ms) == (grpc.StatusCode.UNAVAILABLE, 1)
        assert calls == ["again"] * 3 + ["exhausted", "waited"]


async def test_a_quiet_stream_outlives_its_clients_pings_unless_they_come_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "_CLIENT_PING_MS", 900)  # gRPC sends no more than one a second

    async def quiet(request: Text, _context: Any) -> AsyncIterator[Text]:
        yield request
        await asyncio.sleep(4.5)  # the third ping that comes too early closes the connection
        yield request

    async with running(Server(settings(), {SERVICE: add(stream=quiet)})) as too_often:
        monkeypatch.setattr(channel, "_SERVER_MIN_PING_MS", 300)
        async with running(Server(settings(), {SERVICE: add(stream=quiet)})) as client:
            closed, call = [each.stream(Text(value="still here")) for each in (too_often, client)]
            assert [(await call.read()).value for _ in range(2)] == ["still here"] * 2
            await closed.read()
            problem = await failure(closed.read())
    assert problem.code is grpc.StatusCode.UNAVAILABLE
    assert "too many pings" in problem.message.lower()


def test_grpc_knows_every_option_it_is_given() -> None:
    [library] = [file.read_bytes() for file in Path(grpc.__file__).parent.glob("_cython/cygrpc*.so")]
    source = "".join(file.read_text(encoding="utf-8") for file in Path(channel.__file__).parent.glob("*.py"))
    named = set(re.findall(r'"(grpc\.[a-z0-9_.]+)"', source))
    assert len(named) > 10
    assert [name for name in named if name.encode() + b"\0" not in library] == []
