"""The report in a real browser: `pytest -m browser`, with Debian's chromium and chromium-driver installed."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_reports import EVIL, make, make_big, make_summary, make_target, write

from sourcewise.report import contents
from tests.report.test_pictures import dataset, facts, review_rows

pytestmark = pytest.mark.browser
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


class Browser:
    """A page in Chromium; every problem that its console tells is kept."""

    def __init__(self, profile: Path) -> None:
        programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
        if None in programs:
            pytest.fail("browser tests need Chromium: apt-get install -y chromium chromium-driver")
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))

    def open(self, path: Path, *, dark: bool = False, width: int = 1280) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.driver.get(path.as_uri())
        self.wait()

    def wait(self) -> None:
        """Until all visible figures are drawn; a page that never gets there meets the driver's timeout."""
        self.driver.execute_async_script(
            "const poll = () => document.querySelector('.target:not([hidden]) .plot:not([data-drawn])')"
            " ? setTimeout(poll, 20) : arguments[0](); poll()"
        )

    def command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    def __call__(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def search(self, text: str) -> str:
        """Type into the search box as a reader does, and return what the page says."""
        from selenium.webdriver.common.by import By

        box = self.driver.find_element(By.ID, "search")
        box.clear()
        box.send_keys(text)
        self.driver.execute_async_script("setTimeout(arguments[0], 400)")
        return str(self("return document.getElementById('search-status').textContent"))

    def rows(self, table: str) -> list[str]:
        script = "return [...document.querySelectorAll(`#${arguments[0]} tbody th`)].map((e) => e.textContent)"
        return list(self(script, table))

    def problems(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("demo") / "report.html", *make())


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_figures_are_drawn_and_the_console_is_silent(browser: Browser, demo: Path, dark: bool, width: int) -> None:
    browser.open(demo, dark=dark, width=width)
    assert browser("return document.querySelectorAll('.plot .main-svg').length") >= 2
    assert browser("return document.querySelectorAll('#target-digits-heatmap .heatmaplayer image').length") == 2
    assert browser("return document.querySelectorAll('#target-digits-bars .bars .point').length") == 36
    assert browser("return document.documentElement.scrollWidth") <= width
    text = browser("return getComputedStyle(document.querySelector('#target-digits-bars .ytick text')).fill")
    assert text == ("rgb(230, 228, 224)" if dark else "rgb(35, 39, 46)")
    assert browser("return performance.getEntriesByType('resource').length") == 0
    assert browser.problems() == []


def test_search_filters_the_tables_and_marks_the_figures(browser: Browser, demo: Path) -> None:
    browser.open(demo)
    assert browser.search("q") == "1 group"
    assert browser.rows("target-digits-by-group") == ["Q"]
    shapes = "return document.getElementById(arguments[0]).layout.shapes"
    column, row = (browser(shapes, f"target-digits-{kind}")[0] for kind in ("heatmap", "bars"))
    names = browser("return document.getElementById('target-digits-heatmap').data[0].x")
    assert names[round(column["x0"] + 0.5)] == "Q"
    bars = browser("return document.getElementById('target-digits-bars').data[0].y")
    assert bars[round(row["y0"] + 0.5)] == "Q"
    assert browser.search("3") == "1 group, 1 class"
    assert "3" in browser.rows("target-digits-by-class")
    assert browser.search("nowhere") == "Nothing matches"
    assert browser.rows("target-digits-by-class") == []
    assert browser.search("\ue00c") == ""  # escape
    assert len(browser.rows("target-digits-by-group")) == 36
    assert browser.problems() == []


def test_groups_can_stand_in_the_order_of_the_data(browser: Browser, demo: Path) -> None:
    browser.open(demo)
    names = "return document.getElementById('target-digits-heatmap').data[0].x.join('')"
    value = "const t = document.getElementById('target-digits-heatmap').data[0]; return t.z[7][t.x.indexOf('E')]"
    clustered, influence = browser(names), browser(value)
    browser("document.querySelector('input[value=original]').click()")
    assert browser(names) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ" != clustered
    assert browser(value) == influence


def test_targets_are_tabs_that_the_keyboard_moves(browser: Browser, tmp_path: Path) -> None:
    one, two = make_target("digits"), make_target("letters", classes=["A", "B"], examples=200, seed=1)
    summary = make_summary({"digits": one[1], "letters": two[1]})
    browser.open(write(tmp_path / "report.html", {"digits": one[0], "letters": two[0]}, summary))
    shown = "return [...document.querySelectorAll('.target')].map((e) => e.offsetHeight > 0)"
    assert browser(shown) == [True, False]
    event = "new KeyboardEvent('keydown', {key: 'ArrowRight'})"
    browser(f"document.querySelector('[role=tab]').dispatchEvent({event})")
    assert browser(shown) == [False, True]
    browser.wait()
    assert browser("return document.activeElement.textContent") == "letters"
    assert browser("return document.querySelectorAll('#target-letters .heatmaplayer image').length") == 2
    assert browser.problems() == []


def test_names_are_only_names(browser: Browser, tmp_path: Path) -> None:
    evil = [
        EVIL,
        "<img src=x onerror=alert(1)>",
        "</script><b id=evil>x</b>",
        "<a href='http://x'>y</a>",
        "a\u2028b",
    ]
    dataset, facts = make_target(name=EVIL, groups=["a", *evil], classes=evil, examples=9)
    summary = make_summary({EVIL: facts}, 6, source=EVIL, notes=evil, command=evil[2])
    browser.open(write(tmp_path / "report.html", {EVIL: dataset}, summary))
    assert browser.search("alert(1)") == "2 groups, 2 classes"
    assert browser("return document.querySelectorAll('#evil, main img, svg a, .plot b').length") == 0
    ticks = browser("return [...document.querySelectorAll('.ytick text')].map((e) => e.textContent.trim())")
    assert EVIL in ticks
    assert "<a href='http://x'>y</a>" in ticks
    assert browser("return document.querySelector('h1 em').textContent") == EVIL
    assert browser.problems() == []  # an alert would have stopped the driver, a blocked script would be told here


def test_print_shows_every_target_in_light_colours(browser: Browser, tmp_path: Path) -> None:
    one, two = make_target("digits"), make_target("letters", classes=["A", "B"], examples=200, seed=1)
    summary = make_summary({"digits": one[1], "letters": two[1]})
    path = write(tmp_path / "report.html", {"digits": one[0], "letters": two[0]}, summary)
    browser.open(path, dark=True)
    browser(
        "window.seen = []; addEventListener('beforeprint', () => document.querySelectorAll('.plot').forEach("
        "(plot) => seen.push([plot.layout.font.color, plot.layout.width])))"
    )
    pdf = base64.b64decode(browser.command("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF")
    plots = browser("return document.querySelectorAll('.plot').length")
    assert browser("return seen") == [["#23272e", 690]] * plots
    assert plots == 6  # of each target a heatmap, bars and the convergence of its checks
    assert browser("return document.querySelector('.plot').layout.font.color") == "#e6e4e0"
    assert browser.problems() == []


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_images_of_examples_are_drawn(browser: Browser, tmp_path: Path, dark: bool, width: int) -> None:
    target, about = make_target(examples=90)
    about = replace(about, **facts(name="7"))
    summary = make_summary({"digits": about}, review=review_rows("digits")[:1])
    images = {"digits": dataset(), "": dataset(channels=3, side=64)}
    browser.open(write(tmp_path / "report.html", {"digits": target}, summary, None, images), dark=dark, width=width)
    browser("document.querySelectorAll('details.section').forEach((e) => { e.open = true; })")
    sizes = browser("return [...document.images].map((e) => [e.naturalWidth, e.offsetWidth, e.offsetHeight])")
    assert [natural for natural, *_ in sizes] == [8] * 28 + [64, 8]
    assert all(across == down >= 40 for _, across, down in sizes)
    assert browser("return document.documentElement.scrollWidth") <= width
    source, target_image = browser(
        "return [...document.images].slice(-2).map((e) => e.getBoundingClientRect().toJSON())"
    )
    assert source["right"] < target_image["left"]  # side by side
    assert abs(source["top"] - target_image["top"]) < 2 if width > 1000 else True
    assert browser.problems() == []


def test_a_big_page_works_and_its_load_time_is_told(browser: Browser, tmp_path: Path) -> None:
    path = write(tmp_path / "report.html", *make_big())
    browser.open(path)
    load = browser("return performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
    size = path.stat().st_size / 1e6
    busy = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"\n1,000 groups x 1,000 classes: {size:.1f} MB, loaded in {load:.2f} s (bound: 2 s; {busy})")
    assert len(browser.rows("target-digits-by-class")) == contents.SHOWN_ROWS
    assert browser.search("synset 0999 of a long-named kind") == "1 group, 1 class"
    assert browser.rows("target-digits-by-group") == ["synset 0999 of a long-named kind"]
    assert len(browser("return document.getElementById('target-digits-bars').data[0].y")) == 1
    browser.search("\ue00c")
    browser("document.querySelector('[data-table=target-digits-by-group] button').click()")
    assert len(browser.rows("target-digits-by-group")) == 1000
    assert browser.problems() == []
