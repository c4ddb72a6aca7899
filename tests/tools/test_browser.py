"""The HTML report in a real browser: complete, without complaints, on wide and narrow screens, light and dark."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from concmem.cli.main import main

from .programs import program

pytestmark = [pytest.mark.tools, pytest.mark.timeout(180)]

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)

LANES = "<p id='lane'>lanes</p><script>document.getElementById('lane').dataset.ran = 'yes'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by its own driver."""
    options = webdriver.ChromeOptions()
    for option in OPTIONS:
        options.add_argument(option)
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(program("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a real run, and of the same with failures to show."""
    folder = tmp_path_factory.mktemp("pages")
    run, page = folder / "run.json", folder / "run.html"
    arguments = ["--cpus", "4", "--memory", "32M", "--seconds", "4", "--no-progress"]
    status = main(["stress", "smoke", *arguments, "--json", str(run), "--html", str(page)])
    assert status == 0
    data = json.loads(run.read_text())
    data["leaks"] = [{"address": 4096, "size": 64, "backtrace": ["open", "main"]}]
    data["bad_accesses"] = [{"cache": "c", "kind": "Poison overwritten", "address": 1, "text": "B"}]
    data["errors"] = [{"type": "DoubleFree", "message": "freed twice", "traceback": "at x\n" * 50}]
    broken, lanes = folder / "broken.html", folder / "lanes.html"
    run.write_text(json.dumps({**data, "verdict": "broken", "interrupted": True}))
    lanes.write_text(LANES)
    assert main(["report", str(run), "--html", str(broken), "--lanes", str(lanes)]) == 0
    return {"run": page, "broken": broken}


def show(browser: Any, page: Path, width: int, scheme: str) -> None:
    """Open *page* on a screen of that width."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())


SCREENS = pytest.mark.parametrize(
    ("width", "scheme"), [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")]
)
PAGES = pytest.mark.parametrize("name", ["run", "broken"])


@PAGES
@SCREENS
def test_it_is_shown(
    browser: Any, pages: dict[str, Path], tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    """All sections, all pictures, nothing wider than the screen, and no complaint."""
    show(browser, pages[name], width, scheme)
    headings = browser.execute_script(
        "return [...document.querySelectorAll('h2')].map(h => h.innerText)"
    )
    assert headings == [
        *("Advice", "Failures", "Time lines", "Memory", "Slabs", "Locks", "CPUs", "Flowcharts")
    ]
    # Every picture is drawn: it has a size, and something in it.
    pictures = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => "
        "[s.getBoundingClientRect().width, s.getBoundingClientRect().height, s.getBBox().width])"
    )
    assert len(pictures) >= 6 + 2 + 1 + 5
    assert all(min(sizes) > 20 for sizes in pictures)
    fits = "const d = document.documentElement; return d.scrollWidth <= d.clientWidth"
    assert browser.execute_script(fits)
    outside = browser.execute_script(
        "return [...document.querySelectorAll('figure, article, .tiles li, h1, p')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
    )
    assert outside == []
    assert browser.get_log("browser") == []
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    (tmp_path / "screen.png").write_bytes(base64.b64decode(shot["data"]))


@PAGES
def test_it_loads_nothing(browser: Any, pages: dict[str, Path], name: str) -> None:
    """The browser asks for the file, and for nothing else."""
    show(browser, pages[name], 1400, "light")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert set(requested) <= {pages[name].as_uri()}


def test_columns_follow_the_width(browser: Any, pages: dict[str, Path]) -> None:
    """Pictures beside each other where there is room, else below each other; never too small to read."""
    columns, smallest = {}, {}
    for width in (1400, 400):
        show(browser, pages["run"], width, "light")
        lefts = browser.execute_script(
            "return [...document.querySelectorAll('#timelines figure')]"
            ".map(f => Math.round(f.getBoundingClientRect().left))"
        )
        columns[width] = len(set(lefts))
        heights = browser.execute_script(
            "return [...document.querySelectorAll('svg text')]"
            ".map(t => t.getBoundingClientRect().height).filter(h => h > 0)"
        )
        smallest[width] = min(heights)
    assert columns == {1400: 3, 400: 1}
    assert min(smallest.values()) >= 8


def contrast(browser: Any, selector: str) -> float:
    """Of the text of an element to the page, as WCAG 2 defines it; 1 to 21."""
    colours = browser.execute_script(
        "const e = document.querySelector(arguments[0]);"
        "return [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]",
        selector,
    )

    def luminance(colour: str) -> float:
        parts = [int(n) / 255 for n in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(
    browser: Any, pages: dict[str, Path], scheme: str
) -> None:
    """Contrast of at least 4.5, as WCAG asks for; and the two schemes are two."""
    show(browser, pages["broken"], 1400, scheme)
    for selector in (
        "h1",
        ".verdict",
        ".unit",
        ".command",
        "nav a",
        "th",
        "td",
        ".level",
        "footer",
    ):
        assert contrast(browser, selector) >= 4.5, selector
    body = "return getComputedStyle(document.body).backgroundColor"
    background = browser.execute_script(body)
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")


def test_failures_are_shown(browser: Any, pages: dict[str, Path]) -> None:
    """Lanes, whose script may run; rules that were broken, leaks, and illegal accesses."""
    show(browser, pages["broken"], 1400, "light")
    text = browser.execute_script("return document.querySelector('#failures').innerText")
    for words in ("lanes", "DoubleFree", "freed twice", "Poison overwritten", "open < main"):
        assert words in text
    ran = browser.execute_script("return document.getElementById('lane').dataset.ran")
    assert ran == "yes"
    assert browser.execute_script("return document.querySelectorAll('.advice.problem').length") == 2
    head = browser.execute_script("return document.querySelector('header').innerText")
    assert "broken, interrupted" in head
