"""The console's views of a visit and of a person: what an agent sees first, and what he or she can do there."""

import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.async_api import Browser, Locator, Page, ViewportSize, expect

from tests.browser.test_console import console
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, new_id, now_ms

HOUR_MS = 3_600_000
FIRST_SCREEN: ViewportSize = {"width": 1440, "height": 900}
RIGHT_TO_LEFT = "\u202e"
GO_TO = "(address) => { history.pushState(null, '', address); dispatchEvent(new PopStateEvent('popstate')); }"


async def send(http: httpx.AsyncClient, *events: dict[str, Any]) -> None:
    answer = await http.post("/beacon", json=list(events))
    assert answer.status_code in {200, 204}, answer.text


async def stored(http: httpx.AsyncClient, visit: str, count: int) -> None:
    """Wait until history has so many events of a visit."""

    async def check() -> None:
        assert len((await http.get(f"/server/data/visits/{visit}/events")).json()) == count

    await eventually(check)


async def open_visit(page: Page, visit: str) -> Locator:
    await page.evaluate(GO_TO, f"/console/visit/{visit}")
    return page.get_by_role("region", name="Visit", exact=True)


async def open_person(page: Page, person: str) -> Locator:
    await page.evaluate(GO_TO, f"/console/person/{quote(person, safe='')}")
    return page.get_by_role("region", name="Person", exact=True)


def entered(visit: str, title: str, at_ms: int, **more: Any) -> dict[str, Any]:
    """A page entry of its own."""
    more.setdefault("url", f"https://shop.example/{title.lower().replace(' ', '-')}")
    return event("PageEntered", visit, at_ms, data={"title": title}, **{"pageID": new_id()} | more)


def on(page: dict[str, Any], name: str, at_ms: int, user: str | None = None, **data: Any) -> dict[str, Any]:
    """An event of a page that was entered."""
    return event(name, page["visitID"], at_ms, user, pageID=page["pageID"], url=page["url"], data=data)


async def is_on_first_screen(*parts: Locator) -> None:
    for part in parts:
        box = await part.bounding_box()
        assert box, part
        assert 0 <= box["y"] <= FIRST_SCREEN["height"] - box["height"], part


async def test_who_how_sure_where_and_when_before_need_no_scrolling(browser: Browser, suite: Suite) -> None:
    known, earlier, anonymous, before = (str(uuid.uuid4()) for _ in range(4))
    device, user = str(uuid.uuid4()), f"eve-{uuid.uuid4().hex[:6]}@example.com"
    ago = now_ms() - 20 * HOUR_MS
    async with suite.http() as http, console(browser, suite) as page:
        await page.set_viewport_size(FIRST_SCREEN)
        old = entered(before, "Old", ago, globalVisitID=device)
        await send(http, event("SignIn", earlier, ago, user), old, on(old, "UserInfo", ago + 1, user))
        loans = entered(known, "Loans", now_ms() - 60_000)
        await send(http, loans, on(loans, "SignIn", now_ms(), user))
        await send(http, entered(anonymous, "Cars", now_ms(), globalVisitID=device))
        for visit in (known, earlier, anonymous, before):
            await stored(http, visit, 2 if visit in {known, before} else 1)

        opened = await open_visit(page, known)
        title = opened.get_by_role("heading", level=2)
        await expect(title).to_have_text(user)
        await expect(opened.locator(".sure .badge")).to_have_text("Authenticated, not verified")
        await expect(opened.locator(".sure")).to_contain_text("Ask a security question")
        await expect(opened.locator(".now")).to_contain_text(re.compile(r"Loans.*for \d"))
        await expect(opened.locator(".before")).to_contain_text("2 visits: ")
        await is_on_first_screen(title, *(opened.locator(name) for name in (".sure", ".now", ".before")))
        # Codes are for those who look for them.
        await expect(opened.get_by_text("Why we say so (1 step)")).to_be_visible()
        await opened.get_by_text("Why we say so").click()
        await expect(opened.get_by_text("not verified: this website does not sign")).to_be_visible()
        await expect(opened.get_by_text("sign_in.opens_session")).to_be_hidden()
        await opened.get_by_text("Rule", exact=True).click()
        await expect(opened.get_by_text("sign_in.opens_session")).to_be_visible()

        await open_visit(page, anonymous)
        await expect(title).to_have_text(f"Visitor {anonymous[:4]}")
        await expect(opened.locator(".sure .badge")).to_have_text("Anonymous")
        await expect(opened.locator(".before")).to_contain_text("1 visit on this device: ")
        await expect(opened.locator(".before")).to_contain_text(f"last as {user}")
        await opened.locator(".before a").first.click()
        await expect(opened.locator(".sure .badge")).to_have_text("Recognized, not verified")

        await open_visit(page, str(uuid.uuid4()))
        await expect(title).to_have_text("No such visit")


