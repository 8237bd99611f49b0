"""The style sheet of the demo's page: light and dark, wide and narrow, nothing loaded from anywhere."""

CSS = """
:root { color-scheme: light dark;
  --page: #faf9f6; --card: #ffffff; --ink: #1d2129; --soft: #5f6673; --line: #e3e1da; --code: #f3f1eb;
  --ntp: #3b6fb5; --meap: #d2561e; --masked: #b8860b; --other: #d2561e; --chip: #f1efe8; --mark: #ffe3a3;
  --mark-ink: #6b4400; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14161a; --card: #1c1f25; --ink: #e7e8ea; --soft: #9aa1ad; --line: #31353d; --code: #23272e;
  --ntp: #7aa8ea; --meap: #f08a54; --masked: #e5b94b; --other: #f08a54; --chip: #272b32; --mark: #5a4108;
  --mark-ink: #ffe3a3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 40px 0 10px; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 0 0 12px; max-width: 52em; }
.lead { color: var(--soft); margin-bottom: 24px; }
.note { color: var(--soft); font-size: 14px; line-height: 1.5; max-width: 60em; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; margin: 0 0 28px; }
.card, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; line-height: 1.35; display: block; }
.tile.ntp b { color: var(--ntp); } .tile.meap b { color: var(--meap); }
.card { padding: 18px 18px 14px; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
.charts .card > .note { margin: 0 0 6px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text.tick { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg line.grid { stroke: var(--line); stroke-width: 1; }
svg polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
svg polyline.faint { stroke-width: 0.8; opacity: 0.28; }
polyline.ntp { stroke: var(--ntp); } polyline.meap { stroke: var(--meap); }
polyline.masked { stroke: var(--masked); } polyline.other { stroke: var(--other); }
circle.ntp { fill: var(--ntp); } circle.meap { fill: var(--meap); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; margin: 2px 0 6px; }
.key::before { content: ""; display: inline-block; width: 16px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; background: currentColor; }
.key.ntp { color: var(--ntp); } .key.meap { color: var(--meap); }
.key.masked { color: var(--masked); } .key.other { color: var(--other); }
.sample { display: flex; flex-wrap: wrap; gap: 8px 4px; }
.cell { display: inline-flex; flex-direction: column; align-items: stretch; min-width: 24px;
  font: 12.5px/1.25 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; text-align: center; white-space: pre; }
.in { background: var(--chip); border: 1px solid var(--line); border-radius: 5px 5px 0 0; padding: 3px 5px; }
.is-masked { background: var(--mark); border-color: var(--mark); color: var(--mark-ink); font-weight: 700; }
.out { color: var(--soft); border: 1px solid var(--line); border-top: 0; border-radius: 0 0 5px 5px; padding: 2px 5px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
td + td { white-space: nowrap; }
tr.strong td { font-weight: 650; }
td.part { color: var(--soft); }
.pairs td:nth-child(2) { text-align: left; white-space: normal; }
.pairs td:first-child { color: var(--soft); white-space: nowrap; }
.pairs td { vertical-align: top; font-size: 14.5px; }
.stages td:last-child { text-align: left; color: var(--soft); white-space: normal; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; overflow-x: auto;
  font: 13.5px/1.6 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; margin: 0 0 12px; }
pre .say { color: var(--soft); }
code { font: 0.9em ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
@media (max-width: 720px) {
  main { padding: 24px 16px 48px; } h1 { font-size: 24px; } h2 { margin-top: 32px; }
  .tiles { grid-template-columns: repeat(2, 1fr); } .charts { grid-template-columns: minmax(0, 1fr); }
  .card { padding: 14px; } th, td { padding: 6px 6px; font-size: 14px; }
  .pairs td:first-child { white-space: normal; } pre { font-size: 12.5px; } }
"""
