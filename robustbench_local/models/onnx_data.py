"""Which other files an ONNX file names for its tensors: read from its bytes, without trusting them."""

from __future__ import annotations

from collections.abc import Iterator

# Where messages are inside messages: field numbers of the ONNX schema (onnx.proto) that can lead to a tensor.
_NESTED_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY_FIELD, _VALUE_FIELD = 1, 2
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def find_external_locations(content: bytes) -> set[str]:
    """The places of all tensors that are not in the file itself.

    Args:
        content: The bytes of an ONNX file.

    Returns:
        What the file says, in any node of any graph; nothing has been checked.

    Raises:
        ValueError: If these are not the bytes of such a file.
    """
    found: set[str] = set()
    waiting = [("model", memoryview(content))]
    while waiting:
        kind, message = waiting.pop()
        inside = _NESTED_FIELDS[kind]
        for number, value in _iterate_fields(message):
            what = inside.get(number)
            if what == "entry":
                entry = dict(_iterate_fields(value))
                if bytes(entry.get(_KEY_FIELD, b"")) == b"location":
                    found.add(bytes(entry.get(_VALUE_FIELD, b"")).decode())
            elif what is not None:
                waiting.append((what, value))
    return found


def _iterate_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field of a protobuf message that has bytes."""
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, place = _read_varint(message, place)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _BYTES:
            size, start = _read_varint(message, place)
            place = start + size
            yield number, message[start:place]
        else:
            raise ValueError(f"no field has the wire type {kind}")
    if place > len(message):
        raise ValueError("the file ends in the middle of a field")


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("the file ends in the middle of a number")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number has more than ten bytes")
