"""The reports in a real browser: no errors, sortable tables. Their appearance is tested in tests/looks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.chromium import Chromium
from tests.looks.pages import PAGES, write_pages

HEADS = "document.querySelector('#{section} table').tHead.rows[0].cells"
COLUMN = "[...document.querySelector('#{section} table').tBodies[0].rows].map(row => row.cells[{column}].textContent)"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def run(pages: dict[str, Path]) -> Path:
    return pages["run"]


@pytest.fixture
def sweep(pages: dict[str, Path]) -> Path:
    return pages["sweep"]


def column(browser: Chromium, section: str, place: int) -> list[str]:
    found_: list[str] = browser.ask(COLUMN.format(section=section, column=place))
    return found_


def click(browser: Chromium, section: str, place: int) -> list[str | None]:
    """Click on a column head; return ``aria-sort`` of every head."""
    heads = HEADS.format(section=section)
    browser.ask(f"{heads}[{place}].querySelector('button').click()")
    orders: list[str | None] = browser.ask(f"[...{heads}].map(head => head.getAttribute('aria-sort'))")
    return orders


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_shown_without_browser_errors(browser, pages, name, scheme):
    browser.complaints.clear()
    browser.open(pages[name], scheme=scheme)
    shown = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("L"))
    assert browser.complaints == []
    assert shown.std() > 10 and len(np.unique(shown)) > 50
    assert (np.median(shown) > 128) == (scheme == "light")
    assert browser.ask("document.querySelectorAll('th button').length") > 10


def test_table_is_sorted_up_down_and_back(browser, run):
    browser.open(run)
    written = column(browser, "time", 2)
    assert click(browser, "time", 2) == [None, None, "ascending", None, None, None]
    assert column(browser, "time", 2) == sorted(written, key=lambda words: float(words.split()[0])) != written
    assert browser.ask("document.querySelector('#time tfoot tr').textContent").startswith("All sites")
    assert click(browser, "time", 2)[2] == "descending"
    assert column(browser, "time", 2)[0] == max(written, key=lambda words: float(words.split()[0]))
    assert click(browser, "time", 2) == [None] * 6
    assert column(browser, "time", 2) == written


def test_numbers_with_units_are_sorted_as_numbers_and_dashes_stay_last(browser, sweep):
    browser.open(sweep)
    scores = [score for score in column(browser, "trials", 4) if score != "–"]
    for sign in (1, -1):
        click(browser, "trials", 4)
        ordered = sorted(scores, key=lambda words: sign * float(words.rstrip("%")))
        assert column(browser, "trials", 4) == [*ordered, "–", "–"]


def test_sorting_is_stable(browser, sweep):
    browser.open(sweep)
    click(browser, "trials", 2)
    click(browser, "trials", 2)
    assert click(browser, "trials", 0) == ["ascending", *[None] * 6]
    assert column(browser, "trials", 0) == sorted(column(browser, "trials", 0))
    assert column(browser, "trials", 2) == ["2", "2", "1", "1"] * 3


@pytest.mark.parametrize(("key", "code", "text"), [("Enter", 13, "\r"), (" ", 32, " ")])
def test_key_sorts_like_a_click(browser, sweep, key, code, text):
    browser.open(sweep)
    written = column(browser, "trials", 0)
    browser.ask(f"{HEADS.format(section='trials')}[0].querySelector('button').focus()")
    browser.press(key, code, text)
    assert browser.ask(f"{HEADS.format(section='trials')}[0].getAttribute('aria-sort')") == "ascending"
    assert column(browser, "trials", 0) == sorted(written) != written


def test_foreign_scripts_are_blocked(browser, run, tmp_path):
    foreign = run.read_text().replace("</main>", "</main><script>document.title = 'foreign'</script>")
    (tmp_path / "foreign.html").write_text(foreign.replace("<h1>", "<h1 onclick=\"document.title = 'foreign'\">"))
    browser.complaints.clear()
    browser.open(tmp_path / "foreign.html")
    browser.ask("document.querySelector('h1').click()")
    assert browser.ask("document.title").endswith("FedRecon")
    assert len(browser.complaints) == 2 and all("Content Security Policy" in words for words in browser.complaints)
