"""How a service is asked, as a grid file says it; reading it asks nothing and needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field

from robustbench_local.config.strict_yaml import StrictModel


class EndpointOptions(StrictModel):
    """The protocol of a service; the key ``endpoint`` of a model in a grid file."""

    format: Literal["json", "png"] = "json"
    """``"json"``: up to ``batch`` images per request, exact; ``"png"``: one image, rounded to 8 bits."""
    key: str | None = None
    """Dotted path of the scores or labels in the answer. By default ``scores`` or ``labels``."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Most images in a JSON request."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Time limit of a try, in seconds."""
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Retries after a timeout, a lost connection, 429 or 5xx."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """Most requests per second."""
    token: str | None = None
    """Name of the environment variable whose value is sent as ``Authorization: Bearer``."""


def remove_credentials(source: str) -> str:
    """Remove user, password and query from the URL of a service; other sources are unchanged."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_url(source: str) -> bool:
    """Return True if a model's source is a service."""
    return source.startswith(("http://", "https://"))
