"""JavaScript that breaks a page, in part or as a whole."""

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
"""Part of the report of a run -> script that breaks this part only: an empty chart, a chart without one of its lines, a
hidden picture, bars without fill, strips without cells, a table without its shades, a hidden section."""
RECOLOURED = {
    "light cards in the dark": "document.documentElement.style.setProperty('--card', '#ffffff')",
    "colours inverted": "document.documentElement.style.filter = 'invert(1)'",
    "no style": "document.querySelector('style').remove()",
}
"""Scripts that break a whole page in the dark scheme."""
