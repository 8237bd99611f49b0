"""The report's style sheet: light and dark, wide and narrow, nothing loaded from anywhere."""

SERIES = 8
"""Colours of lines, by the number of a run."""

CSS = """
:root { color-scheme: light dark;
  --page: #faf9f6; --card: #ffffff; --ink: #1d2129; --soft: #5f6673; --line: #e3e1da;
  --s0: #3b6fb5; --s1: #d2561e; --s2: #2e8b6f; --s3: #a2467f; --s4: #b8860b; --s5: #4aa3c7; --s6: #7a5cc0;
  --s7: #6b7280; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14161a; --card: #1c1f25; --ink: #e7e8ea; --soft: #9aa1ad; --line: #31353d;
  --s0: #7aa8ea; --s1: #f08a54; --s2: #62c2a4; --s3: #d98abb; --s4: #e5b94b; --s5: #7fcbe8; --s6: #ad95ea;
  --s7: #a3aab5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 23px; margin: 52px 0 10px; }
h3 { font-size: 16px; margin: 26px 0 8px; }
p { margin: 0 0 12px; max-width: 52em; }
.lead { color: var(--soft); margin-bottom: 24px; }
.note { color: var(--soft); font-size: 14px; line-height: 1.5; max-width: 60em; margin: 6px 0 8px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 18px 14px; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
.charts .card > .note { margin: 0 0 6px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text.tick { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg line.mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
svg line.grid { stroke: var(--line); stroke-width: 1; }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; margin: 2px 0 6px; }
.key::before { content: ""; display: inline-block; width: 16px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; background: currentColor; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
td + td { white-space: nowrap; }
.card > h3 { margin: 0 0 2px; font-size: 15px; }
table { border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); font-size: 14px; }
thead th { border-bottom: 1px solid var(--ink); }
th, td { padding: 5px 9px; }
th:first-child, td:first-child { padding-left: 8px; }
td small { color: var(--soft); font-size: 11.5px; }
tr.caption td { text-align: left; font-style: italic; color: var(--soft); padding-top: 9px; border-bottom: 0;
  font-size: 13px; }
tr.ours td:first-child { font-weight: 600; }
tr.paper td { color: var(--soft); border-bottom-style: dotted; }
table.left td, table.left th { text-align: left; white-space: normal; }
table.left code { white-space: nowrap; }
table.narrow { max-width: 560px; }
table.even { table-layout: fixed; min-width: 760px; }
table.even th:first-child { width: 26%; }
.absent { color: var(--soft); opacity: .7; font-size: 12.5px; font-style: italic; }
.scroll { margin-bottom: 8px; }
.warning { border-left: 4px solid var(--s1); padding: 8px 14px; background: var(--card); font-size: 14.5px;
  max-width: none; }
.maps { display: flex; flex-wrap: wrap; gap: 16px; }
.maps .card { min-width: 220px; max-width: 100%; }
.charts + .scroll, .note + .charts, .note + .maps { margin-top: 14px; }
svg text.cell { fill: #22262d; font-size: 11px; text-anchor: middle; font-variant-numeric: tabular-nums; }
img { width: 100%; max-width: 760px; border-radius: 6px; background: #fff; }
details { margin: 14px 0; }
summary { cursor: pointer; color: var(--soft); }
code { font: 0.9em ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
@media (max-width: 720px) {
  main { padding: 24px 16px 48px; } h1 { font-size: 24px; } h2 { margin-top: 36px; }
  .charts { grid-template-columns: minmax(0, 1fr); } .card { padding: 14px; } }
@media print { body { background: #fff; } .card, table { break-inside: avoid; } details { display: none; } }
""" + "".join(
    f"polyline.s{n} {{ stroke: var(--s{n}); }} circle.s{n} {{ fill: var(--s{n}); }} "
    f".key.s{n} {{ color: var(--s{n}); }}\n"
    for n in range(SERIES)
)
