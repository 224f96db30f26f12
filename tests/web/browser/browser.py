"""Chromium, driven by selenium."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from attrs import frozen
from ports import free_port
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")

OPTIONS = (
    "--headless",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
#: Seconds after which something that a test waits for has failed.
TIMEOUT = 240
#: Seconds after which a script has failed: fewer than selenium waits for the answer to a command.
SCRIPT_TIMEOUT = 100


@frozen
class Browser:
    """The browser, and short forms of what the tests do with it."""

    driver: webdriver.Chrome
    downloads: Path

    @classmethod
    def start(cls, chromium: str, chromedriver: str, directory: Path) -> Self:
        """Start the browser with a new profile."""
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for option in (*OPTIONS, f"--user-data-dir={directory / 'profile'}"):
            options.add_argument(option)
        downloads = directory / "downloads"
        downloads.mkdir()
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(chromedriver, port=free_port()))
        driver.set_script_timeout(SCRIPT_TIMEOUT)
        return cls(driver, downloads)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the view, which can be smaller than a window, and the colour scheme that the user prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements that a CSS selector matches."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the text contents of the elements that a CSS selector matches."""
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)"
        return [str(text) for text in self.driver.execute_script(script, selector)]

    def wait(self, condition: Callable[[], T], what: str) -> T:
        """Wait until a condition is true, and return its result."""
        return WebDriverWait(self.driver, TIMEOUT, poll_frequency=0.05).until(lambda _: condition(), what)

    def find(self, selector: str) -> WebElement:
        """Wait for the first element that a CSS selector matches."""
        return self.wait(lambda: self.all(selector), f"no {selector}")[0]

    def click(self, selector: str) -> None:
        """Click on an element, also if the page replaces it meanwhile."""

        def clicked() -> bool:
            with suppress(StaleElementReferenceException):
                self.find(selector).click()
                return True
            return False

        self.wait(clicked, f"no {selector} that stays")

    def press(self, keys: str) -> None:
        """Press keys where the focus is."""
        ActionChains(self.driver).send_keys(keys).perform()

    def requests(self) -> list[str]:
        """Return the addresses that the browser has asked for since the last call, without those that a policy blocked."""
        found: dict[str, str] = {}
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            event: dict[str, Any] = json.loads(entry["message"])["message"]
            match event["method"]:
                case "Network.requestWillBeSent":
                    found[event["params"]["requestId"]] = event["params"]["request"]["url"]
                case "Network.loadingFailed" if "blockedReason" in event["params"]:
                    found.pop(event["params"]["requestId"], None)
        return list(found.values())
