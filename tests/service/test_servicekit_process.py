"""What an operator sees of a process that the service kit runs: exit codes, signals, ports, and lines of JSON."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from footfall_servicekit.channel import open_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from tests.tools.eventually import eventually
from tests.tools.ports import free_ports

PROGRAM = """
import asyncio, logging, sys
import structlog
from pydantic_settings import SettingsConfigDict
from footfall_servicekit.background import RefusalError
from footfall_servicekit.process import run, serve
from footfall_servicekit.server import Server
from footfall_servicekit.settings import ServiceSettings, load_to_serve

class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="TRIAL_")

async def work():
    logging.getLogger("library").warning("from a %s", "library")
    try:
        raise ValueError("quotes ada@example.com")
    except ValueError:
        structlog.get_logger().exception("it failed")
        logging.getLogger("library").exception("the library failed")
    if "die" in sys.argv:
        raise RuntimeError("quotes ada@example.com")
    if "refuse" in sys.argv:
        raise RefusalError("TRIAL_KEY: another one was used here")
    await asyncio.sleep(3600)

async def close():
    structlog.get_logger().info("closed")

settings = load_to_serve(Settings)

async def main():
    return await serve(Server(settings, {}, background=[work], close=[close]))

run(settings, "trial", main)
"""


class Process:
    """A running trial process and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.raw = b""

    async def read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.raw += line
            self.lines.append(json.loads(line))

    def line(self, event: str) -> dict[str, Any]:
        found = [line for line in self.lines if line["event"] == event]
        assert found, f"no line {event!r} in {self.lines}"
        return found[0]

    async def port(self) -> int:
        return int((await eventually(lambda: self.line("listening"), timeout=60))["port"])


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            *arguments,
            env={key: value for key, value in os.environ.items() if key != "LOG_LEVEL"} | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    reading = asyncio.create_task(process.read())
    try:
        yield process
    finally:
        if process.process.returncode is None:
            process.process.kill()
        await process.process.wait()
        await reading


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_process_in_order_with_exit_code_0(number: signal.Signals) -> None:
    async with running(TRIAL_DRAIN_DELAY_MS="100") as process:
        port = await process.port()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await eventually(lambda: process.line("serving"))
            process.process.send_signal(number)
            told = [answer.status async for answer in watch]
            assert told[-1] == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await asyncio.wait_for(process.process.wait(), 30) == 0
    names = [line["event"] for line in process.lines]
    assert names[-3:] == ["stopping", "closed", "stopped"] or names[-4:-1] == ["stopping", "rpc", "closed"]


async def test_a_second_signal_skips_to_closing() -> None:
    async with running(TRIAL_DRAIN_DELAY_MS="60000") as process:
        await process.port()
        process.process.terminate()
        await eventually(lambda: process.line("stopping"))
        process.process.terminate()
        assert await asyncio.wait_for(process.process.wait(), 30) == 0  # not after the 60 s of the first
    assert process.line("closed")


async def test_background_work_that_dies_takes_the_process_down_and_says_why() -> None:
    async with running("die", TRIAL_DRAIN_DELAY_MS="0") as process:
        assert await asyncio.wait_for(process.process.wait(), 20) == 1
    line = process.line("background work failed; the process stops")
    assert (line["work"], line["exception"]) == ("work", "RuntimeError")
    assert process.line("closed")


async def test_every_line_is_json_and_quotes_no_exception_unless_debugging() -> None:
    async with running() as process:
        await process.port()
        await eventually(lambda: process.line("the library failed"))
        line = process.line("from a library")
        assert (line["service"], line["level"], line["logger"]) == ("trial", "warning", "library")
    assert "in work" in process.line("it failed")["stack"]
    assert process.line("it failed")["exception"] == "ValueError"
    assert process.line("the library failed")["exception"] == "ValueError"
    assert b"ada@" not in process.raw
    async with running(LOG_LEVEL="debug") as process:
        await process.port()
        assert "ada@example.com" in (await eventually(lambda: process.line("it failed")))["stack"]


async def test_a_signal_lets_the_process_log_at_level_debug_and_another_one_no_longer() -> None:
    async with running() as process:
        port = await process.port()

        async def checked(level: str) -> None:
            """A check of its health after the level has changed is logged at level debug."""
            changes = [line for line in process.lines if line["event"] == "the log level has changed"]
            assert [line["log_level"] for line in changes][-1:] == [level]
            async with open_channel(f"127.0.0.1:{port}") as channel:
                request = health_pb2.HealthCheckRequest()
                await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)

        process.process.send_signal(signal.SIGUSR1)
        await eventually(lambda: checked("debug"))
        await eventually(lambda: process.line("rpc"))
        process.process.send_signal(signal.SIGUSR1)
        await eventually(lambda: checked("info"))
        process.process.terminate()
        assert await asyncio.wait_for(process.process.wait(), 30) == 0
    changed = [number for number, line in enumerate(process.lines) if line["event"] == "the log level has changed"]
    assert [line["event"] for line in process.lines[changed[1] :] if line["level"] == "debug"] == []


