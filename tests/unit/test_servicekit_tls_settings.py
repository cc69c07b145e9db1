"""Settings of TLS and of stores: what does not fit together stops the start and is named, and passwords are not."""

from pathlib import Path

import pytest
from footfall_servicekit.settings import ServiceSettings, load, shared
from footfall_servicekit.values import StoreUrl
from pydantic_settings import SettingsConfigDict

from deploy.certificates import Authority


class Settings(ServiceSettings):
    """As a service has them."""

    model_config = SettingsConfigDict(env_prefix="TRIAL_")

    store_url: StoreUrl = shared("STORE_URL", "redis://127.0.0.1", "A store.", repr=False)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    authority = Authority(tmp_path)
    (certificate, key), (_, other_key) = authority.issue("trial"), authority.issue("other")
    (tmp_path / "text").write_text("no certificate")
    return {
        "ca": str(authority.file),
        "cert": str(certificate),
        "key": str(key),
        "other": str(other_key),
        "text": str(tmp_path / "text"),
        "none": str(tmp_path / "none"),
    }


PAIR = {"TRIAL_GRPC_TLS_CERT_FILE": "cert", "TRIAL_GRPC_TLS_KEY_FILE": "key"}
TLS = {"GRPC_TLS_CA_FILE": "ca", **PAIR}
MUTUAL = {**TLS, "GRPC_TLS_CLIENT_CA_FILE": "ca"}
THE_PAIR = "TRIAL_GRPC_TLS_CERT_FILE and TRIAL_GRPC_TLS_KEY_FILE"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (TLS | {"TRIAL_GRPC_TLS_KEY_FILE": ""}, f"{THE_PAIR}: must be set both, or neither"),
        (TLS | {"TRIAL_GRPC_TLS_CERT_FILE": "none"}, "TRIAL_GRPC_TLS_CERT_FILE: Path does not point to a file"),
        (
            TLS | {"TRIAL_GRPC_TLS_KEY_FILE": "other"},
            f"{THE_PAIR}: must be a certificate and its key, in PEM (KEY_VALUES_MISMATCH)",
        ),
        (PAIR, "GRPC_TLS_CA_FILE: must be set where TRIAL_GRPC_TLS_CERT_FILE is"),
        (TLS | {"GRPC_TLS_CA_FILE": "text"}, "GRPC_TLS_CA_FILE: must hold certificates, in PEM (NO_CERTIFICATE_OR_"),
        ({"GRPC_TLS_CA_FILE": "ca"}, "TRIAL_GRPC_TLS_CERT_FILE: must be set where GRPC_TLS_CA_FILE is"),
        ({"GRPC_TLS_CLIENT_CA_FILE": "ca"}, "TRIAL_GRPC_TLS_CERT_FILE: must be set where GRPC_TLS_CLIENT_CA_FILE is"),
        (MUTUAL | {"GRPC_TLS_CLIENT_CA_FILE": "text"}, "GRPC_TLS_CLIENT_CA_FILE: must hold certificates, in PEM"),
        (TLS | {"GRPC_CLIENT_ROLES": "a=b"}, "GRPC_CLIENT_ROLES: needs GRPC_TLS_CLIENT_CA_FILE"),
        (MUTUAL | {"GRPC_CLIENT_ROLES": "crm"}, "GRPC_CLIENT_ROLES: must be `name=role` or `name=role/site/...`"),
    ],
)
def test_what_does_not_fit_together_is_named_with_its_rule(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    told: dict[str, str],
    said: str,
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, files.get(value, value))
    with pytest.raises(SystemExit):
        load(Settings)
    assert capsys.readouterr().err.startswith(f"The settings are wrong:\n  {said}")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.1.2.3", "trial.example", "127.0.0.1.example"])  # noqa: S104
def test_without_tls_only_this_machine_is_served_unless_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: dict[str, str], host: str
) -> None:
    monkeypatch.setenv("TRIAL_HOST", host)
    with pytest.raises(SystemExit):
        load(Settings)
    rule = "must be this machine's own address, or TRIAL_GRPC_TLS_CERT_FILE be set, or ALLOW_INSECURE_GRPC=true"
    assert capsys.readouterr().err == f"The settings are wrong:\n  TRIAL_HOST: {rule}\n"
    with monkeypatch.context() as allowed:
        allowed.setenv("ALLOW_INSECURE_GRPC", "1")
        assert load(Settings).host == host.strip("[]")
    for name, value in TLS.items():
        monkeypatch.setenv(name, files[value])
    assert load(Settings).host == host.strip("[]")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]"])
def test_this_machine_is_served_without_tls(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("TRIAL_HOST", host)
    assert load(Settings).host == host.strip("[]")


def test_a_name_is_a_uri_too_and_may_have_several_roles(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    for name, value in MUTUAL.items():
        monkeypatch.setenv(name, files[value])
    monkeypatch.setenv(
        "GRPC_CLIENT_ROLES", "spiffe://house/ns/a=b/sa/crm=reader, crm.example=reader,crm.example=writer/shop/blog,"
    )
    assert [tuple(grant) for grant in load(Settings).client_roles] == [
        ("spiffe://house/ns/a=b/sa/crm", "reader", set()),
        ("crm.example", "reader", set()),
        ("crm.example", "writer", {"shop", "blog"}),
    ]


@pytest.mark.parametrize("password", ["sec/ret", "sec#ret", "sec?ret", "sec@ret"])
def test_a_password_that_would_take_a_url_apart_stops_the_start_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], password: str
) -> None:
    monkeypatch.setenv("STORE_URL", f"rediss://user:{password}@store.example:6379/0?ssl_ca_certs=/tls/ca.pem")
    with pytest.raises(SystemExit):
        load(Settings)
    written = capsys.readouterr().err
    assert written.startswith("The settings are wrong:\n  STORE_URL: must be a URL")
    assert "sec" not in written
    assert "ret" not in written.replace("written", "")


@pytest.mark.parametrize(
    "url",
    [
        "rediss://user:se%2Fcret@store.example:6379/0?ssl_ca_certs=/tls/ca.pem",
        "mongodb://user:secret@a:1,b:2/?tls=true&tlsCAFile=/tls/ca.pem",
        "unix://user:secret@/run/valkey.sock?db=1",
        "mongodb+srv://cluster.example",
    ],
)
def test_the_url_of_a_store_is_taken_as_it_is_and_never_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("STORE_URL", url)
    settings = load(Settings)
    assert settings.store_url == url
    assert url not in repr(settings)
