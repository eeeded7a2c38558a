"""Which model and defense a load test is about: the ones of the run in whose folder it is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.load_test.run_load_test import Subject
from robustbench_local.load_test.service import Service
from robustbench_local.models.endpoint_options import remove_credentials
from robustbench_local.store import RunStore
from robustbench_local.store.load_test_records import NO_DEFENSE
from robustbench_local.store.run_folder import DATABASE_NAME

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_NAMES = 12


def choose_subject(
    service: Service,
    known: Mapping[tuple[str, str], str | None] | None,
    *,
    target: str,
    name: str | None,
    folder: Path | None,
) -> Subject:
    """Choose the model and defense of the record.

    Without a name it is the model of the run with the service's digest, then the one that the service names,
    then the only one.

    Args:
        service: The service.
        known: Digests of the models of the run in the folder, by model and defense; None: there is no run.
        target: Source of the model, or URL, for the record.
        name: What the user wrote, such as ``candidate + jpeg``.
        folder: The run's folder, for messages.

    Raises:
        ConfigError: If the run has no such model, several and none is named, or another one of this name.
    """
    pair = _split_name(name or service.name)
    if known is not None:
        pair = pair if name else _find_pair(pair, known, service.digest)
        if pair not in known:
            names = [_join_name(one) for one in known]
            remedy = (
                did_you_mean(name, names) if name else f"name it with --as: {', '.join(names[:_MAX_NAMES])}"
            )
            raise ConfigError(
                f"the run in {folder} has no model {name or service.name!r}",
                where="--as",
                remedy=remedy,
            )
        _refuse_other_model(pair, known[pair], service.digest, folder)
    return Subject(*pair, service=remove_credentials(target))


def list_run_models(folder: Path) -> dict[tuple[str, str], str | None] | None:
    """List the digests of the models of the run in a folder, by model and defense; None if it holds no run.

    A defense is around the model and not in its digest: the digest of a defended model is None.
    """
    if not (folder / DATABASE_NAME).is_file():
        return None
    with RunStore.open_readonly(folder) as store:
        cells = store.read_cells()
    digests: dict[tuple[str, str], str | None] = {}
    for cell in cells:
        pair = (cell.model, cell.defense or NO_DEFENSE)
        digest = cell.identity.get("model") if pair[1] == NO_DEFENSE else None
        digests.setdefault(pair, digest if digest and _DIGEST.fullmatch(digest) else None)
    return digests or None


def _find_pair(
    pair: tuple[str, str], known: Mapping[tuple[str, str], str | None], digest: str | None
) -> tuple[str, str]:
    """Find the pair of a run for a service that nobody named."""
    same = [one for one, other in known.items() if digest is not None and other == digest]
    if len(same) == 1:
        return same[0]
    return next(iter(known)) if pair not in known and len(known) == 1 else pair


def _refuse_other_model(
    pair: tuple[str, str], expected: str | None, digest: str | None, folder: Path | None
) -> None:
    """Refuse figures of one model under the name of another."""
    if expected is not None and digest is not None and _DIGEST.fullmatch(digest) and expected != digest:
        raise ConfigError(
            f"the service has another model than {_join_name(pair)} of the run in {folder}: digest "
            f"{digest[:12]} instead of {expected[:12]}",
            where="--as",
            remedy="test the run's model, or store the test elsewhere with --out",
        )


def _split_name(text: str) -> tuple[str, str]:

    model, _, defense = text.partition(" + ")
    return model.strip(), defense.strip() or NO_DEFENSE


def _join_name(pair: tuple[str, str]) -> str:

    return pair[0] if pair[1] == NO_DEFENSE else " + ".join(pair)
