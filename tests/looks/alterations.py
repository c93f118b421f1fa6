"""What may differ between machines, and what breaks a page, as JavaScript."""

from __future__ import annotations

HIDE = "document.querySelectorAll('{}').forEach((mark) => {{ mark.style.visibility = 'hidden'; }})"
SPOILT = {
    "drawing curves: Validation scores": HIDE.format("#curves figure:nth-child(1) .line"),
    "drawing curves: Loss of the task model": HIDE.format("#curves figure:nth-child(2) .line.c2"),
    "drawing pictures: picture": HIDE.format(".picture"),
    "column traffic: Traffic by site": HIDE.format("#traffic .fill"),
    "column sites: Participation of the sites by round": HIDE.format("#sites .strip rect"),
    "column classes: Training samples of each class, by site": (
        "document.querySelectorAll('#classes .heat').forEach((cell) => { cell.className = ''; })"
    ),
    "place time": "document.querySelector('#time').style.display = 'none'",
}
"""Part of the report of a run -> what spoils it and no other: an empty chart, one that lacks a line, a picture that is
not shown, bars without what fills them, strips without cells, a table without its shades, a section that vanished."""
RECOLOURED = {
    "light cards in the dark": "document.documentElement.style.setProperty('--card', '#ffffff')",
    "colours inverted": "document.documentElement.style.filter = 'invert(1)'",
    "no style": "document.querySelector('style').remove()",
}
"""What spoils a whole page in the dark."""
