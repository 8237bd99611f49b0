"""The drawn sample as HTML, in the colours of the page's style sheet. Pure functions of cells."""

import html
import re
from collections.abc import Sequence

from meap_megatron.demo.sample import Cell


def visible(text: str) -> str:
    """Return a token's text with its white space made visible: · for a space, ⏎ for a line end, ⇥ for a tab.

    Four or more spaces become ·×n, so that indentation does not fill the drawing.
    """
    for character, mark in (("\r", ""), ("\n", "⏎"), ("\t", "⇥")):
        text = text.replace(character, mark)
    return re.sub(" {4,}", lambda run: f"·×{len(run[0])}", text).replace(" ", "·")


def sample_boxes(sample: Sequence[Cell]) -> str:
    """Draw a sample: a column for each position, the input above, the label to predict beneath."""
    columns = []
    for cell in sample:
        if cell.masked:
            shown = f'<span class="in is-masked" title="hidden: {html.escape(visible(cell.text))}">[MASK]</span>'
        else:
            shown = f'<span class="in">{html.escape(visible(cell.text))}</span>'
        label = html.escape(visible(cell.label))
        columns.append(f'<span class="cell">{shown}<span class="out">{label}</span></span>')
    return f'<div class="sample">{"".join(columns)}</div>'