async def test_a_link_by_name_does_not_look_like_one_by_address(browser: Browser, suite: Suite) -> None:
    last_name = f"Oak{uuid.uuid4().hex[:6]}"
    people = {"name": {"firstName": "Dana", "lastName": last_name}, "email": {"email": f"{last_name}@example.com"}}
    contacts = {"name": people["name"], "email": {"lastName": "Hale", "emailAddresses": [people["email"]["email"]]}}
    shown = {}
    async with suite.http() as http, console(browser, suite) as page:
        for kind, data in people.items():
            contact = f"C-{uuid.uuid4().hex[:6]}"
            assert (await http.put(f"/api/v1/contacts/{contact}", json=contacts[kind])).status_code == 200
            visit = str(uuid.uuid4())
            await send(http, event("SignIn", visit, now_ms(), f"{kind}-{last_name}", data=data))
            opened = await open_visit(page, visit)
            await expect(opened.locator(".way")).to_contain_text(contact)
            shown[kind] = (await opened.locator(".way").inner_text(), await opened.locator(".way.by-name").count())
        assert "by name only, not verified" in shown["name"][0]
        assert shown["name"][1] == 1
        assert "by e-mail address, not verified" in shown["email"][0]
        assert shown["email"][1] == 0
        # Only what a token proves is called verified.
        said = await page.evaluate(
            "Promise.all([import('/console/certainty.js'), import('/console/dom.js')]).then(([sure, dom]) => "
            "['proven', 'claimed', undefined].map((one) => [dom.badge('AUTHENTICATED', one).textContent, "
            "sure.advice('AUTHENTICATED', one)].join(': ')))"
        )
        assert [text.split(":")[0] for text in said] == [
            "Authenticated, verified",
            "Authenticated, not verified",
            "Authenticated",
        ]
        assert all("security question" in text for text in said[1:])
        assert "question" not in said[0]


async def test_news_are_added_and_nothing_else_is_touched(browser: Browser, suite: Suite) -> None:
    visit = str(uuid.uuid4())
    async with suite.http() as http, console(browser, suite) as page:
        first = entered(visit, "Loans", now_ms())
        await send(http, first, on(first, "SignIn", now_ms(), "typist@example.com"))
        await stored(http, visit, 2)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        opened = await open_visit(page, visit)
        loans = opened.locator(".page .title", has_text="Loans")
        await expect(loans).to_be_visible()
        await opened.get_by_text("Contact and decisions").click()
        box = opened.get_by_label("Find a contact")
        await box.fill("half ty")
        await box.evaluate("(box) => box.setSelectionRange(2, 4)")
        await loans.evaluate("(one) => { one.isTheSame = true; }")
        await send(http, on(first, "AddToCart", now_ms(), sku="kettle", price=94, currency="EUR"))
        await expect(opened.locator(".event", has_text="AddToCart")).to_contain_text("94")
        await send(http, entered(visit, "Checkout", now_ms()))
        await expect(opened.locator(".now")).to_contain_text("Checkout")
        await expect(opened.locator(".page .title", has_text="Checkout")).to_be_visible()
        assert await loans.evaluate("(one) => one.isTheSame")
        assert await box.evaluate(
            "(box) => [box === document.activeElement, box.value, box.selectionStart, box.selectionEnd]"
        ) == [True, "half ty", 2, 4]
        await expect(opened.get_by_text("Contact and decisions")).to_be_visible()
        whole = [url for url in asked if f"visits/{visit}/events" in url and "age=" not in url]
        assert len(whole) == 1, "all events are read once"


