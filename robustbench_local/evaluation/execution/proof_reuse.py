"""Images that need no attack, because a certificate of the same run already proves them robust."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from robustbench_local.evaluation.planning.plan import CellSpec
from robustbench_local.store.run_store import RunStore


def sort_certificates_first(cells: Sequence[CellSpec]) -> list[CellSpec]:
    """Sort the cells so that certificates run before the attacks that can use their proofs."""
    return sorted(cells, key=lambda cell: not cell.is_certificate)


def find_proven_images(cell: CellSpec, cells: Sequence[CellSpec], store: RunStore) -> frozenset[str]:
    """Find the images for which a proof already decides an attack's verdict.

    A proof must be deterministic, about the same classifier, in the attack's norm, and cover a ball at least
    as large. An attack that draws random numbers for a whole group of images skips none of them: the other
    images of the group would get other random numbers, and other verdicts.

    Args:
        cell: The attack's cell.
        cells: All cells of the plan.
        store: The outcomes of the certificate cells so far.

    Returns:
        Ids of the images.
    """
    if cell.is_certificate or not cell.make_job().is_divisible:
        return frozenset()
    proofs = [other for other in cells if other.is_certificate and is_proof_for(other, cell)]
    columns = (store.read_outcome_columns(proof.record.key, ("image", "certified")) for proof in proofs)
    return frozenset(image for known in columns for image in compress(known["image"], known["certified"]))


def is_proof_for(proof: CellSpec, attack: CellSpec) -> bool:
    """Return whether what a certificate's cell proves decides the verdicts of an attack's cell."""
    record = proof.record
    certain = record.concerns == "model" and record.alpha == 0
    same = proof.subject is attack.subject and proof.threat.norm == attack.threat.norm
    return certain and same and proof.threat.eps >= attack.threat.eps
