"""What is traced: nothing without an exporter, and a share of what comes from outside, which no sender can change."""

import secrets
from collections.abc import Iterator

import pytest
from footfall_servicekit import logs, tracing
from footfall_servicekit.channel import forwarded
from footfall_servicekit.otel import OtelSpans
from footfall_servicekit.tracing import Tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As with an endpoint; nothing listens there, and nothing is exported before the end of the test."""
    made = OtelSpans("trial", "http://127.0.0.1:9")
    monkeypatch.setattr(Tracing, "spans", made)
    monkeypatch.setattr(Tracing, "share", 1.0)
    yield
    made._provider.shutdown()


def test_without_an_exporter_nothing_is_done() -> None:
    def contexts() -> Iterator[str]:
        pytest.fail("a context was read")
        yield SAMPLED

    assert tracing.work("batch", contexts(), "client") is tracing.work("other", (), "consumer")
    assert tracing.begin("call", SAMPLED, makes_trace=True) is None
    assert tracing.begin_outside("request", SAMPLED) == (None, SAMPLED)


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "x",
        SAMPLED.upper(),
        f"01{SAMPLED[2:]}",
        f"{SAMPLED}-00",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        b"bytes",
        None,
    ],
)
def test_only_a_trace_context_is_one(sent: object) -> None:
    assert tracing.valid(sent) == ""


@pytest.mark.usefixtures("spans")
def test_a_call_goes_on_with_the_decision_of_its_caller() -> None:
    span = tracing.begin("call", SAMPLED, makes_trace=False)
    assert span
    assert span.traceparent[:36] == SAMPLED[:36]
    assert span.traceparent != SAMPLED
    assert tracing.begin("call", UNSAMPLED, makes_trace=True) is None
    assert tracing.begin("call", "", makes_trace=False) is None


@pytest.mark.usefixtures("spans")
def test_a_share_of_traces_from_outside_is_traced_and_always_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracing, "share", 0.25)
    sent = [f"00-{secrets.token_hex(16)}-b7ad6b7169203331-01" for _ in range(2_000)]
    first = [tracing.begin_outside("beacon", each) for each in sent]
    assert 300 < sum(span is not None for span, _ in first) < 700
    assert [context[-2:] for span, context in first] == ["01" if span else "00" for span, _ in first]
    assert [bool(span) for span, _ in first] == [bool(tracing.begin_outside("beacon", each)[0]) for each in sent]


@pytest.mark.usefixtures("spans")
def test_work_on_traced_requests_is_known_to_calls_within_it_and_to_log_lines() -> None:
    assert forwarded() == ()
    with tracing.work("batch", [UNSAMPLED, SAMPLED], "client"):
        current = logs.traceparent.get()
        assert current[:36] == SAMPLED[:36]
        assert forwarded() == (("traceparent", current),)
    with tracing.work("batch", [UNSAMPLED, "", "x"], "client"):
        assert forwarded() == ()
