"""What a page weighs over the wire, as Chromium counts it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

KB = 1000


class Weight:
    """Files and answers of the API that a page has loaded since this was made, without the cache's help."""

    def __init__(self, page: Page) -> None:
        self._addresses: dict[str, str] = {}
        self._asked_at: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        """By address; an answer that never ends is not among them."""
        cdp = page.context.new_cdp_session(page)
        cdp.send("Network.enable")
        cdp.send("Network.setCacheDisabled", {"cacheDisabled": True})
        cdp.on("Network.requestWillBeSent", self._asked)
        cdp.on("Network.loadingFinished", self._came)

    def _asked(self, event: dict[str, Any]) -> None:
        self._addresses[event["requestId"]] = event["request"]["url"]
        self._asked_at.setdefault(event["request"]["url"], event["wallTime"])

    def _came(self, event: dict[str, Any]) -> None:
        address = self._addresses.get(event["requestId"], "")
        self.bytes[address] = self.bytes.get(address, 0) + event["encodedDataLength"]

    @property
    def files(self) -> list[str]:
        """What was asked for over the wire: not what an address holds itself, as noVNC's rectangles do."""
        return [one for one in self.bytes if one.startswith("http") and "/api/" not in one]

    @property
    def of_files(self) -> int:
        """Bytes; what the API answers is of any length, and is not the page."""
        return sum(self.bytes[one] for one in self.files)

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    def files_asked_until(self, moment: float) -> list[str]:
        """moment: seconds since the epoch."""
        return [address for address in self.files if self._asked_at[address] <= moment]
