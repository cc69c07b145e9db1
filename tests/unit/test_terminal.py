"""The lines of programs that `make run` shows, and the restart of a MongoDB server whose writes have failed."""

import os
import signal
import subprocess
import sys

import pytest

from deploy import terminal
from deploy.terminal import Screen


@pytest.mark.parametrize(
    ("line", "is_shown"),
    [
        ('{"event": "listening", "level": "info"}', False),
        ('{"event": "listening", "level": "debug"}', False),
        ('{"event": "collector is down", "level": "warning"}', True),
        ('{"event": "bug", "level": "error"}', True),
        ("Traceback (most recent call last):", True),
        ("The settings are wrong:", True),
        ("[1]", True),
        ("", False),
        ("secantusd-rs listening on 127.0.0.1:37017", False),
    ],
)
def test_warnings_and_lines_other_than_log_lines_are_shown(
    line: str, is_shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Screen(start_s=0).show("identity", [line])
    assert capsys.readouterr().err == (f"identity: {line}\n" if is_shown else "")


WARNING = '{"event": "MongoDB does not answer", "level": "warning"}'


def test_warnings_of_a_suite_that_becomes_ready_in_time_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    screen.show("identity", [WARNING, "Traceback"])
    monkeypatch.setattr(terminal, "is_ready", lambda _gateway: True)
    screen.show_when_ready("here")
    screen.show("identity", [WARNING])
    assert capsys.readouterr().err == f"identity: Traceback\nFootfall is ready at here\nidentity: {WARNING}\n"


def test_warnings_of_a_suite_that_is_not_ready_in_time_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen, answers = Screen(start_s=0.05), iter([False, False, True])
    screen.show("identity", [WARNING])
    monkeypatch.setattr(terminal, "is_ready", lambda _gateway: next(answers))
    screen.show_when_ready("here")
    assert capsys.readouterr().err == f"identity: {WARNING}\nFootfall is ready at here\n"


def event(program: str, pid: int, output: str) -> str:
    """What supervisord sends to a listener."""
    payload = f"processname:{program} groupname:any pid:{pid} channel:stdout\n{output}"
    return (
        f"ver:3.0 server:any serial:1 pool:any poolserial:1 eventname:PROCESS_LOG_STDOUT len:{len(payload)}\n{payload}"
    )


def test_a_mongodb_server_that_must_be_restarted_is_ended() -> None:
    line = "[1:2][3:0x4], WT_SESSION: [ERROR]: the process must exit and restart: WT_PANIC: WiredTiger library panic\n"
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleep) as mongo, subprocess.Popen(sleep) as other:
        subprocess.run(
            [sys.executable, "-m", "deploy.terminal"],
            input=event("history", other.pid, line) + event("mongo", mongo.pid, line),
            capture_output=True,
            text=True,
            env=os.environ | {"GATEWAY_PORT": "1"},
            check=False,  # it ends with an error when its input ends
        )
        assert mongo.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
