"""The groups of a run's images, such as tracks of physical signs."""

from __future__ import annotations

from robustbench_local.store.run_store import RunStore

GROUPS_KEY = "groups of images"
"""Key under which a run stores them: image id -> group; nothing if the images are independent."""


def read_groups(store: RunStore) -> dict[str, str]:
    """Read the group of each image; empty if the images are independent."""
    stored = store.read_meta(GROUPS_KEY)
    return {str(image): str(group) for image, group in stored.items()} if isinstance(stored, dict) else {}
