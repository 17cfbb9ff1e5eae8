"""What tests of pages ask a browser."""

import json
from typing import Any


def requests(browser: Any) -> list[str]:
    """Return the addresses that the page asked for, other than those within it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [own["params"]["request"]["url"] for own in messages if own["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def wait_for(browser: Any, script: str) -> Any:
    """Run a script in the page until it returns something true."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 20).until(lambda page: page.execute_script(f"return {script}"))
