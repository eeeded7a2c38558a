"""The same attack against one fixed draw of a random defense: the robustness that does not come from chance.

Attacker and harness then see the same random numbers in every answer to an image, as if the defense had been
deterministic. A defense that is robust only while its numbers are secret loses its robustness here.
"""

from __future__ import annotations

from torch import Tensor

from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.harness.outside_checks import (
    check_candidates,
    keep_model_unchanged,
    keep_process_unchanged,
)
from robustbench_local.evaluation.harness.verify import predict, verify
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel


def can_fix_draw(classifier: Classifier) -> bool:
    """Return whether the draw can be fixed: only a declared random defense takes its numbers from outside."""
    return isinstance(classifier, RandomizedClassifier) and classifier.answers_with_one_draw


def attack_fixed_draw(
    classifier: Classifier,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    stream: RandomStream,
    masks: Tensor | None,
) -> tuple[tuple[bool, ...], list[PassCounter]]:
    """Attack images while the draw is fixed, and verify the candidates with the same draw.

    Args:
        classifier: The classifier under test, for which `can_fix_draw` holds.
        attack: The attack of the cell.
        images: (N, C, H, W) in [0, 1].
        labels: True classes, (N,).
        threat: Budget and goal.
        stream: The images' random numbers.
        masks: (N, 1, H, W) boolean, or None.

    Returns:
        For each image whether this draw misclassifies it, clean or attacked, and the counters of all passes.
        Nothing if the model raises meanwhile.

    Raises:
        ConfigError: If the attack changes the model, or returns something else than a tensor.
    """
    counters: list[PassCounter] = []
    if not isinstance(classifier, RandomizedClassifier):
        return (), counters
    try:
        with classifier.use_fixed_draw(stream):
            with classifier.open_fresh_copy() as judge, judge.count_passes(len(images)) as counter:
                counters.append(counter)
                clean = predict(judge, images, labels, stream=stream)
            with classifier.count_passes(len(images), attack.queries) as counter:
                counters.append(counter)
                attacked = classifier.accept_only(images, labels)
                with (
                    keep_model_unchanged(attack, classifier),
                    keep_process_unchanged(attack, classifier.add_note),
                ):
                    # copies: what an attack writes into its arguments must not reach the verification
                    own_masks = None if masks is None else masks.clone()
                    returned = attack.perturb(
                        attacked, images.clone(), labels.clone(), threat, stream, own_masks
                    )
                candidates = check_candidates(attack, returned)
            with classifier.open_fresh_copy() as judge, judge.count_passes(len(images)) as counter:
                counters.append(counter)
                verified = verify(judge, images, labels, candidates, threat, masks=masks, stream=stream)
    except ModelError as failure:
        classifier.add_note(f"raised while its draw was fixed: {failure.what}")
        return (), counters
    goal = verified.broken if threat.targets else ~clean.correct | verified.broken
    return tuple(goal.tolist()), counters
