"""What is asked of an ONNX graph before an engine sees it.

Such as whether it keeps weights in other files: engines would read them from wherever it says.
"""

from collections.abc import Iterator

# Fields, by message, that lead to tensors: the message that each holds.
_PATHS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_GRAPH, _OUTPUT, _NAME = 7, 12, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def has_external_data(graph: bytes) -> bool:
    """Return whether a tensor of a serialised model lies in a file of its own; False for what is no model."""
    try:
        return _search(memoryview(graph), "model")
    except (IndexError, RecursionError):
        return False


def output_names(graph: bytes) -> tuple[str, ...]:
    """Return the names of a serialised model's outputs; none for what is no model."""
    try:
        values = [value for part in _parts(memoryview(graph), _GRAPH) for value in _parts(part, _OUTPUT)]
        return tuple(bytes(name).decode(errors="replace") for value in values for name in _parts(value, _NAME))
    except IndexError:
        return ()


def _parts(message: memoryview, wanted: int) -> list[memoryview]:
    return [part for field, part in _fields(message) if field == wanted and isinstance(part, memoryview)]


def _search(message: memoryview, kind: str) -> bool:
    for field, content in _fields(message):
        if kind == "tensor":
            if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and content == 1):
                return True
        elif field in _PATHS[kind] and isinstance(content, memoryview) and _search(content, _PATHS[kind][field]):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and content of each field of a protobuf message; the marks of groups are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield field, value
        elif kind == _BYTES:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise IndexError
            yield field, message[at : at + size]
            at += size
        else:
            at += {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
