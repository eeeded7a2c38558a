"""Structured logs: one JSON object a line, without image content, file names or query strings."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from robustbench_local.serving.problems import shorten_line

LOGGER_NAME = "robustbench_local.serving"
logger = logging.getLogger(LOGGER_NAME)


class JsonFormatter(logging.Formatter):
    """Formats records as JSON, in ASCII: nothing in a request can start a new line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        content: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": shorten_line(record.getMessage()),
        }
        content |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            content["error"] = shorten_line(f"{record.exc_info[0].__name__}: {record.exc_info[1]}")
        return json.dumps(content)


def set_up_logs(stream: TextIO | None = None) -> None:
    """Send the logs of this package's server and of uvicorn to a stream, standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in (LOGGER_NAME, "uvicorn", "uvicorn.error"):
        chosen = logging.getLogger(name)
        chosen.handlers, chosen.propagate = (
            [handler] if name != "uvicorn.error" else [],
            name == "uvicorn.error",
        )
        chosen.setLevel(logging.INFO if name == LOGGER_NAME else logging.WARNING)


def log_event(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with fields, which have to be JSON values."""
    logger.log(level, event, extra={"fields": fields})
