"""The look of the reports in a real browser: unchanged, legible, fit for a phone, and usable by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server.report.page import environment
from tests.helpers.chromium import Chromium
from tests.looks.pages import FONTS, PAGES, RECOLOURED, SPOILT, VIEWS, View, in_letters, write_pages
from tests.looks.pictures import RENEW, Look, differences, load, look, photograph, stored
from tests.looks.questions import CROWDED_TEXTS, FOCUSED, MARKS, PALE_TEXTS, SCROLLERS, STOPS

LONG = "a_name_that_is_longer_than_a_phone_is_wide_and_has_no_place_to_break"
SHADES = """
{% extends "page.html.md" %}
{% import "components.html.md" as ui %}
{% block notices %}
<section>
{% call ui.table("Shades", ["Row"] + range(10)|list, class="heats") %}
<tbody>
{% for row in range(0, 300, 10) %}
<tr><th scope="row">row {{ row }}</th>
{%- for column in range(10) %}{{ ui.heat((row + column) / 300, "10", "") }}{% endfor %}</tr>
{% endfor %}
</tbody>
{% endcall %}
</section>
{% endblock %}
"""
TAB = 9
NEAR = 24
"""Largest difference between the colour of a pixel and that of the mark painted there, of 255."""


@dataclass(frozen=True)
class Shown:
    """A view and what the scripts of `questions` found in it."""

    view: View
    look: Look
    pixels: NDArray[np.int64]
    marks: list[dict[str, Any]]
    read: dict[str, Any]
    crowded: dict[str, Any]
    stuck: list[str]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module", params=VIEWS, ids=str)
def shown(request: pytest.FixtureRequest, browser: Chromium, pages: dict[str, Path]) -> Iterator[Shown]:
    view: View = request.param
    view.show(browser, pages[view.page])
    image, marks = photograph(browser), browser.ask(MARKS)
    seen = look(browser, image)
    answers = [browser.ask(question) for question in (PALE_TEXTS, CROWDED_TEXTS, SCROLLERS)]
    yield Shown(view, seen, np.asarray(image, dtype=np.int64), marks, *answers)


def test_the_pages_are_the_same_bytes_wherever_they_are_written(pages, tmp_path):
    again = write_pages(tmp_path / "elsewhere")
    assert {name: path.read_bytes() for name, path in pages.items()} == {n: p.read_bytes() for n, p in again.items()}


def test_a_page_looks_as_it_did(shown):
    different = differences(shown.look, load(stored(shown.view)))
    assert not different, (
        f"{shown.view}: {'; '.join(different)}. If that is meant: {RENEW}, look at the page and at the pictures"
    )


def test_every_chart_bar_and_strip_is_painted(shown):
    for drawn in shown.marks:
        assert drawn["marks"], f"{drawn['name']}: nothing is drawn in it"
        for mark in drawn["marks"]:
            assert mark["contrast"] >= 3, drawn["name"]  # WCAG 2.2, 1.4.11
            assert painted(mark, shown.pixels), f"{drawn['name']}: {mark}"


def painted(mark: dict[str, Any], pixels: NDArray[np.int64]) -> bool:
    """Whether a mark has its colour all over a bar, or along a line; true for what a table scrolls out of sight."""
    left, top, right, bottom = map(round, mark["box"])
    if right - left < 3:
        return True
    beside = 2 if mark["line"] else 0  # the box of a line that goes straight across has no height
    near = np.abs(pixels[top - beside : bottom + beside, left:right] - mark["colour"]).max(axis=-1) < NEAR
    return bool(near.sum() > (right - left) / 4 if mark["line"] else near.mean() > 0.7)


def test_all_text_can_be_read(shown):
    assert shown.read["read"] > 300
    assert shown.read["pale"] == []


def test_nothing_sticks_out_and_what_scrolls_can_be_scrolled_by_keys(shown):
    assert shown.crowded == {"width": 390 if shown.view.device == "phone" else 1200, "beyond": [], "struck": []}
    assert shown.stuck == []


@pytest.mark.parametrize("page", PAGES)
def test_the_tab_key_reaches_all_in_the_order_of_the_page(browser, pages, page):
    View(page, "phone", "light").show(browser, pages[page])
    browser.ask(f"globalThis.stops = {STOPS.strip()}; null")
    reached = []
    for _ in range(browser.ask("stops.length")):
        browser.press("Tab", TAB)
        reached.append(browser.ask(FOCUSED))
    assert reached == [{"place": place, "ring": True, "shown": True} for place in range(len(reached))]
    assert len(reached) > 40


def test_names_that_are_longer_than_a_phone_is_wide_are_broken(browser, tmp_path):
    for page, path in write_pages(tmp_path / "pages", LONG).items():
        View(page, "phone", "light").show(browser, path)
        assert LONG in browser.ask("document.body.innerText")
        assert browser.ask(CROWDED_TEXTS) == {"width": 390, "beyond": [], "struck": []}, page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_number_can_be_read_on_every_shade(browser, tmp_path, scheme):
    page = environment().from_string(SHADES).render(name="shades", sections=[], content={}, tiles=[], closing="")
    (tmp_path / "shades.html").write_text(page)
    browser.open(tmp_path / "shades.html", scheme=scheme)
    different = browser.ask(PALE_TEXTS)
    assert different["read"] > 300 and different["pale"] == []


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("name", ["run-phone-dark", "sweep-phone-light"])
def test_other_letters_on_another_screen_are_no_difference(browser, pages, tmp_path, font, name):
    view = next(replace(view, scale=1.25) for view in VIEWS if str(view) == name)
    view.show(browser, in_letters(pages[view.page], font, tmp_path / "other.html"))
    assert browser.ask("document.fonts.ready.then((fonts) => [...fonts].map((font) => font.status))") == ["loaded"]
    assert differences(look(browser, photograph(browser), view.scale), load(stored(view))) == []
    assert browser.ask(CROWDED_TEXTS)["beyond"] == []


def test_what_breaks_a_part_is_seen_there(browser, pages):
    view = View("run", "phone", "dark")
    view.show(browser, pages["run"])
    browser.ask(f"{'; '.join(SPOILT.values())}; null")
    different = differences(look(browser, photograph(browser)), load(stored(view)))
    names = {words.rpartition(": ")[0] for words in different}
    assert set(SPOILT) <= names
    assert {part_of(name) for name in names} == {part_of(name) for name in SPOILT}
    assert not names & {"drawing curves: Loss of the generators", "drawing curves: Loss of the mappings"}


def part_of(name: str) -> str:
    """``column traffic: Traffic by site`` -> ``traffic``."""
    return name.split(" ")[1].rstrip(":")


@pytest.mark.parametrize("name", RECOLOURED)
def test_what_spoils_a_whole_page_is_seen(browser, pages, name):
    view = View("run", "desktop", "dark")
    view.show(browser, pages["run"])
    browser.ask(f"{RECOLOURED[name]}; null")
    different = differences(look(browser, photograph(browser)), load(stored(view)))
    assert len(different) > 10


def test_dark_text_in_the_dark_is_found(browser, pages):
    View("run", "phone", "dark").show(browser, pages["run"])
    browser.ask("document.documentElement.style.setProperty('--ink', '#303b48')")
    assert len(browser.ask(PALE_TEXTS)["pale"]) > 100
