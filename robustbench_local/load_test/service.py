"""A service under test: what it says of itself, and the use of its process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from robustbench_local.classifier.literals import Interpolation
from robustbench_local.errors import ConfigError, ModelError, UnreachableError
from robustbench_local.load_test.http_connections import Address, HttpConnections, RequestError
from robustbench_local.load_test.wire_formats import Protocol, WireFormat

_MODEL_PATH, _PREDICT_PATH, _METRICS_PATH = "/model", "/predict", "/metrics"
_MEMORY_NAME, _CPU_NAME = "process_resident_memory_bytes", "process_cpu_seconds_total"
_MAX_CLASSES = 100_000


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service under test."""

    address: Address
    """Where images are sent."""
    wire: WireFormat
    """How."""
    name: str
    """Name of the model as the service says it; else its address."""
    digest: str | None = None
    """Digest of the model."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, if the service says them."""
    size: tuple[int, int] | None = None
    """(H, W) of the model's input."""
    resize: int | Literal["stretch"] | None = None
    """Length of the shorter side before the center crop, or ``stretch``; None: images cover the size."""
    interpolation: Interpolation | None = None
    """How images are resized."""
    channels: int | None = None
    """Channels of the model's input."""
    max_images: int | None = None
    """Most images in one request."""


async def find_service(url: str, *, protocol: Protocol | None, key: str, token: str | None) -> Service:
    """Ask a service what it is.

    Args:
        url: The root of a service of ``rbl serve``, or the URL that another service takes images at.
        protocol: The protocol; None: that of ``rbl serve`` if the service describes its model.
        key: As for ``WireFormat``.
        token: As for ``Address``.

    Raises:
        UnreachableError: If it does not answer.
        ConfigError: If the protocol is that of ``rbl serve``, and the service is none.
    """
    address = Address.from_url(url, token)
    if protocol in {"json", "png"}:
        return _build_plain_service(address, protocol, key)
    root = address.target.partition("?")[0].rstrip("/").removesuffix(_PREDICT_PATH)
    async with HttpConnections(address, 1) as connections:
        try:
            answer = await connections.get(root + _MODEL_PATH)
        except RequestError as error:
            raise UnreachableError(
                f"the service does not answer: {error.kind}", where=address.url, remedy="start it first"
            ) from None
    card = _parse_card(answer.content) if answer.status == 200 else None
    if card is not None:
        return _read_card(card, url, f"{root}{_PREDICT_PATH}?top=1", token)
    if answer.status in (401, 403):
        raise UnreachableError(
            f"it answers {answer.status}, not allowed", where=address.url, remedy="name its --token VARIABLE"
        )
    if protocol == "serve":
        raise ConfigError("this is no service of rbl serve", where=address.url, remedy="give --protocol json")
    return _build_plain_service(address, "json", key)


def _build_plain_service(address: Address, protocol: Protocol, key: str) -> Service:
    return Service(address=address, wire=WireFormat(protocol, key), name=address.url)


def _parse_card(content: bytes) -> dict[str, Any] | None:
    """Parse the card of a served model; None if it is none."""
    try:
        card = json.loads(content)
    except (ValueError, RecursionError):
        return None
    model = card.get("model") if isinstance(card, dict) else None
    if not isinstance(model, dict) or not {"name", "digest", "classes", "input"} <= set(model):
        return None
    is_usable = isinstance(model["input"], dict) and isinstance(model["classes"], list)
    return card if is_usable and isinstance(card, dict) else None


def _read_card(card: dict[str, Any], url: str, target: str, token: str | None) -> Service:
    parts, path = urlsplit(url), urlsplit(target)
    address = Address.from_url(urlunsplit((parts.scheme, parts.netloc, path.path, path.query, "")), token)
    model, limits = card["model"], card.get("limits")
    shape = [model["input"].get(name) for name in ("height", "width", "channels")]
    if (
        not all(type(side) is int and 0 < side < 10_000 for side in shape)
        or len(model["classes"]) > _MAX_CLASSES
    ):
        raise ModelError("its card gives no usable input", where=address.url, remedy="update the service")
    most = limits.get("max_images") if isinstance(limits, dict) else None
    resize = model["input"].get("resize")
    return Service(
        address=address,
        wire=WireFormat("serve"),
        name=str(model["name"])[:200],
        digest=str(model["digest"])[:200],
        class_names=tuple(str(name) for name in model["classes"]),
        size=(shape[0], shape[1]),
        resize="stretch" if isinstance(resize, list) else resize if type(resize) is int else None,
        interpolation=model["input"].get("interpolation"),
        channels=shape[2],
        max_images=most if type(most) is int else None,
    )


@dataclass(frozen=True)
class ProcessReading:
    """What a process uses."""

    memory_bytes: int
    """Resident memory."""
    cpu_seconds: float
    """CPU time since its start."""


class ProcessMeter:
    """Reads the use of the service's process, from its metrics or from this machine.

    Args:
        connections: Connections to the service.
        pid: Process of this machine; None: read the service's metrics.
    """

    def __init__(self, connections: HttpConnections, pid: int | None = None) -> None:
        self._connections, self._pid = connections, pid

    @property
    def source(self) -> str:
        """Where the figures come from."""
        return f"process {self._pid}" if self._pid is not None else "the service's metrics"

    async def read_use(self) -> ProcessReading | None:
        """Read the use now; None if it cannot be read."""
        if self._pid is not None:
            return read_process(self._pid)
        try:
            answer = await self._connections.get(_METRICS_PATH)
        except RequestError:
            return None
        return parse_metrics(answer.content) if answer.status == 200 else None


def parse_metrics(content: bytes) -> ProcessReading | None:
    """Parse memory and CPU time from metrics in Prometheus' text format; None if they are not there."""
    figures = {}
    for line in content.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(" ")
        if name in {_MEMORY_NAME, _CPU_NAME}:
            try:
                figures[name] = float(value.split(" ")[0])
            except ValueError:
                return None
    if len(figures) < 2 or not all(math.isfinite(one) and one >= 0 for one in figures.values()):
        return None
    return ProcessReading(int(figures[_MEMORY_NAME]), figures[_CPU_NAME])


def read_process(pid: int) -> ProcessReading | None:
    """Read the use of a process of this machine from ``/proc``; None if it has ended, or there is no such."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (OSError, ValueError, IndexError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return ProcessReading(pages * os.sysconf("SC_PAGE_SIZE"), (int(fields[11]) + int(fields[12])) / ticks)


def check_batch_sizes(service: Service, batch_sizes: Sequence[int]) -> None:
    """Check that the service takes requests of these sizes.

    Raises:
        ConfigError: If one is too large.
    """
    largest = max(batch_sizes)
    if service.max_images is not None and largest > service.max_images:
        raise ConfigError(
            f"the service takes at most {service.max_images} images in a request, not {largest}",
            where="--batch-sizes",
            remedy=f"start it with --max-images {largest}, or give smaller batches",
        )
    if service.wire.protocol == "png" and largest > 1:
        raise ConfigError("a PNG is one image", where="--batch-sizes", remedy="give 1, or --protocol json")
