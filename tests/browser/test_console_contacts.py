"""The view of contacts: found by name, address and id, read in pages, with where each one is."""

import re
import uuid
from typing import Any

from playwright.async_api import Browser, expect

from tests.browser.test_console import HOSTILE, console
from tests.browser.test_console_list import find
from tests.browser.test_console_views import is_accessible
from tests.browser.test_console_visit import entered, fits_every_width, on, send, stored
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

PAGE = 25


async def test_contacts_are_found_and_lead_to_the_person(browser: Browser, suite: Suite) -> None:
    tag, visit = uuid.uuid4().hex[:8], str(uuid.uuid4())
    user, first, last = f"{tag}@shop.example", f"C-{tag}-00", f"C-{tag}-{PAGE}"
    contacts: list[dict[str, Any]] = [
        {"contactId": f"C-{tag}-{number:02}", "firstName": f"N{number}", "lastName": f"Listed{tag}"}
        for number in range(PAGE + 1)
    ]
    contacts[0] |= {"emailAddresses": [user], "phoneNumbers": ["+49 30 1000002"]}
    contacts[1] |= {"title": HOSTILE, "firstName": f"\u202e{'W' * 255}"}
    async with suite.http() as http, console(browser, suite) as page:
        written = await http.post("/api/v1/contacts:batch", json={"contacts": contacts})
        assert written.status_code == 200, written.text
        loans = entered(visit, "Loans", now_ms() - 1_000)
        await send(http, loans, on(loans, "SignIn", now_ms(), user, email=user))
        await stored(http, visit, 2)

        # The box shows some of them, and leads to all.
        options = await find(page, f"listed{tag}")
        await expect(options.last).to_contain_text("Only the first 8 contacts are shown.")
        await options.last.click()
        await expect(page).to_have_url(f"{suite.url}/console/contacts?q=listed{tag}")
        await expect(page).to_have_title(f"Contacts · listed{tag} · Footfall")
        view = page.get_by_role("region", name="Contacts", exact=True)
        rows = view.locator("tbody tr")
        await expect(rows).to_have_count(PAGE)
        here = rows.filter(has_text=first)
        for text in (user, "+49 30 1000002", "1 identity", "on the site now", "Loans"):
            await expect(here).to_contain_text(text)
        await expect(rows.filter(has_text=f"C-{tag}-02")).to_contain_text("not seen yet")
        await expect(rows.filter(has_text=f"C-{tag}-01")).to_contain_text(HOSTILE)
        assert await page.locator("main img, main script").count() == 0
        await view.get_by_role("button", name="More").click()
        await expect(rows).to_have_count(PAGE + 1)
        await expect(view.get_by_role("status")).to_have_text(f"{PAGE + 1} found.")
        await fits_every_width(page, view, "Contacts")

        # Back from a person, the same rows are there, and the row has the focus.
        await rows.filter(has_text=last).locator("code").click()
        await expect(page).to_have_url(f"{suite.url}/console/person/{last}")
        await page.go_back()
        await expect(rows).to_have_count(PAGE + 1)
        await expect(rows.filter(has_text=last).get_by_role("link")).to_be_focused()

        box = view.get_by_role("searchbox", name="Find a contact")
        for text in (user.upper(), first):
            await box.fill(text)
            await expect(rows).to_have_count(1)
            await expect(rows).to_contain_text("on the site now")
        await expect(page).to_have_url(re.compile(f"/console/contacts[?]q={first}$"))
        await box.fill(f"nobody{tag}")
        await expect(view.get_by_role("status")).to_have_text("No contact has this name, address, number or id.")
        await expect(rows).to_have_count(0)
        await page.get_by_role("link", name="Contacts", exact=True).click()
        await expect(rows).to_have_count(PAGE)
        await page.set_viewport_size({"width": 720, "height": 700})
        await is_accessible(page)
        await box.press("Escape")
        await expect(view).to_be_hidden()
        await page.get_by_role("link", name="Contacts", exact=True).click()
        await expect(view.get_by_role("heading", name="Contacts")).to_be_focused()


