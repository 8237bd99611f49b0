"""The date that a chat template writes: asked of the clock by transformers, frozen here.

A template that calls `strftime_now` would give other bytes each day. In its place comes a macro that looks the wanted
format up in a table, which is made once of a fixed date.
"""

import datetime
import re

NAME = "strftime_now"
TABLE = "_frozen_dates"
# Ends in an expression: Jinja drops a newline that follows a block, and the template may begin with one.
MACRO = (
    f"{{% macro {NAME}(format) -%}}{{% if format not in {TABLE} %}}"
    f"{{{{ raise_exception('the date format ' ~ format ~ ' is not a literal of the chat template') }}}}{{% endif %}}"
    f"{{{{ {TABLE}[format] }}}}{{%- endmacro %}}{{{{ '' }}}}"
)


def writes_date(source: str) -> bool:
    """Whether a chat template asks the clock."""
    return re.search(rf"\b{NAME}\s*\(", source) is not None


def freeze(source: str, date: datetime.date) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the chat template that takes its dates from a table, and the variables that it needs for it.

    Args:
        source: a chat template that asks the clock.
        date: what the clock is to say, at midnight.
    """
    moment = datetime.datetime.combine(date, datetime.time())
    return MACRO + source, {TABLE: {text: moment.strftime(text) for text in literals(source) if "%" in text}}


def literals(source: str) -> list[str]:
    """Return the string literals of a template."""
    from jinja2 import Environment
    from jinja2.lexer import get_lexer

    return [token.value for token in get_lexer(Environment()).tokenize(source) if token.type == "string"]
