"""The audit key after a change: log lines have hashes under the first, and those under each former one are found."""

import pytest
from footfall_gateway.auth import Audit
from footfall_gateway.commands import audit_hash
from footfall_gateway.settings import GatewaySettings
from footfall_servicekit.settings import load

NEW, FORMER = "the audit key of today", "the audit key of yesterday"


def test_an_auditor_gets_the_hashes_under_each_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_AUDIT_KEY", f"{NEW},{FORMER}")
    assert audit_hash.run(["identity", "dana@shop.example"]) == 0
    hashes = [Audit(key).hash("identityId", "dana@shop.example") for key in (NEW, FORMER)]
    assert capsys.readouterr().out.split() == sorted(hashes)
    assert load(GatewaySettings).audit_secrets[0] == NEW, "the key of log lines"


@pytest.mark.parametrize("keys", ["short", f"{NEW},short", f"{NEW},"])
def test_each_key_is_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keys: str) -> None:
    monkeypatch.setenv("GATEWAY_AUDIT_KEY", keys)
    with pytest.raises(SystemExit) as ended:
        load(GatewaySettings)
    said = capsys.readouterr().err
    assert (ended.value.code, "GATEWAY_AUDIT_KEY: must be keys of 16 characters or more" in said) == (2, True)
    assert keys not in said
