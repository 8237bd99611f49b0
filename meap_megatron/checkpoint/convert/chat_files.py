"""How a fine-tuned model is talked to: the chat template of its data and the token that ends an answer, in its export.

A base model's files know neither: its EOS ends a document and its tokenizer has no chat template. Without them generation
continues after every answer.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from meap_megatron.checkpoint.convert.hf_files import write_json
from meap_megatron.corpus.sft import templates
from meap_megatron.corpus.sft.templates import TEMPLATES, TOKENIZER, Template, template_for
from meap_megatron.errors import UserError
from meap_megatron.indexed.pair import open_pair
from meap_megatron.indexed.roles import END
from meap_megatron.indexed.sidecar import Sidecar, bin_path, roles_prefix

CHAT_TEMPLATE = "chat_template.jinja"
ROWS = 256  # conversations of the data that are looked at


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How the conversations of fine-tuning data begin and end.

    Attributes:
        ends: ids that end an answer, the most frequent first; special tokens of the tokenizer only.
        eos_token: text of the first of them; None: there is none.
        template: source of the chat template; None: the tokenizer's own.
    """

    ends: tuple[int, ...]
    eos_token: str | None
    template: str | None


def chat_format_of(sidecar: Sidecar, prefix: str, folder: Path) -> ChatFormat:
    """Find out how a model that was fine-tuned on some data is talked to.

    Args:
        prefix: of the data; if only the sidecar is there, the template says what it can.

    Raises:
        UserError: the template of the data is not one that this version knows.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {number: str(token) for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    known = sidecar.sft or {}
    found = None if known["template"] == TOKENIZER else template_of(known, special)
    opens, ends = borders(prefix) if bin_path(prefix).is_file() else (None, [])
    if not ends and found is not None:
        number = sidecar.tokenizer.eos_id if found.end is None else tokenizer.token_to_id(found.end)
        ends = [] if number is None else [number]
    ends = [number for number in ends if number in special]
    source = None
    if found is not None:
        bos = special.get(-1 if sidecar.tokenizer.bos_id is None else sidecar.tokenizer.bos_id, "")
        with_bos = sidecar.add_bos if opens is None else opens == sidecar.tokenizer.bos_id
        end = found.end or special.get(-1 if sidecar.tokenizer.eos_id is None else sidecar.tokenizer.eos_id, "")
        source = jinja(found, bos=bos if with_bos else "", end=end, system=known.get("system", found.system))
    return ChatFormat(ends=tuple(ends), eos_token=special[ends[0]] if ends else None, template=source)


def template_of(known: dict[str, Any], special: dict[int, str]) -> Template:
    """Return the template of data, by its fingerprint; its forms for some tokenizers have the same name.

    Raises:
        UserError: there is none of this name.
    """
    name = known["template"]
    if name not in TEMPLATES:
        raise UserError(
            f"the data were made with the template {name!r}, which this version does not know",
            fix="update meap_megatron",
        )
    forms = [one for one in vars(templates).values() if isinstance(one, Template)] + list(TEMPLATES.values())
    forms += [dataclasses.replace(one, end=None) for one in forms]
    same = [one for one in forms if one.fingerprint == known["template_fingerprint"]]
    return same[0] if same else template_for(name, set(special.values()))


def borders(prefix: str) -> tuple[int | None, list[int]]:
    """Return the id that opens the first conversation, and those that end answers, the most frequent first."""
    ids, roles = open_pair(prefix), open_pair(roles_prefix(prefix))
    counts: dict[int, int] = {}
    for row in range(min(len(ids), ROWS)):
        kinds = roles[row]
        first = (kinds == END) & ([False, *(kinds[:-1] != END)])
        for number in ids[row][first].tolist():
            counts[number] = counts.get(number, 0) + 1
    return (int(ids[0][0]) if len(ids) else None), sorted(counts, key=lambda number: -counts[number])


def jinja(template: Template, *, bos: str, end: str, system: str) -> str:
    """Return one of our templates as a chat template of transformers.

    Args:
        bos: text of the token that opens a conversation, or "".
        end: text of the token that closes an answer.
        system: system prompt of conversations that have none, or "".
    """

    opened = bos if bos and not template.opening.startswith(bos) else ""
    return "".join(
        [
            "{%- set system = " + _text(system) + " -%}{%- set turns = messages -%}",
            "{%- if messages and messages[0].role in ['system', 'developer'] -%}",
            "{%- set system = messages[0].content -%}{%- set turns = messages[1:] -%}{%- endif -%}",
            "{{- " + _text(opened) + " -}}",
            *(_any_order(template, end=end) if template.opens else _in_turn(template, end=end)),
        ]
    )


def _any_order(template: Template, *, end: str) -> list[str]:
    """Return the part behind the system prompt's choice where questions and answers are separate, in any order."""
    before, between = template.opening.removesuffix(template.prompt).split("{system}")
    asked, behind = template.prompt.removesuffix(template.opens).split("{query}")
    opens = _text(template.opens)
    return [
        "{%- if system -%}{{- " + f"{_text(before)} + system + {_text(between)}" + " -}}{%- endif -%}",
        "{%- for message in turns -%}{%- if message.role not in ['user', 'assistant'] -%}",
        "{{- raise_exception('no place for the role ' + message.role) -}}{%- endif -%}",
        "{%- if not loop.first and turns[loop.index0 - 1].role == 'assistant' -%}",
        "{{- " + _text(template.separator) + " -}}{%- endif -%}",
        "{%- if message.role == 'assistant' -%}{{- " + f"{opens} + (message.content or '') + {_text(end)}" + " -}}",
        "{%- else -%}{{- " + f"{_text(asked)} + message.content + {_text(behind)}" + " -}}{%- endif -%}",
        "{%- endfor -%}{%- if add_generation_prompt -%}{%- if turns and turns[-1].role == 'assistant' -%}",
        "{{- " + _text(template.separator) + " -}}{%- endif -%}{{- " + opens + " -}}{%- endif -%}",
    ]


