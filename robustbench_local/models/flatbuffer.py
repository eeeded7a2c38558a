"""Reading of tables in a FlatBuffers file from its untrusted bytes; every offset is checked."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ENTRIES = 1_000_000
"""Most entries of a vector that is read."""


class FlatBufferError(ValueError):
    """The bytes are not such a table."""


@dataclass(frozen=True)
class Table:
    """A table in a file, whose fields are read by their number in the schema.

    Args:
        content: The bytes of the whole file.
        position: Offset of the table.
    """

    content: bytes
    position: int

    @classmethod
    def read_root(cls, content: bytes, identifier: bytes) -> Table:
        """Return the root table of a file.

        Args:
            content: The bytes of the whole file.
            identifier: The four bytes that files of this schema have at offset 4.

        Raises:
            FlatBufferError: If the identifier is another one.
        """
        if content[4:8] != identifier:
            raise FlatBufferError(f"it lacks the identifier {identifier.decode()}")
        return cls(content, _read_scalar("I", content, 0))

    def read_number(self, field: int, kind: str, default: float = 0) -> int:
        """Return a scalar field; ``kind`` is its `struct` letter, such as ``"i"`` for int32."""
        place = self._find_field(field)
        return int(default) if place is None else _read_scalar(kind, self.content, place)

    def read_numbers(self, field: int, kind: str) -> tuple[float, ...]:
        """Return a vector of scalars; empty where the field is absent."""
        start, count = self._find_vector(field)
        size = struct.calcsize(f"<{kind}")
        if start + count * size > len(self.content):
            raise FlatBufferError("a vector ends behind the file")
        return struct.unpack_from(f"<{count}{kind}", self.content, start)

    def read_text(self, field: int) -> str:
        """Return a string; empty where the field is absent."""
        return self.read_bytes(field).decode("utf-8", "replace")

    def read_bytes(self, field: int) -> bytes:
        """Return a vector of bytes; empty where the field is absent."""
        start, count = self._find_vector(field, limit=len(self.content))
        if start + count > len(self.content):
            raise FlatBufferError("a vector ends behind the file")
        return self.content[start : start + count]

    def read_table(self, field: int) -> Table | None:
        """Return a table in a field, or None where it is absent."""
        place = self._find_field(field)
        return None if place is None else Table(self.content, place + _read_scalar("I", self.content, place))

    def iterate_tables(self, field: int) -> Iterator[Table]:
        """Yield the tables of a vector."""
        start, count = self._find_vector(field)
        for place in range(start, start + 4 * count, 4):
            yield Table(self.content, place + _read_scalar("I", self.content, place))

    def has_field(self, field: int) -> bool:
        """Return True if the table has the field."""
        return self._find_field(field) is not None

    def _find_field(self, field: int) -> int | None:
        """Return the offset of a field; None where the table lacks it."""
        layout = self.position - _read_scalar("i", self.content, self.position)
        if 4 + 2 * field >= _read_scalar("H", self.content, layout):
            return None
        offset = _read_scalar("H", self.content, layout + 4 + 2 * field)
        return self.position + offset if offset else None

    def _find_vector(self, field: int, *, limit: int = MAX_ENTRIES) -> tuple[int, int]:
        """Return offset and number of entries of a vector; no entries where the table lacks it."""
        place = self._find_field(field)
        if place is None:
            return 0, 0
        start = place + _read_scalar("I", self.content, place)
        count = _read_scalar("I", self.content, start)
        if count > limit:
            raise FlatBufferError(f"a vector has {count:,} entries")
        return start + 4, count


def _read_scalar(kind: str, content: bytes, offset: int) -> int:
    if not 0 <= offset <= len(content) - struct.calcsize(f"<{kind}"):
        raise FlatBufferError("an offset leads out of the file")
    return int(struct.unpack_from(f"<{kind}", content, offset)[0])
