"""The page at `/`, in a browser: it gets events through a subscription, like anyone."""

import pytest
from playwright.sync_api import Browser, ConsoleMessage

from conformance.lib.clients import new_page
from conformance.lib.deployment import Deployment
from conformance.lib.wait import wait_for

pytestmark = pytest.mark.anywhere


def test_the_page_loads_nothing_from_elsewhere(deployment: Deployment, browser: Browser) -> None:
    """The page works under its own Content-Security-Policy, without an error, and loads nothing from elsewhere."""
    place = deployment.servers[0]
    page = new_page(browser)
    requests: list[str] = []
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    page.on("request", lambda request: requests.append(request.url))
    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        answer = page.goto(place.url + deployment.path("/"))
        assert answer is not None
        assert answer.status == 200
        page.wait_for_function("document.body.innerText.toLowerCase().includes('redis')")
        assert requests
        assert all(url.startswith((place.url, place.url.replace("http", "ws", 1), "data:")) for url in requests)
        if not deployment.has_auth:
            assert errors == []
    finally:
        page.close()


def test_the_page_shows_events(deployment: Deployment, browser: Browser, run: str) -> None:
    """The page gets events only through a subscription like anyone's, begun by a button, and shows them."""
    page = new_page(browser)
    try:
        page.goto(deployment.servers[0].url + "/")
        if deployment.has_auth:
            page.get_by_label("Token").fill(str(deployment.token()))
        with page.expect_websocket():
            page.get_by_role("button", name="Start").click()

        def shown() -> bool:
            deployment.notify("match_change", {"run": run})
            return run in page.locator("body").inner_text()

        wait_for(shown, "an event is on the page")
    finally:
        page.close()
