"""Turns the environment into one checked, typed settings object, and that class into the table of a README.

A service derives its class from `ServiceSettings`, or from `ProcessSettings` when it serves no gRPC, and sets
`model_config = SettingsConfigDict(env_prefix="NAME_")`. What one process owns carries the prefix; what the whole
deployment must agree on is made with `shared` and has none.

Whatever is wrong is found before anything is served, all of it at once: by the type of a field (values.py has those
that pydantic lacks), or by `problems`, for rules between several.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from footfall_servicekit.reloading import reason_of
from footfall_servicekit.tls import ClientTls, KeyPair, check_authorities, server_context
from footfall_servicekit.values import Host, listening_problems

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def shared(name: str, default: Any, description: str, **constraints: Any) -> Any:
    """Make a field read from the environment variable `name` as it is, without the service's prefix."""
    return Field(default, validation_alias=name, description=description, **constraints)


class ProcessSettings(BaseSettings):
    """What every process of the suite can be told. Immutable; read once at start."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,  # a variable set to nothing is a variable not set
        hide_input_in_errors=True,
        validate_by_name=True,  # tests give a shared setting by its field's name
    )

    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=0, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)] = shared(
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

    def problems(self) -> Iterator[str]:
        """What is wrong between settings, each with the names of its variables. A subclass adds what it knows."""
        yield from pair_problems(self, "grpc_tls_cert_file", "grpc_tls_key_file")
        if self.grpc_tls_cert_file and not self.grpc_tls_ca_file:
            yield f"GRPC_TLS_CA_FILE: must be set where {variable(type(self), 'grpc_tls_cert_file')} is"
        yield from _authorities_problems(self, "grpc_tls_ca_file")

    @model_validator(mode="after")
    def _has_no_problems(self) -> Self:
        found = [*self.problems()]
        if (collected := _collected.get()) is not None:
            collected += found
        elif found:
            raise ValueError("\n".join(found))
        return self

    @property
    def ports(self) -> dict[str, int]:
        """What is listened on at `host`, by the variable that sets it."""
        return {variable(type(self), "port"): self.port}

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
        default=4 * 1024 * 1024, ge=1024, le=1024**3, description="Largest message received or sent, in bytes."
    )
    rpc_ceiling_ms: int = Field(
        default=30_000,
        ge=1,
        le=3_600_000,
        description="Longest that one unary call may run, whatever deadline its caller has set.",
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

    @property
    def ports(self) -> dict[str, int]:
        """What is listened on, the metrics too."""
        metrics = {} if self.metrics_port is None else {variable(type(self), "metrics_port"): self.metrics_port}
        return super().ports | metrics

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of a gRPC service."""
        yield from super().problems()
        certificate = variable(type(self), "grpc_tls_cert_file")
        is_safe = self.grpc_tls_cert_file or self.allow_insecure_grpc
        if not is_safe and not re.fullmatch(r"localhost|127(\.[0-9]+){3}|::1", self.host):
            rule = f"must be this machine's own address, or {certificate} be set, or ALLOW_INSECURE_GRPC=true"
            yield f"{variable(type(self), 'host')}: {rule}"
        if self.grpc_tls_ca_file and not self.grpc_tls_cert_file:
            yield f"{certificate}: must be set where GRPC_TLS_CA_FILE is"
        if self.grpc_tls_client_ca_file and not self.grpc_tls_cert_file:
            yield f"{certificate}: must be set where GRPC_TLS_CLIENT_CA_FILE is"
        if self.grpc_client_roles and not self.grpc_tls_client_ca_file:
            yield "GRPC_CLIENT_ROLES: needs GRPC_TLS_CLIENT_CA_FILE, without which clients have no names"
        if not all(name and role for name, role in self.client_roles):
            yield "GRPC_CLIENT_ROLES: must be `name=role`, separated by commas"
        yield from _authorities_problems(self, "grpc_tls_client_ca_file")

    @property
    def client_roles(self) -> list[tuple[str, str]]:
        """The names in certificates, each with a role that it gives."""
        pairs = (item.strip().rpartition("=") for item in self.grpc_client_roles.split(",") if item.strip())
        return [(name, role) for name, _, role in pairs]


_NEAR = 0.85
"""How alike a name and what is meant by it are at least. No two names that are meant are so alike."""

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)
"""Where problems between settings go while all is looked for, and not only the first; None: they are raised."""

SettingsT = TypeVar("SettingsT", bound=BaseSettings)
ServerT = TypeVar("ServerT", bound=ProcessSettings)


def variable(cls: type[BaseSettings], field_name: str) -> str:
    """Return the environment variable that sets a field."""
    alias = cls.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else f"{cls.model_config.get('env_prefix', '')}{field_name}".upper()


