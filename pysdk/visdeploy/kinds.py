"""What kind of value an argument takes, said once in its annotation, and the sentence on a value of another kind."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from visdeploy.errors import InputError
from visdeploy.spec import Side

Count = Annotated[int, Field(ge=1, le=1 << 20)]
Halved = Annotated[int, Field(ge=2, le=1 << 20)]
Whole = Annotated[int, Field(ge=0, le=1 << 20)]
Seed = Annotated[int, Field(ge=0, le=(1 << 32) - 1)]
Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[tuple[Side, Side], Field(strict=False)]
Sides = Annotated[Side | Size, Field(description="a side in pixels, or height and width, of 1 to 4096")]
Folder = Annotated[Path, Field(strict=False, description="a path")]

# No number becomes another, and no text a number. On what is none of these the annotation itself is shown.
_STRICT: Final = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_EXPECTED: Final = {
    "bool_type": "true or false",
    "dict_type": "values by name",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number above {gt:.10g}",
    "greater_than_equal": "a number of at least {ge:.10g}",
    "int_type": "a whole number",
    "less_than": "a number below {lt:.10g}",
    "less_than_equal": "a number of at most {le:.10g}",
    "literal_error": "{expected}",
    "string_type": "text",
}


def in_kind(where: str, name: str, kind: Any, value: object) -> Any:
    """Return a value as its annotation has it: a number of NumPy becomes Python's.

    Args:
        where: Who asks.
        name: Of the argument.
        kind: Its annotation; of what has parts, a description in it says what they are.
        value: What came.

    Raises:
        InputError: It is not of that kind, or out of bounds.
    """
    if isinstance(value, np.generic):
        value = value.item()
    try:
        return TypeAdapter(kind, config=_STRICT).validate_python(value)
    except ValidationError as error:
        raise InputError(f"[{where}] {name}: expected {_expected(kind, error)}, got {value!r:.80}") from error


def check_arguments(where: str, call: Callable[..., Any], given: Mapping[str, object]) -> dict[str, Any]:
    """Return arguments as a function, or a class, has them in its annotations.

    Raises:
        InputError: An argument is of another kind, or out of bounds; the first is named.
    """
    function = call.__init__ if isinstance(call, type) else call  # type: ignore[misc]
    try:
        kinds = get_type_hints(function, include_extras=True)
    except NameError:  # what is imported for type checkers alone
        kinds = {}
    return {name: in_kind(where, name, kinds[name], value) if name in kinds else value for name, value in given.items()}


def _expected(kind: Any, error: ValidationError) -> str:
    described = [entry.description for entry in getattr(kind, "__metadata__", ()) if entry.description]
    if described:
        return str(described[0])
    first, *others = error.errors()
    if first["type"] in _EXPECTED and not first["loc"] and not others:
        return _EXPECTED[first["type"]].format(**first.get("ctx", {}))
    written = kind.__name__ if isinstance(kind, type) else str(kind)
    return re.sub(r"\w+\.(?=\w)", "", re.sub(r"Annotated\[([^,]+), FieldInfo\(.*?\]\)\]", r"\1", written))
