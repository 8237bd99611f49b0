"""Text for a terminal: what fine-tuning data holds, and one row as columns. Pure functions from data to lines."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from meap_megatron.corpus.terminal import BAR, EDGE, MASKED, OFF, QUIET, fit, visible
from meap_megatron.errors import counted
from meap_megatron.indexed.roles import ANSWER, CUT, END, PROMPT, UNMASKED

ROLE_NAMES = {PROMPT: "prompt", ANSWER: "answer", END: "end", UNMASKED: "answer, never masked", CUT: "answer (cut)"}
COLUMNS = ("position", "token", "     id", "role", "trained")
WIDTHS = (8, 30, 7, 20, 7)
COLOURS = {PROMPT: QUIET, ANSWER: MASKED, END: EDGE, UNMASKED: MASKED, CUT: EDGE}


def sft_summary(sft: dict[str, Any]) -> Iterator[str]:
    """Give the lines that the summary of fine-tuning data has beside those of text, from the sidecar's field."""
    counts = sft["counts"]
    turns = "a row per conversation" if sft["multi_turn"] == "history" else "a row per turn, without history"
    limit = sft["max_length"]
    cut = "of any length" if limit is None else f"of at most {limit:,} tokens, longer ones {_PAST[sft['over_long']]}"
    yield f"  template {sft['template']} ({sft['template_fingerprint'][:12]}), {turns}, {cut}"
    dropped = ", ".join(f"{counts[name]:,} {text}" for name, text in _DROPPED.items() if name in counts)
    yield (
        f"  {counted(counts['read'], 'record')} read, {counts['kept']:,} kept, of these {counts['truncated']:,} truncated; "
        f"dropped {dropped}; {counts['bad']:,} bad"
    )
    yield f"  {sft['num_trained_tokens']:,} tokens are trained, {sft['trained_share']:.1%} of all"
    if sft["min_answer_words"] is not None:
        yield f"  answers of at most {sft['min_answer_words']} words are never masked"
    table = sft["answer_length_histogram"]
    if not table:
        return
    uncut = "  (before truncation)" if counts["truncated"] else ""
    yield ""
    yield f"  {'tokens':>21}  {'answers':>12}{uncut}"
    least, most = 1, max(count for _, count in table)
    for bound, count in table:
        bar = "#" * -(-count * BAR // most)
        yield f"  {f'{least:,} to {bound:,}':>21}  {count:>12,}  {bar}".rstrip()
        least = bound + 1


def row_table(
    ids: Sequence[int], roles: Sequence[int], *, text_of: Callable[[int], str], start: int, colour: bool
) -> Iterator[str]:
    """Give the header and a line per token of one row whose first token is at `start`; `colour` marks roles."""
    yield "  ".join(fit(name, width) for name, width in zip(COLUMNS, WIDTHS, strict=True)).rstrip()
    for position, (token_id, role) in enumerate(zip(ids, roles, strict=True), start):
        kind = min(role, CUT)
        name = ROLE_NAMES.get(kind, f"{role}, unknown")
        cells = (
            f"{position:>8}",
            visible(text_of(token_id)),
            f"{token_id:>7}",
            name,
            "." if role == PROMPT else "trained",
        )
        fitted = [fit(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
        if colour:
            fitted[0] = QUIET + fitted[0] + OFF
            fitted[1] = COLOURS.get(kind, "") + fitted[1] + OFF
        yield "  ".join(fitted).rstrip()


_DROPPED = {
    "dropped_long": "too long",
    "dropped_untrained": "with no answer in their first tokens",
    "dropped_unanswered": "with no answer to train",
    "dropped_functions": "with functions",
}
_PAST = {"truncate": "truncated", "drop": "dropped"}
