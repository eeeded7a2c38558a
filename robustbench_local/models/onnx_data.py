"""What an untrusted ONNX file names, from its bytes: external files of its tensors, and its operators."""

from __future__ import annotations

from collections.abc import Iterator

# Nested messages: field numbers of the ONNX schema (onnx.proto) that can lead to a tensor.
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
_OPERATOR_FIELD = 4
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def find_external_locations(content: bytes) -> set[str]:
    """Return the locations of all tensors that are not in the file itself.

    Args:
        content: The bytes of an ONNX file.

    Returns:
        The locations in all nodes of all graphs, unchecked.

    Raises:
        ValueError: If these are not the bytes of an ONNX file.
    """
    locations: set[str] = set()
    for kind, number, value in _iterate_messages(content):
        if _NESTED_FIELDS[kind].get(number) == "entry":
            entry = dict(_iterate_fields(value))
            if bytes(entry.get(_KEY_FIELD, b"")) == b"location":
                locations.add(bytes(entry.get(_VALUE_FIELD, b"")).decode())
    return locations


def find_operators(content: bytes) -> set[str]:
    """Return the names of the operators of all nodes of all graphs and functions, without their domains.

    Args:
        content: The bytes of an ONNX file.

    Raises:
        ValueError: If these are not the bytes of an ONNX file.
    """
    return {
        bytes(value).decode("utf-8", "replace")
        for kind, number, value in _iterate_messages(content)
        if kind == "node" and number == _OPERATOR_FIELD
    }


def _iterate_messages(content: bytes) -> Iterator[tuple[str, int, memoryview]]:
    """Yield each field of all messages that can lead to a tensor: kind of message, number, bytes."""
    queue = [("model", memoryview(content))]
    while queue:
        kind, message = queue.pop()
        for number, value in _iterate_fields(message):
            yield kind, number, value
            nested_kind = _NESTED_FIELDS[kind].get(number)
            if nested_kind is not None and nested_kind != "entry":
                queue.append((nested_kind, value))


def _iterate_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and bytes of each length-delimited field of a protobuf message."""
    offset = 0
    while offset < len(message):
        tag, offset = _read_varint(message, offset)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, offset = _read_varint(message, offset)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            offset += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _BYTES:
            size, start = _read_varint(message, offset)
            offset = start + size
            yield number, message[start:offset]
        else:
            raise ValueError(f"no field has the wire type {kind}")
    if offset > len(message):
        raise ValueError("the file ends in the middle of a field")


def _read_varint(message: memoryview, offset: int) -> tuple[int, int]:
    """Read a number of seven bits per byte; return it with the offset behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(message):
            raise ValueError("the file ends in the middle of a number")
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise ValueError("a number has more than ten bytes")
