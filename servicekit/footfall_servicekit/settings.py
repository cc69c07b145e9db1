"""Settings of a process: read from the environment into one typed object, and checked before anything is served.

A service derives its class from `ServiceSettings`, or from `ProcessSettings` when it serves no gRPC, and sets
`model_config = SettingsConfigDict(env_prefix="NAME_")`. A setting of one process has the prefix. A setting that several
processes must agree on is made with `shared` and has none. The docstring below a field describes the setting.

All problems are reported together: those of one setting by the type of its field (values.py has the types that pydantic
lacks), those between several settings by `problems`.

A setting that is renamed keeps its old name for one version, as the `OldName` of its type.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BeforeValidator, Field, FilePath, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from footfall_servicekit.callers import Grant
from footfall_servicekit.channel import show_token
from footfall_servicekit.reloading import reason_of
from footfall_servicekit.tls import ClientTls, KeyPair, check_authorities, server_context
from footfall_servicekit.values import Accepts, Host, HttpUrl, listening_problems, readable_by

Port = Annotated[int, Field(ge=0, le=65535, description="Port to listen on. 0: a free port, which is logged.")]


def shared(name: str, default: Any, description: str | None = None, **constraints: Any) -> Any:
    """Make a field read from the environment variable `name` as it is, without the service's prefix.

    A `description` is for a type of several fields, which can have no docstring.
    """
    return Field(default, validation_alias=name, description=description, **constraints)


@dataclass(frozen=True)
class OldName:
    """The variable that set a setting in the version before; `*` is the prefix of the service."""

    text: str


class ProcessSettings(BaseSettings):
    """Settings of every process of the suite. Immutable; read once at start."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,  # a variable set to nothing is a variable not set
        hide_input_in_errors=True,
        validate_by_name=True,  # tests give a shared setting by its field's name
    )

    host: Host = "127.0.0.1"
    """Address to listen on. The images set `0.0.0.0`, which is every address."""
    port: Port = 0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)] = shared(
        "LOG_LEVEL", "info"
    )
    """Lowest level that is logged. Lines of level `debug` may quote parts of a request."""
    failure_log_interval_s: int = shared("FAILURE_LOG_INTERVAL_S", 30, ge=1, le=3_600)
    """Time between two log lines about a failure that goes on. Its end is logged after a third of this time without a
    failure."""
    traces_endpoint: HttpUrl | None = shared("OTEL_EXPORTER_OTLP_ENDPOINT", None)
    """Where traces are sent, by OTLP over HTTP. Needs the extra `otel` of the distribution, which the images have. The
    variables `OTEL_*` of OpenTelemetry for headers, certificates and time limits of the exporter count as well. Give it
    to all services. Unset: no traces are made."""
    trace_share: float = shared("TRACE_SHARE", 0.1, ge=0, le=1)
    """Share of the requests and calls from outside that are traced, 0 to 1. A trace that has begun goes on in all
    services."""
    drain_delay_ms: Annotated[int, OldName("*LAME_DUCK_MS")] = Field(default=500, ge=0, le=60_000)
    """Time from reporting that the process stops, to refusing new calls. Load balancers need it to choose another
    process."""
    stop_grace_ms: int = Field(default=5_000, ge=0, le=300_000)
    """Time that running calls have to end when the process stops. Calls that need longer are cancelled."""
    grpc_tls_ca_file: FilePath | None = shared("GRPC_TLS_CA_FILE", None)
    """Certificate authorities (PEM) that sign the certificates of gRPC servers. A server with another certificate is
    not called. Unset: calls are not encrypted."""
    grpc_tls_cert_file: FilePath | None = None
    """Certificate chain (PEM) for gRPC, as server and as client. A changed file is read again."""
    grpc_tls_key_file: FilePath | None = None
    """Private key (PEM, not encrypted) of that certificate."""
    grpc_token_file: Annotated[FilePath | None, readable_by(Path.read_bytes)] = shared("GRPC_TOKEN_FILE", None)
    """File with the token that is shown to the gRPC services, where they have `GRPC_KEYS_FILE`. That of the suite's own
    processes needs a key with all scopes and sites. A changed file is read again."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        for each in renamed(cls, os.environ):
            if not {each.field, each.new} & values.keys():
                values[each.field] = each.value
        return values

    def problems(self) -> Iterator[str]:
        """Problems between settings, with the names of their variables. A subclass adds its own rules."""
        yield from pair_problems(self, "grpc_tls_cert_file", "grpc_tls_key_file")
        if self.grpc_tls_cert_file and not self.grpc_tls_ca_file:
            yield f"GRPC_TLS_CA_FILE: must be set where {variable(type(self), 'grpc_tls_cert_file')} is"
        yield from _authorities_problems(self, "grpc_tls_ca_file")
        if self.traces_endpoint and not find_spec("opentelemetry"):
            yield "OTEL_EXPORTER_OTLP_ENDPOINT: needs OpenTelemetry, which is not installed: the extra `otel`"

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
        """The ports to listen on, by the variable that sets each."""
        return {variable(type(self), "port"): self.port}

    @property
    def grpc_pair(self) -> KeyPair | None:
        """The certificate that is shown to gRPC peers."""
        certificate, key = self.grpc_tls_cert_file, self.grpc_tls_key_file
        return KeyPair(certificate, key) if certificate and key else None

    @property
    def client_tls(self) -> ClientTls | None:
        """The TLS of gRPC channels; None for channels without TLS."""
        return ClientTls(self.grpc_tls_ca_file, self.grpc_pair) if self.grpc_tls_ca_file else None


class ServiceSettings(ProcessSettings):
    """Settings of every gRPC service."""

    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus metrics, on the address of `*_HOST`. Unset: metrics are not served."""
    max_concurrent_rpcs: int = Field(default=256, ge=1, le=100_000)
    """Unary calls that run at the same time. Further calls are refused with RESOURCE_EXHAUSTED. A method that is called
    for every batch has a limit of its own of the same size; health checks have none."""
    max_streams_per_method: Annotated[int, OldName("*MAX_STREAMS")] = Field(default=256, ge=1, le=100_000)
    """Streams of one method, `Health.Watch` included, that are open at the same time. Further streams are refused with
    RESOURCE_EXHAUSTED."""
    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=1024**3)
    """Size of a gRPC message, received or sent. A larger message ends its call with RESOURCE_EXHAUSTED."""
    max_rpc_duration_ms: Annotated[int, OldName("*RPC_CEILING_MS")] = Field(default=30_000, ge=1, le=3_600_000)
    """Time that a unary call may run. Then it ends with DEADLINE_EXCEEDED, also when its caller set a later
    deadline."""
    grpc_tls_client_ca_file: FilePath | None = shared("GRPC_TLS_CLIENT_CA_FILE", None)
    """Certificate authorities (PEM) that sign the certificates of gRPC clients (mutual TLS). A client without such a
    certificate is refused. Unset: clients need no certificate."""
    grpc_client_roles: Annotated[str, Accepts("`name=role` or `name=role/site/...`, separated by commas")] = shared(
        "GRPC_CLIENT_ROLES", ""
    )
    """Roles of the clients with mutual TLS. A name is a URI or DNS name in the client's certificate, or its common name
    if it has neither. With sites behind the role the client sees these alone. Unset: each name is itself a role."""
    allow_insecure_grpc: bool = shared("ALLOW_INSECURE_GRPC", False)
    """Start without TLS on an address that other machines can reach. Only for a private network of the services."""

    @property
    def ports(self) -> dict[str, int]:
        """The ports to listen on, also that of the metrics."""
        metrics = {} if self.metrics_port is None else {variable(type(self), "metrics_port"): self.metrics_port}
        return super().ports | metrics

    def problems(self) -> Iterator[str]:
        """Problems between settings of a gRPC service."""
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
        if not all(grant.name and grant.role and all(grant.sites) for grant in self.client_roles):
            yield "GRPC_CLIENT_ROLES: must be `name=role` or `name=role/site/...`, separated by commas"
        yield from _authorities_problems(self, "grpc_tls_client_ca_file")

    @property
    def client_roles(self) -> list[Grant]:
        """The roles of callers by the names in their certificates."""
        grants = []
        for item in filter(None, map(str.strip, self.grpc_client_roles.split(","))):
            name, _, rest = item.rpartition("=")
            role, *sites = rest.split("/")
            grants.append(Grant(name, role, frozenset(sites)))
        return grants


