"""The report's style sheet: that of the demo's page, and what tables and figures of an appendix need."""

from meap_megatron.demo.style import CSS as BASE

SERIES = 8
"""Colours of lines, by the number of a run."""

CSS = (
    BASE
    + """
:root { --s0: #3b6fb5; --s1: #d2561e; --s2: #2e8b6f; --s3: #a2467f; --s4: #b8860b; --s5: #4aa3c7;
  --s6: #7a5cc0; --s7: #6b7280; }
@media (prefers-color-scheme: dark) { :root {
  --s0: #7aa8ea; --s1: #f08a54; --s2: #62c2a4; --s3: #d98abb; --s4: #e5b94b; --s5: #7fcbe8;
  --s6: #ad95ea; --s7: #a3aab5; } }
main { max-width: 1120px; }
h2 { margin-top: 48px; padding-bottom: 6px; border-bottom: 2px solid var(--ink); font-size: 21px; }
h3 { margin: 26px 0 8px; font-size: 16px; }
.card > h3 { margin: 0 0 2px; font-size: 15px; }
.note { margin: 6px 0 8px; }
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
.absent { color: var(--soft); opacity: .7; font-size: 12.5px; font-style: italic; }
.scroll { margin-bottom: 8px; }
.warning { border-left: 4px solid var(--s1); padding: 8px 14px; background: var(--card); font-size: 14.5px;
  max-width: none; }
.maps { display: flex; flex-wrap: wrap; gap: 16px; }
.maps .card { flex: 1 1 320px; }
svg text.cell { fill: #22262d; font-size: 11px; text-anchor: middle; font-variant-numeric: tabular-nums; }
img { max-width: 100%; border-radius: 6px; background: #fff; }
details { margin: 14px 0; }
summary { cursor: pointer; color: var(--soft); }
code { overflow-wrap: anywhere; }
@media print { body { background: #fff; } .card, table { break-inside: avoid; } details { display: none; } }
"""
    + "".join(
        f"polyline.s{n} {{ stroke: var(--s{n}); }} circle.s{n} {{ fill: var(--s{n}); }} "
        f".key.s{n} {{ color: var(--s{n}); }}\n"
        for n in range(SERIES)
    )
)