async def test_metrics_are_served_only_on_a_port_that_is_set() -> None:
    [metrics_port] = free_ports(1)
    async with running(TRIAL_METRICS_PORT=str(metrics_port)) as process:
        await process.port()
        await eventually(lambda: process.line("serving"))
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{metrics_port}/metrics"
            text = (await client.get(url)).text
            open_metrics = await client.get(url, headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert "footfall_process_ready 1.0" in text
    assert 'footfall_build_info{python="' in text
    assert [
        line for line in text.splitlines() if not line.startswith(("# HELP footfall_", "# TYPE footfall_", "footfall_"))
    ] == []
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")
    assert process.line("listening")["metrics_port"] == metrics_port
    async with running() as process:
        await process.port()
        assert process.line("listening")["metrics_port"] is None


async def test_a_port_in_use_ends_the_process_with_a_line_that_names_it() -> None:
    async with running() as first:
        port = await first.port()
        async with running(TRIAL_PORT=str(port)) as second:
            assert second.process.stderr
            said = (await second.process.stderr.read()).decode()
            assert await asyncio.wait_for(second.process.wait(), 20) == 2
    assert f"TRIAL_PORT: cannot listen on port {port}" in said


@pytest.mark.parametrize("to", ["", ">/dev/full", ">&-"], ids=["a pipe without a reader", "a full disk", "closed"])
async def test_without_a_standard_output_it_serves_and_the_first_signal_ends_it(to: str) -> None:
    [port] = free_ports(1)
    reader, writer = os.pipe()
    os.close(reader)
    program = ["/bin/sh", "-c", f'exec "$@" {to}', "sh", sys.executable, "-c", PROGRAM]
    environment = os.environ | {"TRIAL_PORT": str(port), "TRIAL_DRAIN_DELAY_MS": "0"}
    process = await asyncio.create_subprocess_exec(*program, env=environment, stdout=writer)
    os.close(writer)
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            check: Any = health_pb2_grpc.HealthStub(channel).Check
            request = health_pb2.HealthCheckRequest()
            await check(request, timeout=60, wait_for_ready=True)
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_a_store_forbids_ends_the_process_in_words_and_without_a_stack() -> None:
    async with running("refuse", TRIAL_DRAIN_DELAY_MS="0") as process:
        assert await asyncio.wait_for(process.process.wait(), 30) == 2
    line = process.line("refusing to go on; the process stops")
    assert line["problem"] == "TRIAL_KEY: another one was used here"
    assert "stack" not in line


async def test_variables_that_are_misspelt_are_warned_of() -> None:
    async with running(TRIAL_PROT="1", TRIL_PORT="1", OTHER_PORT="1") as process:
        await process.port()
        found = [line for line in process.lines if line["event"] == "a variable of the environment is not known"]
    assert [(line["variable"], line["nearest"]) for line in found] == [
        ("TRIAL_PROT", "TRIAL_PORT"),
        ("TRIL_PORT", "TRIAL_PORT"),
    ]
    assert {line["level"] for line in found} == {"warning"}


async def test_wrong_settings_end_the_process_with_all_of_them_named() -> None:
    async with running(TRIAL_PORT="high", TRIAL_STOP_GRACE_MS="-1", LOG_LEVEL="loud") as process:
        assert process.process.stderr
        said = (await process.process.stderr.read()).decode()
        assert await process.process.wait() == 2
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == [
        "TRIAL_PORT",
        "LOG_LEVEL",
        "TRIAL_STOP_GRACE_MS",
    ]
    assert "loud" not in said


async def test_a_channel_to_a_process_that_is_killed_finds_the_next_one() -> None:
    request = health_pb2.HealthCheckRequest()
    async with running() as first:
        port = await first.port()
        async with open_channel(f"127.0.0.1:{port}") as channel:
            check: Any = health_pb2_grpc.HealthStub(channel).Check
            await check(request, timeout=30)
            first.process.kill()
            await first.process.wait()
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await check(request, timeout=5)
            async with running(TRIAL_PORT=str(port)) as second:
                await second.port()
                await check(request, timeout=30, wait_for_ready=True)
