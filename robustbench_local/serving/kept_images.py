"""Uploaded images in a folder, for those who ask for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustbench_local.errors import ConfigError
from robustbench_local.serving.image_upload import Upload
from robustbench_local.serving.request_log import log_event

MAX_KEPT_IMAGES = 10_000
"""Largest number of images in the folder; further ones are answered and not kept."""


class ImageFolder:
    """Keeps the files of uploads, with their answers in ``answers.jsonl``.

    Args:
        folder: The folder; it is made if it does not exist, readable for its owner alone.

    Raises:
        ConfigError: If it cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / "answers.jsonl").touch(mode=0o600)
            self._count = sum(1 for _ in folder.iterdir()) - 1
        except OSError as error:
            raise ConfigError(
                f"images cannot be kept: {error.strerror}", where=str(folder), remedy="name another folder"
            ) from None

    def add_images(
        self, request_id: str, uploads: Sequence[Upload], answers: Sequence[dict[str, Any]]
    ) -> None:
        """Keep the images of a request and what the model answered; a full disk fails no request."""
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        for number, (upload, answer) in enumerate(zip(uploads, answers, strict=True), 1):
            if self._count >= MAX_KEPT_IMAGES:
                log_event("image not kept: the folder is full", images=MAX_KEPT_IMAGES)
                return
            name = f"{time}-{request_id}-{number}.img"
            line = {"file": name, "index": answer["index"], "probability": answer["probability"]}
            try:
                (self._folder / name).write_bytes(upload.content)
                with (self._folder / "answers.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                log_event("image not kept", reason=str(error.strerror))
                return
            self._count += 1
