"""Turns the environment into one checked, typed settings object, and that class into the table of a README.

A service derives its class from `ServiceSettings`, or from `ProcessSettings` when it serves no gRPC, and sets
`model_config = SettingsConfigDict(env_prefix="NAME_")`. What one process owns carries the prefix; what the whole
deployment must agree on is made with `shared` and has none.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from footfall_servicekit.tls import ClientTls, KeyPair, check_authorities, server_context

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def shared(name: str, default: Any, description: str, **constraints: Any) -> Any:
    """Make a field read from the environment variable `name` as it is, without the service's prefix."""
    return Field(default, validation_alias=name, description=description, **constraints)


def _check_store_url(url: str) -> str:
    # Taken apart wrongly, it would fail later, with an error that quotes a part of the password.
    if not re.fullmatch(r"[a-z+]+://([^@/?#]+@)?[^@/?#]*([/?][^@]*)?", url):
        raise ValueError("must be a URL; `@`, `/`, `?` and `#` in a user or password are written `%40` and so on")
    return url


StoreUrl = Annotated[str, AfterValidator(_check_store_url)]
"""URL of a store, which may hold a user and a password: give its field `repr=False`."""


class ProcessSettings(BaseSettings):
    """What every process of the suite can be told. Immutable; read once at start."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,  # a variable set to nothing is a variable not set
        hide_input_in_errors=True,
        validate_by_name=True,  # tests give a shared setting by its field's name
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=0, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    log_level: Literal["debug", "info", "warning", "error"] = shared(
        "LOG_LEVEL",
        "info",
        "Least level logged: `debug`, `info`, `warning` or `error`. `debug` may quote what was sent.",
    )
    lame_duck_ms: int = Field(
        default=500,
        ge=0,
        le=60_000,
        description="Pause between reporting NOT_SERVING and refusing calls, for balancers to notice.",
    )
    stop_grace_ms: int = Field(
        default=5_000, ge=0, le=300_000, description="Time that calls in flight get to end when stopping."
    )
    grpc_tls_ca_file: FilePath | None = shared(
        "GRPC_TLS_CA_FILE", None, "Authorities (PEM) that must have signed a gRPC server's certificate. Unset: no TLS."
    )
    grpc_tls_cert_file: FilePath | None = Field(
        default=None, description="Certificate chain (PEM) shown to gRPC peers, whether they call or are called."
    )
    grpc_tls_key_file: FilePath | None = Field(default=None, description="Its key (PEM, not encrypted).")

    @model_validator(mode="after")
    def _grpc_tls_is_usable(self) -> Self:
        check_pair(self, "grpc_tls_cert_file", "grpc_tls_key_file")
        if self.grpc_tls_cert_file and not self.grpc_tls_ca_file:
            raise ValueError(f"GRPC_TLS_CA_FILE: must be set where {variable(type(self), 'grpc_tls_cert_file')} is")
        _check_authorities(self, "grpc_tls_ca_file")
        return self

    @property
    def grpc_pair(self) -> KeyPair | None:
        """What is shown to gRPC peers."""
        certificate, key = self.grpc_tls_cert_file, self.grpc_tls_key_file
        return KeyPair(certificate, key) if certificate and key else None

    @property
    def client_tls(self) -> ClientTls | None:
        """What gRPC channels are opened with; None for channels without TLS."""
        return ClientTls(self.grpc_tls_ca_file, self.grpc_pair) if self.grpc_tls_ca_file else None


class ServiceSettings(ProcessSettings):
    """What every gRPC service can be told besides."""

    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of the Prometheus metrics, on the same address; unset serves none.",
    )
    max_concurrent_rpcs: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Calls served at once that are no streams; those that come with every batch are counted apart. "
        "More are refused with RESOURCE_EXHAUSTED, health checks never.",
    )
    max_streams: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Streams of one method served at once, those of `Health.Watch` too; more are refused with "
        "RESOURCE_EXHAUSTED.",
    )
    max_message_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="Largest message received or sent, in bytes."
    )
    rpc_ceiling_ms: int = Field(
        default=30_000, ge=1, description="Longest that one unary call may run, whatever deadline its caller has set."
    )
    grpc_tls_client_ca_file: FilePath | None = shared(
        "GRPC_TLS_CLIENT_CA_FILE",
        None,
        "Authorities (PEM) that must have signed a gRPC client's certificate: mutual TLS. Unset: it needs none.",
    )
    grpc_client_roles: str = shared(
        "GRPC_CLIENT_ROLES",
        "",
        "The roles of clients, with mutual TLS: `name=role`, separated by commas. A name is a URI or DNS name in a "
        "certificate, or the common name of one that has neither. Unset: each name is a role itself.",
    )

    allow_insecure_grpc: bool = shared(
        "ALLOW_INSECURE_GRPC",
        False,
        "Start without TLS although others than this machine can call: on a network of the services' own.",
    )

    @model_validator(mode="after")
    def _only_this_machine_may_call_without_tls(self) -> Self:
        is_safe = self.grpc_tls_cert_file or self.allow_insecure_grpc
        if not is_safe and not re.fullmatch(r"localhost|127(\.[0-9]+){3}|\[?::1\]?", self.host):
            host, certificate = variable(type(self), "host"), variable(type(self), "grpc_tls_cert_file")
            rule = f"must be this machine's own address, or {certificate} be set, or ALLOW_INSECURE_GRPC=true"
            raise ValueError(f"{host}: {rule}")
        return self

    @model_validator(mode="after")
    def _mutual_tls_is_whole(self) -> Self:
        certificate = variable(type(self), "grpc_tls_cert_file")
        if self.grpc_tls_ca_file and not self.grpc_tls_cert_file:
            raise ValueError(f"{certificate}: must be set where GRPC_TLS_CA_FILE is")
        if self.grpc_tls_client_ca_file and not self.grpc_tls_cert_file:
            raise ValueError(f"{certificate}: must be set where GRPC_TLS_CLIENT_CA_FILE is")
        if self.grpc_client_roles and not self.grpc_tls_client_ca_file:
            raise ValueError("GRPC_CLIENT_ROLES: needs GRPC_TLS_CLIENT_CA_FILE, without which clients have no names")
        if not all(name and role for name, role in self.client_roles):
            raise ValueError("GRPC_CLIENT_ROLES: must be `name=role`, separated by commas")
        _check_authorities(self, "grpc_tls_client_ca_file")
        return self

    @property
    def client_roles(self) -> list[tuple[str, str]]:
        """The names in certificates, each with a role that it gives."""
        pairs = (item.strip().rpartition("=") for item in self.grpc_client_roles.split(",") if item.strip())
        return [(name, role) for name, _, role in pairs]


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def variable(cls: type[BaseSettings], field_name: str) -> str:
    """Return the environment variable that sets a field."""
    alias = cls.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else f"{cls.model_config.get('env_prefix', '')}{field_name}".upper()


def check_pair(settings: BaseSettings, certificate_field: str, key_field: str) -> None:
    """Raises ValueError unless both fields are unset, or name the files of a certificate and its key."""
    certificate, key = getattr(settings, certificate_field), getattr(settings, key_field)
    names = f"{variable(type(settings), certificate_field)} and {variable(type(settings), key_field)}"
    if bool(certificate) != bool(key):
        raise ValueError(f"{names}: must be set both, or neither")
    if certificate:
        try:
            server_context(KeyPair(certificate, key))
        except OSError as error:
            raise ValueError(f"{names}: must be a certificate and its key, in PEM ({_reason(error)})") from error


def _check_authorities(settings: BaseSettings, field: str) -> None:
    if file := getattr(settings, field):
        try:
            check_authorities(file)
        except OSError as error:
            name = variable(type(settings), field)
            raise ValueError(f"{name}: must hold certificates, in PEM ({_reason(error)})") from error


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__


def load(cls: type[SettingsT]) -> SettingsT:
    """Read the environment. When anything is wrong, name all of it on stderr, without the values, and exit with 2."""
    try:
        return cls()
    except ValidationError as error:
        problems = [_problem(cls, tuple(item["loc"]), item["msg"]) for item in error.errors(include_input=False)]
    except SettingsError as error:
        problems = [str(error)]
    sys.stderr.write("".join(f"{problem}\n" for problem in ("The settings are wrong:", *problems)))
    raise SystemExit(2)


def _problem(cls: type[BaseSettings], location: tuple[int | str, ...], rule: str) -> str:
    rule = re.sub("^Value error, |^(Input|Value|String) (?=should)", "", rule)
    if not location:  # a rule between several settings names them itself
        return f"  {rule}"
    name, *inside = map(str, location)
    name = variable(cls, name) if name in cls.model_fields else name
    return f"  {'.'.join((name, *inside))}: {rule}"


def table(cls: type[BaseSettings]) -> str:
    """Return the Markdown table of all settings: variable, default, meaning."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in cls.model_fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{variable(cls, name)}` | {_shown_default(field)} | {meaning} |")
    return "\n".join(rows)


def _shown_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default == "" or isinstance(default, SecretStr):
        return "unset"
    return f"`{default}`"


def main(arguments: list[str] | None = None) -> int:
    """Write the table between the marks in a README, or with --check exit with 1 when it is out of date."""
    parser = argparse.ArgumentParser(prog="python -m footfall_servicekit.settings", description=main.__doc__)
    parser.add_argument("settings_class", metavar="package.module:Class")
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    module, _, name = options.settings_class.partition(":")
    cls = getattr(importlib.import_module(module), name)
    before = options.readme.read_text(encoding="utf-8")
    head, begin, rest = before.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        parser.error(f"{options.readme} has no marks {BEGIN} and {END}")
    after = f"{head}{BEGIN}\n{table(cls)}\n{END}{tail}"
    if after == before:
        return 0
    if options.check:
        sys.stderr.write(f"{options.readme}: the table of settings is out of date\n")
        return 1
    options.readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
