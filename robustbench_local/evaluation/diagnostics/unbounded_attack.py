"""D11: does an attack that may change every pixel as it likes succeed on every image?"""

from __future__ import annotations

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.attacks.pgd import PGD
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    TOO_SMALL_REASON,
    Diagnostic,
    Reading,
    build_unread,
    format_images,
)
from robustbench_local.randomness import RandomStream
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.threats.threat_model import ThreatModel

STEPS = 40
"""Steps of the attack. Sound networks give in within a few."""
MAX_IMAGES = 32
"""Most images."""
MIN_IMAGES = 4
"""With fewer images chance cannot be told from robustness."""
MAX_STRAY_IMAGES = 1
"""Images that may resist without a warning. On some 40 sound models not one of 32 did."""
PASSES_SHARE = 0.60
"""Share of the budget that the attack may take at most; on sound models it takes a tenth of that."""
WHOLE_BOX = ThreatModel(norm="Linf", eps=1.0)
"""Every image is allowed."""


class UnboundedAttack(Diagnostic):
    """PGD on the margin loss inside the whole box: what it does not break is masked, not robust."""

    id = "D11"
    name = "unbounded attack succeeds"
    source = "Carlini et al. 2019, arXiv:1902.06705, section 5 (unbounded attacks reach 100 %)"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Attack the first correctly classified images."""
        if not model.gives_gradients:
            return build_unread(f"the model gives {model.classifier.access} only, and no gradients")
        if model.is_random and not model.draws_randomly:
            return build_unread("random answers change the class by themselves (D4)")
        if model.findings is not None and not model.findings.gradients.has_graph:
            return build_unread("no gradient reaches the pixels (D6a)")
        rows, attack = model.correct_rows, PGD(steps=STEPS, loss="margin", random_start=False)
        cost = model.passes_per_query * (sum(attack.estimate_cost(WHOLE_BOX)) + 1)
        n = model.budget.count_images(cost, min(MAX_IMAGES, len(rows)), PASSES_SHARE)
        if n < MIN_IMAGES:
            return build_unread(
                TOO_SMALL_REASON if len(rows) >= MIN_IMAGES else "too few images are classified correctly"
            )
        rows = rows[:n]
        images, labels = model.images[rows], model.labels[rows]
        stream = RandomStream(model.seed, tuple(model.ids[row] for row in rows.tolist()), repr(attack))
        device = model.classifier.device
        with model.classifier.use_batch_size(compute_default_batch_size(images)):
            found = attack.perturb(model.classifier, images.to(device), labels.to(device), WHOLE_BOX, stream)
        robust = int((model.compute_logits(found.cpu().clamp(0, 1)).argmax(dim=1) == labels).sum())
        return self.judge_figures(robust, n, model.classifier.num_classes)

    def judge_figures(self, robust: int, n: int, num_classes: int) -> Reading:
        """Judge the number of images on which the attack failed.

        Args:
            robust: Images that stay correctly classified.
            n: Images attacked.
            num_classes: Number of classes; one in so many is classified correctly by chance.
        """
        chance, share = 1 / num_classes, compute_clopper_pearson(robust, n)
        if share.low <= chance:
            stray = robust > MAX_STRAY_IMAGES
            return Reading(
                status="warn" if stray else "ok",
                sentence="An attack that may change every pixel as it likes leaves "
                f"{format_images(robust, n)} correctly classified, "
                f"{'where sound models leave none' if stray else 'as it should'}.",
                value=robust / n,
                limit=chance,
                n=n,
                action="Run adaptive: gradients may mislead attacks in places." if stray else "",
            )
        return Reading(
            status="fail",
            sentence="An attack that may change every pixel as it likes still fails on "
            f"{format_images(robust, n)}: no model is robust to that, so attacks with gradients do not work "
            "here.",
            value=robust / n,
            limit=chance,
            n=n,
            action="Run an attack that works without gradients: adaptive, or square with 5,000 queries.",
        )
