"""Numbers as text."""

import math

from server.runs.formatting import listing, percent, seconds, size
from server.runs.record import number


def test_numbers_are_formatted_for_people() -> None:
    assert [percent(0.6214), percent(None), size(41_230_000), size(512)] == ["62.1%", "–", "41.2 MB", "512 B"]
    assert [seconds(0.42), seconds(31.5), seconds(125), seconds(11_520)] == [
        "0.42 s",
        "31.5 s",
        "2 min 05 s",
        "3 h 12 min",
    ]
    assert listing(["a", "b", "c"]) == "a, b and c" and listing(list("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert listing(["a=1, b=2", "a=2, b=3", "c"]) == "a=1, b=2; a=2, b=3 and c"
    assert [number(True), number("3"), number(math.inf), number(10**400), number(2)] == [None, None, None, None, 2.0]