_SIMILARITY = 0.88
"""Of a misspelt name and the name that is meant, at least. No two names of settings are as similar."""

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)
"""The list that collects all problems between settings; None: the first one is raised."""

SettingsT = TypeVar("SettingsT", bound=BaseSettings)
ServerT = TypeVar("ServerT", bound=ProcessSettings)


def variable(cls: type[BaseSettings], field_name: str) -> str:
    """The environment variable that sets a field."""
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
    """Read the environment. Report all problems on standard error, without the values, and exit with 2."""
    _report_old_names(cls)
    return _unless_wrong(*_read(cls))


def load_to_serve(cls: type[ServerT], *, is_trial: bool = False) -> ServerT:
    """As `load`, and check the address and ports to listen on. In a trial, the process may already be running."""
    settings, problems = _read(cls)
    if settings:
        found = listening_problems(variable(cls, "host"), settings.host, settings.ports, is_trial=is_trial)
        problems += _about_others(found, problems)
    if is_trial or problems:  # a process that serves logs them
        _report_old_names(cls)
    return _unless_wrong(settings, problems)


def _read(cls: type[SettingsT]) -> tuple[SettingsT | None, list[str]]:
    """The settings, with the defaults for wrong ones, and all problems, each with its variable."""
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


def _report_old_names(cls: type[BaseSettings]) -> None:
    sys.stderr.writelines(f"{each.text}\n" for each in renamed(cls, os.environ))


