"""Settings that are declared once, as fields of a dataclass: flags and recipe keys are generated from them."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_type_hints

from meap_megatron.errors import UserError


def setting(
    default: Any,
    text: str,
    *,
    flag: str | None = None,
    given: Any = MISSING,
    choices: Sequence[str] = (),
    besides: Sequence[str] = (),
    parse: Callable[[str], Any] | None = None,
    metavar: str | None = None,
) -> Any:
    """Return a field of a dataclass that is a setting of a run too.

    Args:
        default: of the field.
        text: what `--help` says of it, and the only description that it has.
        flag: its name on a command line and in a recipe; the field's own if None. A switch whose field is on by default is
            named "no_..." or ends in it, and switches it off.
        given: default on a command line, where it is another than the field's.
        choices: what the value must be one of.
        besides: what the field takes too, and a command line does not.
        parse: reads the text of a command line; by the field's type if None.
        metavar: what `--help` shows for the value.
    """
    known = {"text": text, "flag": flag, "given": given, "choices": choices, "besides": besides, "parse": parse}
    return field(default=default, metadata=known | {"metavar": metavar})


@dataclass(frozen=True)
class Declared:
    """One field that is a setting."""

    field: Field[Any]
    annotation: Any

    @property
    def name(self) -> str:
        """Of the flag, in snake_case, without the prefix."""
        return self.field.metadata["flag"] or self.field.name

    @property
    def default(self) -> Any:
        """On a command line."""
        given = self.field.metadata["given"]
        return self.field.default if given is MISSING else given

    @cached_property
    def kind(self) -> type:
        """The type of the value, without None."""
        types = get_args(self.annotation) if isinstance(self.annotation, UnionType) else (self.annotation,)
        return next(one for one in types if one is not NoneType)

    def add_to(self, parser: Any, prefix: str) -> None:
        """Declare the flag."""
        option = f"--{prefix}{self.name}".replace("_", "-")
        text, choices = self.field.metadata["text"], self.field.metadata["choices"]
        if self.kind is bool:
            parser.add_argument(option, action="store_true", help=text)
            return
        read = self.field.metadata["parse"]
        parser.add_argument(
            option,
            type=refusing_text(read) if read is not None else None if self.kind is str else self.kind,
            default=self.default,
            choices=choices or None,
            metavar=self.field.metadata["metavar"],
            help=text,
        )

    def value(self, args: Any, prefix: str) -> Any:
        """Return the field's value from parsed arguments."""
        found = getattr(args, f"{prefix}{self.name}")
        return not found if self.kind is bool and self.field.default is True else found


def refusing_text(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of an argument's text whose refusals argparse shows as they are."""

    def of_text(text: str) -> Any:
        try:
            return read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return of_text


def declared(settings: type) -> list[Declared]:
    """Return the fields of a dataclass that are settings."""
    hints = get_type_hints(settings)
    return [Declared(one, hints[one.name]) for one in fields(settings) if "text" in one.metadata]


def add_flags(parser: Any, settings: type, *, prefix: str = "meap_") -> None:
    """Declare a flag for every setting of a dataclass."""
    for one in declared(settings):
        one.add_to(parser, prefix)


def from_args(settings: type, args: Any, *, prefix: str = "meap_") -> dict[str, Any]:
    """Return the fields of a dataclass that parsed arguments give.

    Args:
        settings: the dataclass.
        args: with an attribute for every flag of it.
        prefix: of the flags.
    """
    return {one.field.name: one.value(args, prefix) for one in declared(settings)}


def picked[T](settings: type[T], args: Any) -> T:
    """Return a dataclass whose fields are named after arguments of Megatron's parser, with what those hold now."""
    return settings(**{one.name: getattr(args, one.name) for one in fields(cast(Any, settings))})


def check_choices(settings: Any) -> None:
    """Refuse a value that is not one of the choices of its field.

    Raises:
        UserError: naming the field, its value and the choices.
    """
    for one in declared(type(settings)):
        choices = (*one.field.metadata["choices"], *one.field.metadata["besides"])
        value = getattr(settings, one.field.name)
        if choices and value not in choices:
            raise UserError(f"{one.field.name} is {value!r}; it must be one of {', '.join(choices)}")