def pair_problems(settings: BaseSettings, certificate_field: str, key_field: str) -> Iterator[str]:
    """Both fields must be unset, or name the files of a certificate and its key."""
    certificate, key = getattr(settings, certificate_field), getattr(settings, key_field)
    names = f"{variable(type(settings), certificate_field)} and {variable(type(settings), key_field)}"
    if bool(certificate) != bool(key):
        yield f"{names}: must be set both, or neither"
    elif certificate:
        try:
            server_context(KeyPair(certificate, key))
        except OSError as error:
            yield f"{names}: must be a certificate and its key, in PEM ({reason_of(error)})"


def _authorities_problems(settings: BaseSettings, field: str) -> Iterator[str]:
    if file := getattr(settings, field):
        try:
            check_authorities(file)
        except OSError as error:
            yield f"{variable(type(settings), field)}: must hold certificates, in PEM ({reason_of(error)})"


def load(cls: type[SettingsT]) -> SettingsT:
    """Read the environment. When anything is wrong, name all of it on stderr, without the values, and exit with 2."""
    return _unless_wrong(*_read(cls))


def load_to_serve(cls: type[ServerT], *, is_trial: bool = False) -> ServerT:
    """The same for a process that will listen where its settings say; in a trial it may be listening there already."""
    settings, problems = _read(cls)
    if settings:
        found = listening_problems(variable(cls, "host"), settings.host, settings.ports, is_trial=is_trial)
        problems += _about_others(found, problems)
    return _unless_wrong(settings, problems)


def _read(cls: type[SettingsT]) -> tuple[SettingsT | None, list[str]]:
    """The settings, with the defaults for those that are wrong, and all that is wrong, each with its variable."""
    problems: list[str] = []
    between: list[str] = []
    defaults: dict[str, Any] = {}
    token = _collected.set(between)
    try:
        for _ in range(2):  # the second time with defaults, to see what else is wrong
            between.clear()
            try:
                settings = cls(**defaults)
            except ValidationError as error:
                problems = list(dict.fromkeys([*problems, *_problems(cls, error)]))
                defaults = {
                    str(item["loc"][0]): _default(cls, item["loc"][0]) for item in error.errors() if item["loc"]
                }
            except SettingsError as error:  # of a list that is no JSON
                field = str(error).partition('"')[2].partition('"')[0]
                return None, [f"{variable(cls, field)}: must be JSON"]
            else:
                return settings, problems + _about_others(between, problems)
    finally:
        _collected.reset(token)
    return None, problems + between


def _unless_wrong(settings: SettingsT | None, problems: list[str]) -> SettingsT:
    if settings and not problems:
        return settings
    sys.stderr.write("".join(f"{line}\n" for line in ("The settings are wrong:", *(f"  {each}" for each in problems))))
    raise SystemExit(2)


def _default(cls: type[BaseSettings], location: int | str) -> Any:
    field = next(name for name in cls.model_fields if location in (name, variable(cls, name)))
    return cls.model_fields[field].get_default(call_default_factory=True, validated_data={})


def _problems(cls: type[BaseSettings], error: ValidationError) -> list[str]:
    problems: list[str] = []
    for item in error.errors(include_input=False):
        rules = _rule(item["type"], item["msg"], item.get("ctx", {})).splitlines()
        name, *inside = map(str, item["loc"]) if item["loc"] else [""]  # rules between several name them themselves
        name = variable(cls, name) if name in cls.model_fields else name
        problems += (f"{'.'.join((name, *inside))}: {rule}" if name else rule for rule in rules)
    return problems


def _rule(kind: str, text: str, about: Mapping[str, Any]) -> str:
    """What a value must be, in words that need no knowledge of pydantic."""
    match kind:
        case "too_short":  # of a secret
            return f"should have at least {about['min_length']} characters"
        case "bool_parsing":
            return "should be true or false"
        case _:
            return re.sub("^Value error, |^(Input|Value|String) (?=should)|, unable to .*", "", text)


def _about_others(found: Iterable[str], problems: Iterable[str]) -> list[str]:
    """What was found with defaults in the place of wrong settings; not where it is about one of these."""
    wrong = {re.split("[.:]", problem)[0] for problem in problems}
    return [problem for problem in found if not wrong & {*re.findall(r"\w+", problem)}]


def unknown_variables(cls: type[BaseSettings], environment: Iterable[str]) -> dict[str, str]:
    """Variables that seem to be meant for this process, which does not read them; with the nearest that it does read.

    One environment may serve many programs. So a variable seems to be meant for this one when it begins with its
    prefix, or nearly so, or nearly is one that it shares with others.
    """
    prefix = cls.model_config.get("env_prefix", "")
    known = {variable(cls, name) for name in cls.model_fields} | {f"{prefix}TARGET"}  # by which others call it
    common = [name for name in known if not name.startswith(prefix)]
    found = {}
    for name in sorted({name.upper() for name in environment} - known):
        is_own = get_close_matches(f"{name.partition('_')[0]}_", [prefix], cutoff=_NEAR)
        nearest = get_close_matches(name, known if is_own else common, 1, _NEAR)
        if is_own or nearest:
            found[name] = "".join(nearest)
    return found


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