async def test_each_part_is_drawn_when_its_answer_comes(browser: Browser, suite: Suite) -> None:
    visit = str(uuid.uuid4())
    async with suite.http() as http, console(browser, suite) as page:
        first = entered(visit, "Loans", now_ms())
        await send(http, first, on(first, "SignIn", now_ms(), "slow@example.com"))
        await stored(http, visit, 2)
        await expect(page.get_by_role("row").filter(has_text="slow@example.com")).to_be_visible()
        with suite.frozen("history"):
            opened = await open_visit(page, visit)
            await expect(opened.get_by_role("heading", level=2)).to_have_text("slow@example.com", timeout=2_000)
            await expect(opened.locator(".now")).to_contain_text("Loans", timeout=2_000)
            await expect(opened.get_by_text("Waiting for history…").first).to_be_visible()
        await expect(opened.locator(".page .title")).to_have_text("Loans")
        await expect(opened.get_by_text("Waiting for history…")).to_have_count(0)


@pytest.mark.long
async def test_a_part_that_fails_says_so_until_it_answers(browser: Browser, suite: Suite) -> None:
    visit = str(uuid.uuid4())
    async with suite.http() as http, console(browser, suite) as page:
        await send(http, entered(visit, "Loans", now_ms()))
        await stored(http, visit, 1)
        suite.stop("history")
        try:
            opened = await open_visit(page, visit)
            await expect(opened.get_by_text("History does not answer.").first).to_be_visible()
            await expect(opened.locator(".now")).to_contain_text("Loans")
        finally:
            suite.start("history")
        await expect(opened.locator(".page .title")).to_have_text("Loans", timeout=60_000)
        await expect(opened.get_by_text("History does not answer.")).to_have_count(0)


async def test_the_journey(browser: Browser, suite: Suite) -> None:
    visit, start = str(uuid.uuid4()), now_ms() - HOUR_MS // 2
    cart = entered(visit, "Your cart", start)
    quick = [entered(visit, f"Item {number}", start + 130_000 + number * 1_000) for number in range(9)]
    checkout = entered(visit, "Çheckout", start + 200_000)
    events = [
        cart,
        on(cart, "SignIn", start + 1_000, "dana@example.com"),
        on(cart, "AddToCart", start + 2_000, sku="kettle", deep={"a": [1]}),
        on(cart, "PageExited", start + 120_000),
        *(one for page in quick for one in (page, on(page, "PageExited", page["timestamp"] + 900))),
        checkout,
        on(checkout, "SignIn", start + 201_000, "robin@example.com"),
        on(checkout, "PaymentFailed", start + 202_000, reason="declined"),
    ]
    call = {
        "interactionId": f"call-{visit}",
        "visitId": visit,
        "channel": "VOICE",
        "agent": "anna",
        "note": "calls back",
    }
    async with suite.http() as http, console(browser, suite) as page:
        await send(http, *events)
        await stored(http, visit, len(events))
        reported = await http.post("/api/v1/interactions", json=call | {"startTime": start + 203_000})
        assert reported.status_code == 200, reported.text
        await eventually(lambda: is_reported(http, visit))
        opened = await open_visit(page, visit)
        journey = opened.get_by_role("region", name="Journey")
        entries = journey.locator(".entries").first.locator(":scope > li")
        await expect(entries).to_have_count(4)
        await expect(entries.nth(0)).to_contain_text(re.compile("Call.*with anna.*calls back", re.DOTALL))
        await expect(entries.nth(1).locator(".title")).to_have_text("Çheckout")
        await expect(entries.nth(1)).to_contain_text("PaymentFailed")
        await expect(entries.nth(2)).to_contain_text("9 pages in 8 s, too fast for a person")
        await expect(entries.nth(3)).to_contain_text("2 min")
        await expect(entries.nth(3).locator(".person")).to_contain_text("signed in as dana@example.com, not verified")
        await expect(opened.locator(".shared")).to_have_text(
            "2 people used this computer: dana@example.com, robin@example.com"
        )
        assert await entries.nth(1).get_attribute("data-person") != await entries.nth(3).get_attribute("data-person")
        await journey.get_by_text("URLs").click()
        await expect(entries.nth(3).locator(".url")).to_be_visible()
        # By keyboard alone: to the box, and from there to all data of what is found.
        await journey.get_by_role("searchbox").focus()
        await page.keyboard.type("KETTLE")
        await expect(journey.get_by_role("status")).to_have_text("1 of 12")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(journey.locator("pre")).to_contain_text('"deep"')
        await journey.get_by_role("searchbox").fill("checkout")
        await expect(journey.get_by_role("status")).to_have_text("1 of 12")
        await journey.get_by_role("searchbox").fill("")
        await journey.get_by_label("system").check()
        await expect(journey.get_by_text("PageExited").first).to_be_visible()


