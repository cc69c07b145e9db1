"""`make run` before it starts programs: credentials, ports, the data folder."""

import socket
import stat
from pathlib import Path

import pytest

from deploy.embedded import DEFAULT_PORTS, Refusal, prepare
from deploy.run import read_credentials, read_ports
from tests.tools.ports import free_ports


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_USER", "API_PASSWORD", *DEFAULT_PORTS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Free ports, set in the environment."""
    free = dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True))
    for name, port in free.items():
        monkeypatch.setenv(name, str(port))
    return free


def test_credentials_are_created_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    made, is_new = read_credentials(tmp_path)
    assert is_new
    assert len(made.password) >= 20
    assert stat.S_IMODE((tmp_path / "credentials").stat().st_mode) == 0o600
    assert read_credentials(tmp_path) == (made, False)


def test_credentials_of_the_environment_come_first_and_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_USER", "me")
    monkeypatch.setenv("API_PASSWORD", "secret")
    assert read_credentials(tmp_path) == (("me", "secret"), False)
    assert not (tmp_path / "credentials").exists()


def test_half_of_the_credentials_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_USER", "me")
    with pytest.raises(Refusal, match="both"):
        read_credentials(tmp_path)


def test_a_malformed_credentials_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("nonsense\n")
    with pytest.raises(Refusal, match="user:password"):
        read_credentials(tmp_path)


def test_ports_come_from_the_environment(ports: dict[str, int]) -> None:
    assert read_ports() == ports


def test_all_ports_that_are_taken_are_named(ports: dict[str, int]) -> None:
    taken = ports["GATEWAY_PORT"], ports["MONGO_PORT"]
    with (
        socket.create_server(("127.0.0.1", taken[0])),
        socket.create_server(("127.0.0.1", taken[1])),
        pytest.raises(Refusal, match=rf"GATEWAY_PORT={taken[0]}(?s:.*)MONGO_PORT={taken[1]}") as refusal,
    ):
        read_ports()
    assert "REDIS_PORT" not in str(refusal.value)


@pytest.mark.usefixtures("ports")
def test_one_port_for_two_programs_is_refused(ports: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTORY_PORT", str(ports["IDENTITY_PORT"]))
    with pytest.raises(Refusal, match="HISTORY_PORT"):
        read_ports()


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "٣"])
def test_a_value_that_is_not_a_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", text)
    with pytest.raises(Refusal, match="GATEWAY_PORT must be"):
        read_ports()


def test_a_data_folder_whose_socket_would_have_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="too long"):
        prepare(tmp_path / ("x" * 90))


def test_a_data_folder_of_before_is_closed_to_others_and_what_it_links_to_is_not_touched(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (data / "mongo").mkdir(parents=True)
    for file in (data / "credentials", data / "mongo" / "events", elsewhere):
        file.touch(0o644)
    (data / "link").symlink_to(elsewhere)
    for folder in (data, data / "mongo"):
        folder.chmod(0o755)
    prepare(data)
    modes = {name: mode(data / name) for name in (".", "mongo", "log", "mongo/events", "credentials")}
    assert modes == {".": 0o700, "mongo": 0o700, "log": 0o700, "mongo/events": 0o600, "credentials": 0o600}
    assert mode(elsewhere) == 0o644


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_data_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="cannot be used"):
        prepare(tmp_path / "file")
