"""JavaScript that examines a page: illegible texts, overlaps, marks that must be visible, keyboard focus."""

from __future__ import annotations

COLOURS = """
const parsed = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = (top, under) => under.map((value, place) => top[place] * top[3] + value * (1 - top[3]));
const layers = (element) => (element ? [...layers(element.parentElement), getComputedStyle(element)] : []);
const grounds = (element) => layers(element).reduce((found, style) => {
  const plain = found.map((under) => over(parsed(style.backgroundColor), under));
  const stops = style.backgroundImage.match(/rgba?\\([^)]*\\)/g) ?? [];
  return stops.length ? plain.flatMap((under) => stops.map((stop) => over(parsed(stop), under))) : plain;
}, [[255, 255, 255]]);
const linear = (value) => (value <= 10.31475 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, part, at) => sum + part * linear(colour[at]), 0);
const contrast = (one, other) => {
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const opacity = (element) => layers(element).reduce((product, style) => product * style.opacity, 1);
"""
"""The colours that may lie behind an element (two where it is hatched), and the contrast of two (WCAG 2.2, "relative
luminance" and "contrast ratio")."""

TEXTS = """
const texts = () => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode, range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()];
    if (node.data.trim() && boxes.length && !node.parentElement.closest(".unseen")) found.push([node, boxes]);
  }
  return found;
};
document.querySelectorAll("details").forEach((folded) => { folded.open = true; });
"""
"""Every text that is shown, with the boxes of its lines; what is folded away is unfolded."""

PALE_TEXTS = f"""
(() => {{
  {COLOURS} {TEXTS}
  const read = texts().map(([node]) => {{
    const element = node.parentElement, style = getComputedStyle(element);
    const ink = parsed(element instanceof SVGElement ? style.fill : style.color);
    ink[3] *= opacity(element);
    const ratios = grounds(element).map((ground) => contrast(over(ink, ground), ground));
    return [Math.min(...ratios), `${{element.localName}}.${{element.getAttribute("class")}} ${{node.data.trim()}}`];
  }});
  return {{ read: read.length, pale: read.filter(([ratio]) => !(ratio >= 4.5)) }};
}})()
"""
"""The texts whose contrast with what lies behind them is below 4.5 (WCAG 2.2, 1.4.3), whatever their size."""

CROWDED_TEXTS = f"""
(() => {{
  {TEXTS}
  const beyond = texts().filter(([node, boxes]) => {{
    const element = node.parentElement;
    if (element.closest(".scroll:not(.whole), nav ul, .skip")) return false;
    const edge = element.closest("section, .notice, .tiles > div, header, footer").getBoundingClientRect();
    return boxes.some((box) => box.left < edge.left - 1 || box.right > edge.right + 1);
  }});
  const meet = (one, other) => Math.min(one.right, other.right) - Math.max(one.left, other.left) > 3
    && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 3;
  const struck = [...document.querySelectorAll(".chart")].flatMap((chart) => {{
    const ticks = [...chart.querySelectorAll("text.tick:not(.halo)")];
    const labels = ticks.map((text) => [text, text.getBoundingClientRect()]);
    return labels.flatMap(([one, box], place) =>
      labels.slice(place + 1).filter(([, other]) => meet(box, other)).map(([other]) => [one, other]));
  }});
  return {{
    width: document.documentElement.scrollWidth,
    beyond: beyond.map(([node]) => node.data.trim()),
    struck: struck.map((pair) => pair.map((text) => text.textContent).join(" over ")),
  }};
}})()
"""
"""The width of the page; the texts that stick out of the box in which they stand, where it does not scroll; the words
and numbers of a chart's axes that lie on each other."""

MARKS = f"""
(() => {{
  {COLOURS}
  const seen = (element) => {{
    const box = element.getBoundingClientRect();
    const frame = (element.closest(".scroll") ?? document.body).getBoundingClientRect();
    const [left, right] = [Math.max(box.left, frame.left), Math.min(box.right, frame.right)];
    return [left + scrollX, box.top + scrollY, right + scrollX, box.bottom + scrollY];
  }};
  const paint = (mark) => {{
    const style = getComputedStyle(mark), painted = style.fill === "none" ? style.stroke : style.fill;
    const ground = grounds(mark.closest("svg").parentElement)[0], colour = parsed(painted);
    const line = mark.localName === "polyline";
    return {{ line, box: seen(mark), colour: over(colour, ground), contrast: contrast(over(colour, ground), ground) }};
  }};
  return [...document.querySelectorAll(".chart, .bar, .strip")].filter((svg) => svg.checkVisibility()).map((svg) => ({{
    name: `${{svg.closest("section").id}} ${{svg.querySelector("title")?.textContent ?? ""}}`,
    box: seen(svg),
    marks: [...svg.querySelectorAll(".line polyline, .fill, .cell-ok, .cell-failed")].map(paint),
  }}));
}})()
"""
"""Every chart, bar and strip with its marks: of each the box that is in sight (left, top, right, bottom), its colour,
and the contrast of that to what lies behind."""

STOPS = """
[...document.querySelectorAll("a[href], button, summary, [tabindex]")].filter((element) => element.checkVisibility())
"""
"""What can be operated or scrolled, in the order of the page."""

FOCUSED = """
(() => {
  const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
  const stuck = document.querySelector("nav").getBoundingClientRect();
  const hidden = !element.closest("nav") && stuck.top <= 0 && box.bottom <= stuck.bottom;
  return {
    place: stops.indexOf(element),
    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    shown: !hidden && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
})()
"""
"""Which of the `STOPS` has the focus, and whether that can be seen; ``stops`` has to be there."""

SCROLLERS = """
[...document.querySelectorAll("body *")].filter((element) => {
  const style = getComputedStyle(element), scrolls = (value) => ["auto", "scroll"].includes(value);
  const wide = scrolls(style.overflowX) && element.scrollWidth > element.clientWidth + 1;
  const high = scrolls(style.overflowY) && element.scrollHeight > element.clientHeight + 1;
  const reached = element.hasAttribute("tabindex") || element.querySelector("a[href], button");
  return (wide || high) && element.checkVisibility() && !reached;
}).map((element) => `${element.localName}.${element.className}`)
"""
"""What scrolls but cannot be reached by a key in a browser that does not make it reachable by itself."""
