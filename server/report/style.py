"""The page's style sheet: system fonts, one column on a phone, colours as variables for light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1b2430; --muted: #5a6675; --rule: #dfe4ea; --track: #e8ecf1;
  --accent: 31 98 168; --pale: #1b2430; --middle: #000000; --deep: #ffffff; --link: #1a5fa8;
  --good: #17744a; --bad: #b3261e; --warn: #8a5a00; --good-wash: #e3f4ea; --bad-wash: #fdecea; --warn-wash: #fdf3dc;
  --c1: #1f62a8; --c2: #c2540a; --c3: #18796b; --c4: #8a94a3;
  --c5: #a3338f; --c6: #7a6200; --c7: #b3261e; --c8: #4a4fb5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #11161d; --card: #1a212b; --ink: #e6ebf1; --muted: #9caaba; --rule: #303b48; --track: #2a3440;
    --accent: 106 174 240; --pale: #ffffff; --middle: #000000; --deep: #000000; --link: #83bdf5;
    --good: #6fd3a0; --bad: #ff8a80; --warn: #f0c060; --good-wash: #173327; --bad-wash: #3d1f1e; --warn-wash: #372d14;
    --c1: #6aaef0; --c2: #f29a55; --c3: #55c7b3; --c4: #7d8a9a;
    --c5: #e58ad3; --c6: #d3bb4a; --c7: #ff8a80; --c8: #a9adf5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; scroll-padding-top: 3.6rem; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }
main, footer { max-width: 1080px; margin: 0 auto; padding: 0 1.25rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 4px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 1rem; top: 1rem; z-index: 9; padding: .5rem 1rem; background: var(--card); }
header { padding-top: 2.2rem; }
.kicker { margin: 0; color: var(--muted); font-size: .8rem; font-weight: 600; letter-spacing: .08em;
  text-transform: uppercase; }
h1 { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .9rem; margin: .1rem 0 .5rem;
  font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 .3rem; font-size: 1.3rem; line-height: 1.3; }
h3 { margin: 0; font-size: 1rem; line-height: 1.4; }
p { margin: 0 0 .8rem; max-width: 72ch; overflow-wrap: anywhere; }
.lead { max-width: 60rem; font-size: 1.08rem; text-wrap: pretty; }
.hint { color: var(--muted); }
.badge { padding: .15rem .7rem; border-radius: 2rem; font-size: .85rem; font-weight: 600; line-height: 1.5;
  color: var(--warn); background: var(--warn-wash); }
.badge.completed { color: var(--good); background: var(--good-wash); }
.badge.failed { color: var(--bad); background: var(--bad-wash); }
nav { position: sticky; top: 0; z-index: 5; margin: .8rem 0 1.2rem; background: var(--paper);
  border-bottom: 1px solid var(--rule); }
nav ul { display: flex; gap: 1.3rem; margin: 0; padding: 0; list-style: none; overflow-x: auto; scrollbar-width: none; }
nav a { display: block; padding: .6rem 0; color: var(--muted); font-weight: 500; text-decoration: none;
  white-space: nowrap; }
nav a:hover { color: var(--link); }
section { margin: 0 0 1.2rem; padding: 1.3rem 1.4rem 1.4rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 12px; }
section > h3 { margin: 1.4rem 0 .3rem; }
section > :last-child { margin-bottom: 0; }
.notice { padding: .8rem 1rem; margin: 0 0 1.2rem; border-left: 4px solid var(--warn); border-radius: 8px;
  background: var(--warn-wash); }
.notice.bad { border-color: var(--bad); background: var(--bad-wash); }
.notice p, .notice ul { margin: 0; max-width: none; }
.notice li, .legend li { min-width: 0; overflow-wrap: anywhere; }
.notice ul { padding-left: 1.2rem; }
.notice pre { margin: .5rem 0 0; background: none; padding: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(215px, 1fr)); gap: .8rem; margin: 0 0 1.2rem;
  padding: 0; }
.tiles > div { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--rule); border-radius: 12px; }
.tiles dt { color: var(--muted); font-size: .88rem; font-weight: 500; }
.tiles dd { margin: 0; }
.tiles .figure { font-size: 1.65rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles .hint { font-size: .82rem; line-height: 1.35; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1.4rem 2rem;
  margin: 1rem 0; }
.charts > * { min-width: 0; max-width: 640px; }
figure { margin: 0; min-width: 0; }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-size: 12px; fill: var(--muted); }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.rule { stroke: var(--rule); stroke-width: 1; }
.mark { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 3 3; }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line circle { fill: currentColor; stroke: transparent; stroke-width: 10px; }
.line circle:hover { stroke: currentColor; stroke-width: 4px; }
.line.c2 polyline, .key.c2 { stroke-dasharray: 7 4; }
.line.c3 polyline, .key.c3 { stroke-dasharray: 2 4; }
.line.c5 polyline, .key.c5 { stroke-dasharray: 10 3 2 3; }
.line.c6 polyline, .key.c6 { stroke-dasharray: 4 3; }
.line.c7 polyline, .key.c7 { stroke-dasharray: 12 4; }
.line.c8 polyline, .key.c8 { stroke-dasharray: 6 3 2 3 2 3; }
.spread { stroke-width: 1; opacity: .6; }
.c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); } .c4 { color: var(--c4); }
.c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); } .c8 { color: var(--c8); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .1rem 0 .3rem; padding: 0; list-style: none;
  font-size: .88rem; color: var(--muted); }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.legend svg { margin-right: .4rem; vertical-align: middle; }
.key { width: 24px; height: 10px; }
.swatch { width: 14px; height: 14px; border-radius: 3px; }
.scroll { max-height: 34rem; margin: .8rem 0 1rem; overflow: auto; }
.scroll.whole { max-height: none; }
figure .scroll, .pair .scroll, .scroll:last-child { margin-bottom: 0; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
td:last-child, th:last-child { padding-right: 0; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--card); color: var(--muted); font-weight: 600;
  white-space: normal; vertical-align: bottom; }
thead th:first-child { left: 0; z-index: 2; }
tbody th, tfoot th { position: sticky; left: 0; max-width: 16rem; background: var(--card);
  overflow: hidden; text-overflow: ellipsis; font-weight: 500; }
th button { position: relative; margin: 0; padding: .3rem .95em .3rem 0; border: 0; background: none; color: inherit;
  font: inherit; text-align: inherit; cursor: pointer; }
th button:hover, th[aria-sort] button { color: var(--link); }
th button::after { position: absolute; right: 0; bottom: .65em; width: .55em; height: .8em; background: currentColor;
  opacity: .45; content: ""; clip-path: polygon(50% 0, 100% 42%, 50% 42%, 50% 58%, 100% 58%, 50% 100%, 0 58%, 50% 58%,
  50% 42%, 0 42%); }
th[aria-sort] button::after { opacity: 1; }
th[aria-sort="ascending"] button::after { clip-path: polygon(50% 10%, 100% 80%, 0 80%); }
th[aria-sort="descending"] button::after { clip-path: polygon(0 20%, 100% 20%, 50% 90%); }
@media (forced-colors: active) { th button::after { background: ButtonText; forced-color-adjust: none; } }
td.text, th.text { text-align: left; white-space: normal; }
.reasons tbody th { position: static; min-width: 7rem; overflow: visible; white-space: normal; }
.reasons td.text { min-width: 13rem; overflow-wrap: anywhere; } .reasons th, .reasons td { vertical-align: top; }
td.wide { width: 34%; min-width: 110px; text-align: left; }
.bar, .strip { display: block; width: 100%; height: 14px; }
.track { fill: var(--track); } .fill { fill: currentColor; }
.state-complete { color: var(--good); } .state-failed { color: var(--bad); font-weight: 600; }
.state-missing { color: var(--muted); }
.cell-ok { fill: var(--c1); } .cell-failed { fill: var(--bad); } .cell-off { fill: var(--track); }
.heats { width: auto; border-collapse: separate; border-spacing: 3px; }
.heats th, .heats td { padding: .3rem .55rem; border: 0; }
.heats th:first-child { padding-left: 0; padding-right: .9rem; }
.heats { margin-left: -3px; }
.heats thead th + th { text-align: center; }
td.heat { min-width: 3.4rem; border-radius: 4px; text-align: center; }
.heat.pale, .heat.middle, .heat.deep { background: rgb(var(--accent) / calc(.08 + .92 * var(--share))); }
.heat.pale { color: var(--pale); } .heat.middle { color: var(--middle); } .heat.deep { color: var(--deep); }
.heat.none { color: var(--muted);
  background: repeating-linear-gradient(135deg, var(--track) 0 4px, transparent 4px 8px); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 1.2rem 2.4rem; }
.pair > * { min-width: 0; }
.picture { max-width: 100%; height: auto; padding: .6rem; background: #ffffff; border: 1px solid var(--rule);
  border-radius: 8px; }
details { margin: .6rem 0 0; }
summary { width: fit-content; color: var(--link); font-weight: 500; cursor: pointer; }
pre, code { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre { max-height: 30rem; margin: .6rem 0 0; padding: .8rem 1rem; overflow: auto; background: var(--paper);
  border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .6rem 0;
  font-size: .92rem; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
footer { padding-top: .4rem; padding-bottom: 2.5rem; color: var(--muted); font-size: .88rem; }
@media (max-width: 560px) {
  main, footer { padding-left: .8rem; padding-right: .8rem; }
  header { padding-top: 1.2rem; }
  h1 { font-size: 1.6rem; }
  section { padding: 1rem .9rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; }
  .tiles > div { padding: .6rem .8rem; }
  .tiles .figure { font-size: 1.35rem; white-space: nowrap; }
  th, td { padding: .3rem .4rem; }
  .heats th, .heats td { padding: .3rem .35rem; }
  .heats th:first-child { padding-left: 0; }
  td.heat { min-width: 2.8rem; }
  .facts { grid-template-columns: 1fr; gap: 0; } .facts dd { margin-bottom: .5rem; }
}
@media print {
  nav, .skip, th button::after { display: none; }
  .scroll, pre { max-height: none; overflow: visible; }
  thead th, tbody th, tfoot th { position: static; }
  section { break-inside: avoid; }
}
"""