async def test_of_a_long_visit_the_newest_is_drawn(browser: Browser, suite: Suite) -> None:
    visit, start = str(uuid.uuid4()), now_ms() - HOUR_MS
    pages = [entered(visit, f"Page {number}", start + number * 20_000) for number in range(70)]
    last = [on(pages[-1], f"Step{number}", pages[-1]["timestamp"] + number) for number in range(60)]
    async with suite.http() as http, console(browser, suite) as page:
        await page.set_viewport_size({"width": 1440, "height": 500})
        await send(http, *pages, *last)
        await stored(http, visit, 130)
        opened = await open_visit(page, visit)
        entries = opened.locator(".entries").first.locator(":scope > li")
        await expect(entries).to_have_count(60)
        await expect(entries.first.locator(".event")).to_have_count(50)
        await entries.first.get_by_role("button", name="10 earlier").click()
        await expect(entries.first.locator(".event")).to_have_count(60)
        await opened.get_by_role("button", name="10 earlier").click()
        await expect(entries).to_have_count(70)
        # A button names what is new to a reader further down, and the view does not move.
        await entries.nth(40).scroll_into_view_if_needed()
        await send(http, on(pages[-1], "Step60", now_ms()))
        await opened.get_by_role("button", name="1 new ↑").click()
        await expect(entries.first).to_be_in_viewport()
        await expect(opened.get_by_role("button", name="1 new ↑")).to_be_hidden()


async def is_reported(http: httpx.AsyncClient, visit: str) -> None:
    assert (await http.get(f"/api/v1/visits/{visit}/interactions")).json()["interactions"]


async def test_a_contact_is_chosen_and_the_choice_can_be_undone(browser: Browser, suite: Suite) -> None:
    tag = uuid.uuid4().hex[:6]
    mail, identity, visit = f"zoe-{tag}@example.com", f"user-{tag}", str(uuid.uuid4())
    first, second = f"C1-{tag}", f"C2-{tag}"

    async def decisions() -> list[dict[str, Any]]:
        return list((await http.get(f"/api/v1/identities/{identity}/links")).json().get("links", []))

    async with suite.http() as http, console(browser, suite) as page:
        people = {first: {"firstName": "Zoë", "lastName": f"N{tag}", "emailAddresses": [mail]}}
        people[second] = {"firstName": "Partner", "lastName": f"N{tag}", "phoneNumbers": ["+493012345678"]}
        for contact, values in people.items():
            assert (await http.put(f"/api/v1/contacts/{contact}", json=values)).status_code == 200
        await send(http, event("UserInfo", visit, now_ms(), identity, data={"email": mail}))
        opened = await open_visit(page, visit)
        await expect(opened.locator(".ask")).to_contain_text(f"Not matched: looks like Zoë N{tag}. Link?")
        before = await decisions()
        await opened.locator(".ask").get_by_role("button", name="Link").click()
        await expect(opened.get_by_text(f"Will be linked to Zoë N{tag}.")).to_be_visible()
        await opened.get_by_role("button", name="Undo").click()
        await expect(opened.locator(".ask")).to_be_visible()
        assert await decisions() == before

        await opened.get_by_text("Contact and decisions").click()
        await opened.get_by_label("Find a contact").fill(f"n{tag}")
        found = opened.locator(".finder li")
        await expect(found).to_have_count(2)
        await expect(found.locator("strong", has_text=mail)).to_be_visible()
        await found.filter(has_text="Partner").get_by_role("button").click()
        await opened.get_by_role("button", name="Send now").click()
        await expect(opened.locator(".way")).to_contain_text("linked by hand")
        await expect(opened.get_by_role("heading", level=2)).to_have_text(f"Partner N{tag}")
        link = (await decisions())[0]
        assert (link["contactId"], link["rule"], link["actor"]) == (second, "manual", suite.credentials.user)

        await opened.get_by_role("button", name="Not this person").click()
        await page.keyboard.press("Escape")  # who leaves has decided
        await eventually(lambda: unlinked(decisions))


async def unlinked(decisions: Any) -> None:
    assert (await decisions())[0]["status"] == "unlinked"