def _unless_wrong(settings: SettingsT | None, problems: list[str]) -> SettingsT:
    if settings and not problems:
        if isinstance(settings, ProcessSettings):
            show_token(settings.grpc_token_file)
        return settings
    sys.stderr.write("".join(f"{line}\n" for line in ("The settings are wrong:", *(f"  {each}" for each in problems))))
    raise SystemExit(2)


class Renamed(NamedTuple):
    """A setting that the environment sets by its old name."""

    field: str
    old: str
    new: str
    value: str
    is_ignored: bool  # because the new name is set too

    @property
    def text(self) -> str:
        """The change that the operator has to make."""
        if self.is_ignored:
            return f"{self.old} is ignored, because {self.new}, its new name, is set too: remove {self.old}"
        return f"{self.old} is called {self.new} now: rename it, because the next version ignores the old name"


def renamed(cls: type[BaseSettings], environment: Mapping[str, str]) -> Iterator[Renamed]:
    """The settings that the environment sets by their old names."""
    values = {name.upper(): value for name, value in environment.items() if value}
    for field, old in old_variables(cls).items():
        if old in values:
            new = variable(cls, field)
            yield Renamed(field, old, new, values[old], new in values)


def old_variables(cls: type[BaseSettings]) -> dict[str, str]:
    """By field, the old name of its variable."""
    prefix = cls.model_config.get("env_prefix", "")
    return {
        name: mark.text.replace("*", prefix)
        for name, field in cls.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, OldName)
    }


def _default(cls: type[BaseSettings], location: int | str) -> Any:
    field = next(name for name in cls.model_fields if location in (name, variable(cls, name)))
    return cls.model_fields[field].get_default(call_default_factory=True, validated_data={})


def _problems(cls: type[BaseSettings], error: ValidationError) -> list[str]:
    problems: list[str] = []
    for item in error.errors(include_input=False):
        rules = _rule(item["type"], item["msg"], item.get("ctx", {})).splitlines()
        name, *inside = (
            map(str, item["loc"]) if item["loc"] else [""]
        )  # rules between several settings name them in their text
        name = variable(cls, name) if name in cls.model_fields else name
        problems += (f"{'.'.join((name, *inside))}: {rule}" if name else rule for rule in rules)
    return problems


def _rule(kind: str, text: str, about: Mapping[str, Any]) -> str:
    """The rule for a value, in words that need no knowledge of pydantic."""
    match kind:
        case "too_short":  # of a secret
            return f"should have at least {about['min_length']} characters"
        case "bool_parsing":
            return "should be true or false"
        case _:
            return re.sub("^Value error, |^(Input|Value|String) (?=should)|, unable to .*", "", text)


def _about_others(found: Iterable[str], problems: Iterable[str]) -> list[str]:
    """Problems that were found with defaults for wrong settings, except those that name a wrong setting."""
    wrong = {re.split("[.:]", problem)[0] for problem in problems}
    return [problem for problem in found if not wrong & {*re.findall(r"\w+", problem)}]


def unknown_variables(cls: type[BaseSettings], environment: Iterable[str]) -> dict[str, str]:
    """Variables that are probably misspelt, each with the most similar variable that this process reads.

    One environment may serve many programs. So a variable counts only when it has nearly the prefix of this process, or
    is similar to a setting that several processes share.
    """
    prefix = cls.model_config.get("env_prefix", "")
    known = {variable(cls, name) for name in cls.model_fields} | {
        f"{prefix}TARGET"
    }  # with which other services call this one
    common = [name for name in known if not name.startswith(prefix)]
    found = {}
    for name in sorted({name.upper() for name in environment} - known - {*old_variables(cls).values()}):
        is_own = get_close_matches(f"{name.partition('_')[0]}_", [prefix], cutoff=_SIMILARITY)
        nearest = get_close_matches(name, known if is_own else common, 1, _SIMILARITY)
        if is_own or nearest:
            found[name] = "".join(nearest)
    return found
