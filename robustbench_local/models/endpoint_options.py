"""How a service is asked, as a grid file says it; reading it asks nothing and needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field

from robustbench_local.config.strict_yaml import StrictModel


class EndpointOptions(StrictModel):
    """How a service takes images and gives answers; the key ``endpoint`` of a model in a grid file."""

    format: Literal["json", "png"] = "json"
    """``"json"``: up to ``batch`` images a request, exact; ``"png"``: one image, rounded to 8 bits."""
    key: str | None = None
    """Where the answer holds scores or labels; dots lead deeper. By default ``scores`` or ``labels``."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Most images in a JSON request."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds until a try is given up."""
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further tries after a timeout, a lost connection, 429 or 5xx."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """Most requests in a second."""
    token: str | None = None
    """Name of the environment variable whose value is sent as ``Authorization: Bearer``."""


def remove_credentials(source: str) -> str:
    """A model's source without what may be secret in a URL: user, password and query; others as they are."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_url(source: str) -> bool:
    """Whether a model's source is a service."""
    return source.startswith(("http://", "https://"))
