"""The page in a real browser: slider and keys step through the interleaving, and everything follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from concmem.explore.render.page import render_lanes_fragment, render_page

from .browser import chromium
from .failures import failure_of

pytestmark = pytest.mark.tools

WIDE, PHONE = (1400, 900), (400, 800)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests here."""
    with chromium() as driver:
        yield driver


class Shown:
    """One section of a page that is open."""

    def __init__(self, browser: Any, section: int = 0) -> None:
        self.browser = browser
        self.section = browser.find_elements(By.CSS_SELECTOR, "section.cm")[section]

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.section.find_elements(By.CSS_SELECTOR, selector)
        return found

    def one(self, selector: str) -> Any:
        (found,) = self.all(selector)
        return found

    def press(self, *keys: str) -> None:
        """As a user does who has clicked nowhere."""
        for key in keys:
            self.browser.find_element(By.TAG_NAME, "body").send_keys(key)

    def step(self) -> str:
        """The number of the highlighted row."""
        text: str = self.one("[aria-current=step] .cm-no").text
        return text.replace("▸", "").strip()

    def value(self, name: str) -> tuple[str, str]:
        """Of an object, and who has written it."""
        for line in self.all(".cm-values tbody tr"):
            cells = [cell.text for cell in line.find_elements(By.TAG_NAME, "td")]
            if cells[0] == name:
                return cells[1], cells[2]
        raise AssertionError(f"{name} is not in the table")

    def cpu(self, name: str) -> list[str]:
        """What a CPU does, and holds."""
        for line in self.all(".cm-cpus tbody tr"):
            cells = [cell.text for cell in line.find_elements(By.TAG_NAME, "td")]
            if cells[0] == name:
                return cells[1:]
        raise AssertionError(f"{name} is not in the table")

    def source(self) -> str:
        """The highlighted source line."""
        text: str = self.one(".cm-source .cm-line").get_property("textContent")
        return text.lstrip("0123456789").strip()


