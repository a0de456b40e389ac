"""What was given to a model's constructor, held against the annotations there."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from visdeploy.errors import InputError

_WORDS = {float: "a finite number", bool: "true or false", str: "text", Path: "a path", NoneType: "none"}


def check(where: str, call: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse arguments that are not what a function, or a class, says of them in its annotations.

    A whole number is a count: at least 1, or its default where that is less; `int | Literal[0]` takes 0 too. A list
    may stand for a tuple, as in JSON. What is no number, text, path, choice or sequence of them is not looked at.

    Raises:
        InputError: An argument is of another kind; the first is named.
    """
    function = call.__init__ if isinstance(call, type) else call  # type: ignore[misc]
    try:
        kinds = get_type_hints(function)
    except NameError:  # what is imported for type checkers alone
        return
    parameters = inspect.signature(function).parameters
    for name in [name for name in given if name in kinds]:
        default = parameters[name].default
        least = min(1, default) if isinstance(default, int) else 1
        if not _fits(given[name], kinds[name], least):
            raise InputError(f"[{where}] {name}: expected {_words(kinds[name], least)}, got {given[name]!r:.60}")


def _fits(value: Any, kind: Any, least: int) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin in (Union, UnionType):
        return any(_fits(value, one, least) for one in inner)
    if origin in (tuple, list, Sequence) and inner:
        if not isinstance(value, tuple | list):
            return False
        kinds = inner if origin is tuple and inner[-1] is not Ellipsis else inner[:1] * len(value)
        return len(value) == len(kinds) and all(_fits(*pair, least) for pair in zip(value, kinds, strict=True))
    if kind is int:
        return _is_number(value, Integral) and value >= least
    if kind is float:
        return _is_number(value, Real) and abs(value) < math.inf
    return isinstance(value, kind) if kind in _WORDS else True


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _words(kind: Any, least: int) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(_words(one, least) for one in inner)
    if origin in (tuple, list, Sequence) and inner:
        entries = inner if origin is tuple else (*inner, ...)
        return f"[{', '.join('...' if one is Ellipsis else _words(one, least) for one in entries)}]"
    return f"a whole number >= {least}" if kind is int else _WORDS.get(kind, str(kind))