async def test_links_in_doubt_are_listed_and_decided(browser: Browser, suite: Suite) -> None:
    tag = f"!{uuid.uuid4().hex[:8]}"  # first in the order of ids
    twin, named, like = (f"{tag}-{kind}@shop.example" for kind in ("twin", "named", "like"))
    contacts = [
        {"contactId": f"{tag}-1", "firstName": "Zoe", "lastName": tag, "emailAddresses": [twin, like]},
        {"contactId": f"{tag}-2", "firstName": "Partner", "lastName": f"of {tag}", "emailAddresses": [twin]},
    ]
    async with suite.http() as http, console(browser, suite, at="contacts?show=ambiguous") as page:
        assert (await http.post("/api/v1/contacts:batch", json={"contacts": contacts})).status_code == 200
        events = [
            event("SignIn", str(uuid.uuid4()), now_ms(), twin),
            event("SignIn", str(uuid.uuid4()), now_ms(), named, data={"firstName": "Zoe", "lastName": tag}),
            event("UserInfo", str(uuid.uuid4()), now_ms(), like),
        ]
        await send(http, *events)
        view = page.get_by_role("region", name="Contacts", exact=True)

        async def listed(shown: str, identity: str) -> Any:
            """The item of an identity, when identity has read the log."""
            item = view.locator("li[data-identity]").filter(has_text=identity)

            async def is_shown() -> None:
                await page.goto(f"/console/contacts?show={shown}")
                await view.get_by_role("status").first.filter(has_not_text="Searching").wait_for()
                assert await item.count() == 1

            await eventually(is_shown)
            return item

        item = await listed("ambiguous", twin)
        await expect(page).to_have_title("Contacts · ambiguous · Footfall")
        await expect(view.get_by_role("button", name=re.compile(r"ambiguous \(\d+"))).to_have_attribute(
            "aria-pressed", "true"
        )
        await expect(item).to_contain_text("2 contacts match. Which one is it?")
        await is_accessible(page)
        await item.get_by_role("button", name=f"{tag}-2").click()
        await expect(view.get_by_text(f"Will be linked to Partner of {tag}.")).to_be_visible()
        await expect(item.get_by_role("button")).to_have_count(0)
        await view.get_by_role("button", name="Undo").click()
        await item.get_by_role("button", name=f"{tag}-2").click()
        await view.get_by_role("button", name="Send now").click()
        await expect(item).to_have_count(0)
        await expect(view.get_by_role("heading", name="Contacts")).to_be_focused()
        link = (await http.get(f"/api/v1/identities/{twin}/links")).json()["links"][0]
        assert (link["contactId"], link["rule"]) == (f"{tag}-2", "manual")

        item = await listed("recognized_only", like)
        await expect(item).to_contain_text(f"Not matched: looks like Zoe {tag}. Link?")
        item = await listed("by_name", named)
        await expect(item).to_contain_text("by name only")
        confirm, unlink = [await item.get_by_role("button", name=name).bounding_box() for name in ("Confirm", "Unlink")]
        assert confirm
        assert unlink
        assert unlink["x"] >= confirm["x"] + confirm["width"] + 4, "they do not touch"
        await item.get_by_role("button", name="Unlink").click()
        await view.get_by_role("button", name="Send now").click()
        await expect(item).to_have_count(0)
        # The box finds among all contacts; a filter shows all that it is about.
        await view.get_by_role("searchbox").fill(tag)
        await expect(view.locator("tbody tr")).to_have_count(2)
        await expect(view.locator("[aria-pressed=true]")).to_have_count(0)


async def test_contacts_on_the_site_now_are_listed_once_each(browser: Browser, suite: Suite) -> None:
    tag = uuid.uuid4().hex[:8]
    user, contact = f"{tag}@shop.example", f"C-{tag}"
    visits = [entered(str(uuid.uuid4()), title, now_ms()) for title in ("Loans", "Cards")]
    async with suite.http() as http, console(browser, suite, at="contacts") as page:
        stored_contact = {"lastName": f"Here{tag}", "emailAddresses": [user]}
        assert (await http.put(f"/api/v1/contacts/{contact}", json=stored_contact)).status_code == 200
        assert (await http.put(f"/api/v1/contacts/{contact}-2", json={"lastName": f"Away{tag}"})).status_code == 200
        for visit in visits:
            await send(http, visit, on(visit, "SignIn", now_ms(), user))
            await stored(http, visit["visitID"], 2)
        view = page.get_by_role("region", name="Contacts", exact=True)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await view.get_by_role("button", name="on the site now").click()
        await expect(page).to_have_url(f"{suite.url}/console/contacts?show=here")
        rows = view.locator("tbody tr")
        await expect(rows.filter(has_text=f"Here{tag}")).to_have_count(1)
        await expect(rows.filter(has_text=f"Here{tag}")).to_contain_text("on the site now")
        await expect(rows.filter(has_text=f"Away{tag}")).to_have_count(0)
        assert [url for url in asked if f"contactId={contact}" in url and "/api/v1/contacts?" in url]
        assert not [url for url in asked if "/api/v1/contacts/" in url], "contacts are asked for together"


async def test_ids_are_asked_for_in_groups_that_fit_into_an_address(browser: Browser, suite: Suite) -> None:
    tag = uuid.uuid4().hex[:8]
    ids = [f"{tag}-{number:04}" for number in range(120)] + [f"{tag}-{'Ж' * 240}-{number}" for number in range(30)]
    contacts = [{"contactId": one, "lastName": "Long"} for one in ids]
    missing = f"{tag}-missing"
    async with suite.http() as http, console(browser, suite, at="contacts") as page:
        written = await http.post("/api/v1/contacts:batch", json={"contacts": contacts})
        assert written.status_code == 200, written.text
        found, groups = await page.evaluate(
            "(ids) => import('/console/contacts.js').then(async ({ contactsOf, groups }) => "
            "[await contactsOf(ids, undefined, ids.length), groups(ids)])",
            [*reversed(ids), missing],
        )
        assert [one["contactId"] for one in found] == [*reversed(ids)]
        assert [one for group in groups for one in group] == [*reversed(ids), missing]
        assert len(groups) < 12
        assert await page.evaluate("import('/console/contacts.js').then(({ contactsOf }) => contactsOf([]))") == []
