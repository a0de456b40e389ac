"""What kind of value an option takes, said once in its annotation, and the sentence on a value of another kind."""

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from visdeploy.errors import InputError

Count = Annotated[int, Field(ge=1, le=1 << 20)]
Whole = Annotated[int, Field(ge=0, le=1 << 20)]
Seed = Annotated[int, Field(ge=0, le=(1 << 32) - 1)]
Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Folder = Annotated[Path, Field(strict=False, description="a path")]

# No number becomes another, and no text a number; of other errors pydantic's own words will do.
_STRICT: Final = ConfigDict(strict=True, allow_inf_nan=False)
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
    """Return a value as its annotation has it: a list where a tuple is asked for becomes one.

    Args:
        where: Who asks.
        name: Of the argument.
        kind: Its annotation; of what has parts, a description in it says what they are.
        value: What came.

    Raises:
        InputError: It is not of that kind, or out of bounds.
    """
    try:
        return TypeAdapter(kind, config=_STRICT).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        words = _EXPECTED.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
        described = next((entry.description for entry in getattr(kind, "__metadata__", ()) if entry.description), words)
        raise InputError(f"[{where}] {name}: expected {described}, got {value!r:.80}") from error
