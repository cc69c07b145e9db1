"""SITES_FILE: the site of an event, and the problems reported for a file."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.sites import Site, Sites
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites import SitesFileError
from footfall_timeline import page_id

from tests.tools.batches import CHROME, batch, context, message, new_uuid

PRIVATE = Ed25519PrivateKey.generate()
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PRIVATE_PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
OTHER_PUBLIC = generate_private_key(SECP256R1()).public_key()
OTHER_PEM = OTHER_PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
SECRET = "a secret of at least 32 bytes, really"


def loaded(folder: Path, text: str) -> Sites:
    file = folder / "sites.toml"
    file.write_text(text)
    return Sites.load(file)


def found(sites: Sites, name: str, origin: str) -> str | None:
    """Return the name of the site of an event."""
    site = sites.find(name, origin)
    return site.name if site else None


class TestFind:
    sites = Sites(
        [
            Site("shop", ("https://shop.example", "https://*.shop.example:8443")),
            Site("help", ("https://shop.example", "https://help.example")),
            Site("open"),
        ]
    )

    @pytest.mark.parametrize(
        ("name", "origin", "expected"),
        [
            ("shop", "https://shop.example", "shop"),
            ("shop", "https://SHOP.example", "shop"),
            ("shop", "https://a.shop.example:8443", "shop"),
            ("shop", "https://a.b.shop.example:8443", "shop"),
            ("shop", "", "shop"),
            ("shop", "https://help.example", None),
            ("shop", "http://shop.example", None),
            ("shop", "https://shop.example:8443", None),
            ("shop", "https://a.shop.example", None),
            ("shop", "https://.shop.example:8443", None),
            ("shop", "https://evilshop.example", None),
            ("shop", "https://shop.example.evil.example", None),
            ("shop", "null", None),
            ("help", "https://shop.example", "help"),
            ("open", "https://anybody.example", "open"),
            ("open", "null", "open"),
            ("nobody", "https://shop.example", None),
            ("default", "", None),
            ("", "https://shop.example", "shop"),
            ("", "https://a.shop.example:8443", "shop"),
            ("", "https://help.example", "help"),
            ("", "https://anybody.example", None),
            ("", "", None),
        ],
    )
    def test_the_site_of_an_event(self, name: str, origin: str, expected: str | None) -> None:
        assert found(self.sites, name, origin) == expected

    def test_the_site_default_gets_events_without_site_and_known_origin(self) -> None:
        sites = Sites([Site("default", ("https://a.example",)), Site("shop", ("https://b.example",))])
        assert found(sites, "", "") == "default"
        assert found(sites, "", "https://b.example") == "shop"
        assert found(sites, "", "https://c.example") is None

    def test_without_a_file_every_valid_name_is_a_site(self) -> None:
        assert found(Sites.load(None), "", "https://shop.example") == "default"
        assert found(Sites.load(None), "shop", "https://anybody.example") == "shop"
        assert found(Sites.load(None), "no site", "") is None


def test_robots_are_refused_by_the_sites_that_want_it() -> None:
    sites = Sites([Site("strict", refuses_bots=True), Site("shop")])
    admission = Admission(sites, Redactor(), max_event_age_ms=DAY_MS)
    events = [message(site=site, context_index=index) for site in ("strict", "shop") for index in (0, 1)]
    sent = batch(*events, contexts=[context(user_agent="Googlebot/2.1"), context(user_agent=CHROME)])
    rejections = admission.admit(sent, 0)
    assert {position: rejection.reason for position, rejection in rejections.items()} == {
        0: collector.REJECT_REASON_BOT
    }


def test_an_event_without_a_context_is_rejected_alone() -> None:
    admission = Admission(Sites.load(None), Redactor(), max_event_age_ms=DAY_MS)
    rejections = admission.admit(batch(message(), message(context_index=1), message()), 0)
    assert [*rejections] == [1]
    assert rejections[1].reason == collector.REJECT_REASON_MALFORMED
    assert rejections[1].message.startswith("context_index: must ")


def test_the_stored_visit_id_is_specific_to_the_group_of_the_site() -> None:
    sites, groups = Sites([Site("shop"), Site("help"), Site("bank")]), {"shop": "shop", "help": "shop", "bank": "bank"}
    admission = Admission(sites, Redactor(), max_event_age_ms=DAY_MS, site_groups=SiteGroups(groups))
    visit_id = new_uuid()
    made_up: dict[str, Any] = {"browser_visit_id": new_uuid(), "received_time_ms": 1, "page_id": new_uuid()}
    sent = batch(*(message(site=s, visit_id=visit_id, browser_page_id="p", **made_up) for s in groups))
    assert admission.admit(sent, 0) == {}
    shop, helping, bank = sent.events
    assert shop.visit_id == helping.visit_id != bank.visit_id
    assert visit_id not in {shop.visit_id, bank.visit_id}
    assert {one.browser_visit_id for one in sent.events} == {visit_id}
    assert [one.page_id for one in sent.events] == [page_id(one.visit_id, "p") for one in sent.events]
    assert {one.received_time_ms for one in sent.events} == {sent.contexts[0].received_time_ms}


def test_nothing_is_kept_of_visitors_who_object_by_the_sites_that_honour_it() -> None:
    sites = Sites([Site("private", honours_gpc=True), Site("shop")])
    admission = Admission(sites, Redactor(), max_event_age_ms=DAY_MS)
    events = [message(site=site, context_index=index) for site in ("private", "shop") for index in (0, 1)]
    unfit = message(event_id="x", site="private")
    sent = batch(*events, unfit, contexts=[context(global_privacy_control=True), context()])
    outcomes = admission.admit(sent, 0)
    assert {position: outcome.status for position, outcome in outcomes.items()} == {
        0: collector.OUTCOME_STATUS_SUPPRESSED,
        4: collector.OUTCOME_STATUS_REJECTED,
    }
    assert not sent.contexts[0].global_privacy_control, "not logged"


class TestFile:
    def test_all_settings_of_a_site_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(f"{SECRET}\n")
        (tmp_path / "public.pem").write_text(PUBLIC_PEM)
        sites = loaded(
            tmp_path,
            f'''
            [[site]]
            name = "shop"
            origins = ["https://Shop.example/", "https://*.shop.example", "http://localhost:8080", "http://[::1]:80"]
            refuse_bots = true
            honour_global_privacy_control = true
            [[site.keys]]
            id = "a"
            algorithm = "HS256"
            secret = "{SECRET}"
            [[site.keys]]
            id = "b"
            algorithm = "HS256"
            secret_file = "secret"
            [[site.keys]]
            id = "c"
            algorithm = "EdDSA"
            public_key_file = "{tmp_path}/public.pem"
            [[site.keys]]
            id = "d"
            algorithm = "EdDSA"
            public_key = """{PUBLIC_PEM}"""

            [[site]]
            name = "blog"
            ''',
        )
        shop, blog = sites.find("shop", ""), sites.find("blog", "")
        assert shop
        assert blog == Site("blog")
        assert (shop.refuses_bots, shop.honours_gpc) == (True, True)
        assert shop.origins[0] == "https://shop.example"
        assert [(key.key_id, key.algorithm) for key in shop.keys] == [
            ("a", "HS256"),
            ("b", "HS256"),
            ("c", "EdDSA"),
            ("d", "EdDSA"),
        ]
        assert shop.keys[0].material == shop.keys[1].material == SECRET.encode()

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "missing required field `site`"),
            ("site = []", r"must list at least one \[\[site\]\]"),
            ("[[site]", "line 1"),
            ("[[site]]", "missing required field `name`"),
            ('[[site]]\nname = "shop"\norigin = "https://shop.example"', "unknown field `origin`"),
            ('[[site]]\nname = "the shop"', "site 'the shop': the name must have"),
            ('[[site]]\nname = "shop"\n[[site]]\nname = "shop"', "site 'shop': is defined twice"),
            ('[[site]]\nname = "shop"\norigins = ["shop.example"]', "origin 'shop.example' must look like"),
            ('[[site]]\nname = "shop"\norigins = ["https://shop.*"]', "must look like"),
            ('[[site]]\nname = "shop"\norigins = ["https://*shop.example"]', "must look like"),
            ('[[site]]\nname = "shop"\norigins = ["https://shop.example/path"]', "must look like"),
        ],
    )
    def test_a_problem_is_reported(self, tmp_path: Path, text: str, problem: str) -> None:
        with pytest.raises(SitesFileError, match=problem):
            loaded(tmp_path, text)

    @pytest.mark.parametrize(
        ("key", "problem"),
        [
            ('id = ""\nalgorithm = "HS256"', "id must not be empty"),
            ('id = "k"\nalgorithm = "RS256"', "algorithm"),
            ('id = "k"\nalgorithm = "HS256"', "must have secret or secret_file, and only one"),
            (f'id = "k"\nalgorithm = "HS256"\nsecret = "{SECRET}"\nsecret_file = "x"', "and only one"),
            (f'id = "k"\nalgorithm = "HS256"\nsecret = "{SECRET}"\npublic_key = "x"', "and only one"),
            (f'id = "k"\nalgorithm = "EdDSA"\nsecret = "{SECRET}"', "must have public_key or public_key_file"),
            ('id = "k"\nalgorithm = "HS256"\nsecret = "short SECRET"', "at least 32 bytes"),
            ('id = "k"\nalgorithm = "HS256"\nsecret_file = "missing"', "secret_file cannot be read: FileNotFoundError"),
            ('id = "k"\nalgorithm = "EdDSA"\npublic_key = "SECRET"', "must be an Ed25519 public key"),
            (f'id = "k"\nalgorithm = "EdDSA"\npublic_key = """{PRIVATE_PEM}"""', "must be an Ed25519 public key"),
            (f'id = "k"\nalgorithm = "EdDSA"\npublic_key = """{OTHER_PEM}"""', "must be an Ed25519 public key"),
        ],
    )
    def test_a_problem_of_a_key_is_reported_without_the_key(self, tmp_path: Path, key: str, problem: str) -> None:
        with pytest.raises(SitesFileError, match=problem) as wrong:
            loaded(tmp_path, f'[[site]]\nname = "shop"\n[[site.keys]]\n{key}')
        assert "SECRET" not in str(wrong.value)
        assert SECRET not in str(wrong.value)
        assert "PRIVATE" not in str(wrong.value)

    def test_all_problems_are_reported_together(self, tmp_path: Path) -> None:
        text = '[[site]]\nname = "a b"\norigins = ["x", "y"]\n[[site]]\nname = "shop"\n[[site.keys]]\nid = "k"\n'
        with pytest.raises(SitesFileError) as wrong:
            loaded(tmp_path, f'{text}algorithm = "HS256"')
        assert len(str(wrong.value).splitlines()) == 4

    def test_a_missing_file_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(SitesFileError, match=r"nowhere\.toml: No such file"):
            Sites.load(tmp_path / "nowhere.toml")