Open = Callable[..., Shown]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a failure; nothing may have gone wrong in it at the end."""

    def open_page(name: str, size: tuple[int, int] = WIDE, theme: str = "light") -> Shown:
        return open_text(render_page(failure_of(name)), size, theme)

    def open_text(text: str, size: tuple[int, int] = WIDE, theme: str = "light") -> Shown:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": theme}]},
        )
        browser.get(path.as_uri())
        return Shown(browser)

    open_page.text = open_text  # type: ignore[attr-defined]
    yield open_page
    errors = [
        entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]
    assert not errors


def test_arrow_keys_step_through(show: Open) -> None:
    """The highlighted step, the values, who wrote them, and the source line follow."""
    shown = show("counter")
    seen = []
    for _ in range(4):
        seen.append((shown.step(), *shown.value("x"), shown.source()))
        shown.press(Keys.ARROW_DOWN)
    assert seen == [
        ("1", "0", "", "value = x.value"),
        ("2", "0", "", "value = x.value"),
        ("3", "1", "cpu1, step 3", "x.value = value + 1"),
        ("4", "1", "cpu0, step 4", "x.value = value + 1"),
    ]
    assert shown.step() == "4", "there is nothing after the last step"
    shown.press(Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert (shown.step(), shown.value("x")[0]) == ("2", "0")
    shown.press(Keys.END)
    assert shown.step() == "4"
    shown.press(Keys.HOME, Keys.ARROW_RIGHT)
    assert shown.step() == "2"


def test_slider(show: Open) -> None:
    """Clicked, dragged, or moved with its own keys; and it follows the arrow keys itself."""
    shown = show("counter")
    slider = shown.one(".cm-slider")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0", "3")
    half = slider.size["width"] // 2
    ActionChains(shown.browser).move_to_element_with_offset(slider, half - 3, 0).click().perform()
    assert (shown.step(), shown.value("x")) == ("4", ("1", "cpu0, step 4"))
    ActionChains(shown.browser).click_and_hold(slider).move_by_offset(-half, 0).release().perform()
    assert (shown.step(), shown.value("x")[0]) == ("1", "0")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert (shown.step(), shown.value("x")[0]) == ("3", "1")
    shown.press(Keys.ARROW_DOWN)
    assert slider.get_property("value") == "3"
    assert "step 4 of 4: cpu0: write x 1 -> 1" in slider.get_attribute("aria-valuetext")
    assert shown.one(".cm-step-text").text == "step 4 of 4: cpu0: write x 1 -> 1"


def test_buttons_rows_and_links(show: Open) -> None:
    """Every way to a step leads there."""
    shown = show("counter")
    shown.one(".cm-next").click()
    assert shown.step() == "2"
    shown.one(".cm-prev").click()
    assert shown.step() == "1"
    shown.all(".cm-step")[2].click()
    assert shown.step() == "3"
    links = shown.all(".cm-ref")
    assert [link.text for link in links] == ["step 1", "step 3", "step 4"]
    links[2].click()
    assert shown.step() == "4"


def test_cpus_and_locks(show: Open) -> None:
    """Who runs, was preempted, waits, has ended; and what each holds."""
    shown = show("abba")
    shown.press(Keys.HOME)
    assert shown.cpu("cpu0") == ["running", "a"]
    shown.press(Keys.END)
    assert shown.cpu("cpu0") == ["waits for b, held by cpu1", "a"]
    assert shown.cpu("cpu1") == ["waits for a, held by cpu0", "b"]
    shown = show("counter")
    shown.press(Keys.HOME, Keys.ARROW_DOWN)
    assert [shown.cpu(name)[0] for name in ("cpu0", "cpu1")] == ["preempted", "running"]
    shown.press(Keys.END)
    assert [shown.cpu(name)[0] for name in ("cpu0", "cpu1")] == ["has ended", "has ended"]


def test_an_interrupt(show: Open) -> None:
    """In the lane of its CPU, and said to be one."""
    shown = show("interrupt")
    shown.press(Keys.HOME, Keys.ARROW_DOWN)
    assert shown.cpu("cpu0")[0] == "in an interrupt"
    assert shown.one("[aria-current=step] .cm-irq").text == "irq"


def test_folded_steps(show: Open) -> None:
    """Stepping goes over them, until they are unfolded."""
    shown = show("machine")
    slider = shown.one(".cm-slider")

    places = "return [...document.querySelectorAll(arguments[0])].map((row) => row.dataset.i)"
    rows = shown.browser.execute_script(places, ".cm-step")
    folded = shown.browser.execute_script(places, ".cm-step[data-in='1']")
    few = int(slider.get_attribute("max"))
    assert few < 60 < len(rows)
    before = rows[rows.index(folded[0]) - 1]
    shown.one(f".cm-step[data-i='{before}']").click()
    shown.press(Keys.ARROW_DOWN)
    here = shown.one("[aria-current=step]").get_attribute("data-i")
    assert here == rows[rows.index(folded[-1]) + 1], "over all of the fold at once"
    fold = shown.one(".cm-fold[data-fold='1']")
    fold.find_element(By.TAG_NAME, "button").click()
    assert not fold.is_displayed()
    assert int(slider.get_attribute("max")) == few + len(folded)
    assert shown.one("[aria-current=step]").get_attribute("data-i") == here
    shown.press(Keys.ARROW_UP)
    assert shown.one("[aria-current=step]").get_attribute("data-i") == folded[-1]


def test_the_picture_scrolls_to_the_step(show: Open) -> None:
    """The highlighted row is inside of what can be seen of the picture."""
    for size in (WIDE, PHONE):
        shown = show("machine", size)
        for button in shown.all(".cm-fold button"):
            shown.browser.execute_script("arguments[0].click()", button)
        for key in (Keys.END, Keys.HOME, Keys.PAGE_DOWN, Keys.PAGE_DOWN, Keys.PAGE_UP):
            shown.press(key)
            box, row = shown.one(".cm-picture").rect, shown.one("[aria-current=step]").rect
            assert box["y"] <= row["y"] <= box["y"] + box["height"] - row["height"] / 2


def test_all_objects(show: Open) -> None:
    """Private ones are shown on request."""
    shown = show("machine")
    few = len(shown.all(".cm-values tbody tr"))
    shown.one(".cm-everything").click()
    many = len(shown.all(".cm-values tbody tr"))
    assert few < many
    assert shown.value("nr_freed")[0].isdigit()


def test_copy(show: Open) -> None:
    """The button says that it has copied."""
    shown = show("counter")
    shown.one(".cm-copy").click()
    for _ in range(100):
        if shown.one(".cm-copy").text == "Copied":
            break
    assert shown.one(".cm-copy").text == "Copied"


def test_unusual_names_run_nothing(show: Open) -> None:
    """They are text in every place; a script of theirs would open a dialog, and the next command fail."""
    shown = show("evil")
    for _ in range(8):
        shown.press(Keys.ARROW_DOWN)
    assert "<script>alert(1)</script>" in shown.one("h1").text
    names = [cell.text for cell in shown.all(".cm-values tbody td:first-child")]
    assert any("<script>alert(1)</script>" in name for name in names)
    assert len(shown.browser.find_elements(By.TAG_NAME, "script")) == 2


@pytest.mark.parametrize("name", ["counter", "machine", "many_cpus", "evil", "kernel_thread"])
@pytest.mark.parametrize("size", [WIDE, PHONE, (768, 1024)])
def test_nothing_is_cut_off(show: Open, name: str, size: tuple[int, int]) -> None:
    """The page does not scroll sideways, at any width; lanes are side by side where there is room."""
    shown = show(name, size)
    width = shown.browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    lanes = len(shown.all(".cm-head span")) - 2
    is_wide = "cm-wide" in shown.one(".cm-picture").get_attribute("class")
    assert is_wide == (lanes <= 2), "two lanes have room on a phone, eight nowhere"
    right = shown.browser.execute_script(
        "return Math.max(...[...document.querySelectorAll('.cm-cell, .cm-panel *')]"
        ".filter((e) => !e.closest('.cm-source')).map((e) => e.getBoundingClientRect().right))"
    )
    assert right <= size[0]


def test_light_and_dark(show: Open) -> None:
    """As the reader has it; text and ground are far apart in both."""

    def luminance(colour: str) -> float:
        red, green, blue = (int(part) for part in colour.strip("rgba()").split(",")[:3])
        return (0.299 * red + 0.587 * green + 0.114 * blue) / 255

    def colours(shown: Shown) -> tuple[float, float]:
        get = shown.section.value_of_css_property
        return luminance(get("color")), luminance(get("background-color"))

    text, ground = colours(show("counter"))
    assert ground - text > 0.7
    text, ground = colours(show("counter", theme="dark"))
    assert text - ground > 0.7


def test_several_in_one_page(show: Open) -> None:
    """Each has its own state; keys are for the one that has the focus."""
    sections = "\n".join(render_lanes_fragment(failure_of(name)) for name in ("counter", "abba"))
    first = show.text(f"<!DOCTYPE html><html><body>{sections}</body></html>")  # type: ignore[attr-defined]
    second = Shown(first.browser, 1)
    assert (first.step(), second.step()) == ("1", "1")
    first.section.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert (first.step(), second.step()) == ("3", "1")
    second.section.send_keys(Keys.END)
    assert (first.step(), second.step()) == ("3", "2")
    assert first.value("x") == ("1", "cpu1, step 3")
