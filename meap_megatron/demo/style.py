"""What the demo's page has and the report's has not, in the colours of the report's style sheet."""

from meap_megatron.report.style import CSS as REPORT

CSS = (
    REPORT
    + """
:root { --code: #f3f1eb; --chip: #f1efe8; --mark: #ffe3a3; --mark-ink: #6b4400; }
@media (prefers-color-scheme: dark) { :root {
  --code: #23272e; --chip: #272b32; --mark: #5a4108; --mark-ink: #ffe3a3; } }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; margin: 0 0 28px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; line-height: 1.35; display: block; }
.tile.ntp b { color: var(--s0); } .tile.meap b { color: var(--s1); }
.sample { display: flex; flex-wrap: wrap; gap: 8px 4px; }
.cell { display: inline-flex; flex-direction: column; align-items: stretch; min-width: 24px;
  font: 12.5px/1.25 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; text-align: center; white-space: pre; }
.in { background: var(--chip); border: 1px solid var(--line); border-radius: 5px 5px 0 0; padding: 3px 5px; }
.is-masked { background: var(--mark); border-color: var(--mark); color: var(--mark-ink); font-weight: 700; }
.out { color: var(--soft); border: 1px solid var(--line); border-top: 0; border-radius: 0 0 5px 5px; padding: 2px 5px; }
tr.strong td { font-weight: 650; }
tr.part td:first-child { color: var(--soft); padding-left: 24px; }
table.left td:first-child { white-space: nowrap; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; overflow-x: auto;
  font: 13.5px/1.6 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; margin: 0 0 12px; }
pre .say { color: var(--soft); }
@media (max-width: 720px) {
  .tiles { grid-template-columns: repeat(2, 1fr); } table.left td:first-child { white-space: normal; }
  pre { font-size: 12.5px; } }
"""
)