async def test_a_person_is_shown_exported_and_erased(browser: Browser, suite: Suite, tmp_path: Path) -> None:
    tag = uuid.uuid4().hex[:6]
    contact, identity, visit = f"C-{tag}", f"mo-{tag}@example.com", str(uuid.uuid4())
    name = f"Mo Özil{tag}"
    async with suite.http() as http, console(browser, suite) as page:
        values = {"firstName": "Mo", "lastName": f"Özil{tag}", "emailAddresses": [identity]}
        assert (await http.put(f"/api/v1/contacts/{contact}", json=values)).status_code == 200
        await send(http, entered(visit, "Loans", now_ms() - 1_000), event("AddToCart", visit, now_ms() - 500))
        await send(http, event("SignIn", visit, now_ms(), identity, data={"email": identity}))
        await stored(http, visit, 3)

        async def linked() -> None:
            assert (await http.get(f"/api/v1/visits/{visit}/visitor")).json()["contactId"] == contact

        await eventually(linked)
        opened = await open_person(page, identity)
        await expect(opened.get_by_role("heading", level=2)).to_have_text(name)
        await expect(opened.locator(".identities")).to_contain_text("by e-mail address, not verified")
        await expect(opened.locator(".here")).to_contain_text("On the site now: Loans")
        await expect(opened.locator(".cards")).to_contain_text("AddToCart")
        async with page.expect_download() as download:
            await opened.get_by_role("button", name="Export file").click()
        exported = (await (await download.value).path()).read_text()
        assert identity in exported
        assert '"eventName":"AddToCart"' in exported

        await opened.get_by_role("button", name="Erase…").click()
        send_it = opened.get_by_role("button", name="Erase for ever")
        await expect(send_it).to_be_disabled()
        await expect(opened.get_by_label("also the contact")).not_to_be_checked()
        await opened.get_by_label("also the contact").check()
        await opened.get_by_label("To erase, type").fill("somebody else")
        await expect(send_it).to_be_disabled()
        await opened.get_by_label("To erase, type").fill(name.upper().replace("Ö", "O"))
        await send_it.click()
        receipt = opened.locator(".receipt")
        await expect(receipt).to_contain_text("Second looknothing found")
        await expect(receipt).to_contain_text(f"By{suite.credentials.user}")
        await expect(receipt).to_contain_text("1 visit, 3 events")
        async with page.expect_download() as download:
            await receipt.get_by_role("button", name="Save").click()
        assert contact in (await (await download.value).path()).read_text()
        for path in (f"/server/data/identities/{identity}", f"/api/v1/contacts/{contact}"):
            assert (await http.get(path)).status_code == 404
        await page.emulate_media(media="print")
        await expect(receipt).to_be_visible()
        await expect(opened.get_by_role("heading", level=2)).to_be_hidden()


async def test_hostile_texts_fit_every_width(browser: Browser, suite: Suite) -> None:
    long_id = f"{uuid.uuid4().hex}{'W' * 268}"
    visit, user = str(uuid.uuid4()), f"{RIGHT_TO_LEFT}{long_id}"
    async with suite.http() as http, console(browser, suite) as page:
        at_ms = now_ms()
        sent = entered(visit, "T" * 300, at_ms, url=f"javascript:{'u' * 300}")
        more = on(sent, "N" * 200, at_ms, **{"k" * 200: "v" * 2_000, "x": RIGHT_TO_LEFT})
        await send(http, sent, on(sent, "SignIn", at_ms, user), more)
        await stored(http, visit, 3)
        opened = await open_visit(page, visit)
        for fold in ("Why we say so", "Contact and decisions", "Technical"):
            await opened.get_by_text(fold).first.click()
        await expect(opened.locator(".page").first).to_be_visible()
        await expect(opened.locator(".now")).to_contain_text("javascript:uuu")
        await fits_every_width(page, opened, f"U+202E{long_id}")
        await fits_every_width(page, await open_person(page, user), f"U+202E{long_id}")


async def fits_every_width(page: Page, view: Locator, name: str) -> None:
    await expect(view.get_by_role("heading", level=2)).to_contain_text(name)
    # 720 x 450 is a window of 1440 x 900 at 200 percent.
    for width, height in ((360, 700), (720, 450), (900, 700), (1100, 700), (1440, 900)):
        await page.set_viewport_size({"width": width, "height": height})
        spare = await view.evaluate(
            "(view) => [innerWidth - document.documentElement.scrollWidth, view.clientWidth - view.scrollWidth]"
        )
        assert min(spare) >= 0, (width, spare)
        box = await view.bounding_box()
        assert box, width
        assert box["width"] >= min(width, 512)
    assert await page.locator("a[href^='javascript']").count() == 0