def _in_turn(template: Template, *, end: str) -> list[str]:
    """Return the part behind the system prompt's choice where a question's text opens its answer."""
    before, between, behind = template.opening.replace("{system}", "{query}").split("{query}")
    alone, behind_alone = template.prompt.split("{query}")
    return [
        "{%- for message in turns -%}",
        "{%- if message.role != ('assistant' if loop.index0 % 2 else 'user') -%}",
        "{{- raise_exception('user and assistant must take turns') -}}{%- endif -%}",
        "{%- if message.role == 'assistant' -%}{{- (message.content or '') + " + _text(end) + " -}}",
        "{%- elif loop.first and system -%}",
        "{{- " + f"{_text(before)} + system + {_text(between)} + message.content + {_text(behind)}" + " -}}",
        "{%- elif loop.first -%}{{- " + f"{_text(alone)} + message.content + {_text(behind_alone)}" + " -}}",
        "{%- else -%}{{- " + f"{_text(template.separator + alone)} + message.content + {_text(behind_alone)}" + " -}}",
        "{%- endif -%}{%- endfor -%}",
    ]


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_chat_format(folder: Path, chat: ChatFormat) -> None:
    """Put the chat template and the end token into the tokenizer's files of an exported folder."""
    if chat.template is not None:
        (folder / CHAT_TEMPLATE).write_text(chat.template, encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not content and name != "tokenizer_config.json":
            continue
        if chat.template is not None:
            content.pop("chat_template", None)  # of another chat format
        if chat.eos_token is not None and text_of(content.get("eos_token")) != chat.eos_token:
            # What ended documents serves for padding where nothing else does, as in published chat models.
            if content.get("pad_token") is None:
                content["pad_token"] = content.get("eos_token")
            content["eos_token"] = chat.eos_token
        write_json(path, content)


def generation_ends(chat: ChatFormat, before: Any) -> int | list[int]:
    """Return `eos_token_id` of generation_config.json: where an answer ends, then where the model ended before."""
    old = before if isinstance(before, list) else [] if before is None else [before]
    found = list(dict.fromkeys((*chat.ends, *old)))
    return found if len(found) > 1 else found[0]


def text_of(token: Any) -> Any:
    """Return the text of a token, which files hold as text or as an object."""
    return token.get("content") if isinstance(token, dict) else token
