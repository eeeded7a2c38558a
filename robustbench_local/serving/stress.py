"""The stress of an image: attacks by the package's engine, with its verification, on one image.

Every model is attacked by itself, with full access (white-box). What a defended model says to the adversarial
example of another model is shown beside it, and is no measure of its robustness: that attacker does not know
the defense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.certify import certify
from robustbench_local.evaluation.evaluate import EvaluationResult, evaluate
from robustbench_local.serving.certificate_choice import ServedCertificate
from robustbench_local.serving.prediction import encode_png, read_answers
from robustbench_local.serving.served_model import ServedModel

StressAttack = Literal["fgsm", "pgd", "square", "corruption"]
MAX_AMPLIFICATION = 64
"""Largest factor that a difference is multiplied by for its picture."""
_MIDDLE_GRAY = 0.5


@dataclass(frozen=True, kw_only=True)
class StressRequest:
    """An attack on one image; everything in it has been checked, and it can be pickled."""

    images: Mapping[str, Tensor]
    """Model -> the image as that model sees it, (1, C, H, W) in [0, 1]."""
    attack: StressAttack
    """The method."""
    norm: str
    """``Linf``, ``L2`` or ``corruption``."""
    eps: float
    """Radius in pixel units of [0, 1], or the severity of a corruption, 1 to 5."""
    transformation: str = ""
    """The corruption."""
    steps: int = 20
    """Steps of PGD, or queries of Square."""
    label: int | None = None
    """The class that the image counts as; None: what each model predicts for the clean image."""
    targets: tuple[int, ...] = ()
    """Classes that the attacker aims at; empty: any other class."""
    seed: int = 0
    """Decides every random draw."""


@dataclass(frozen=True, kw_only=True)
class CertifyRequest:
    """A certificate for one image; it can be pickled."""

    image: Tensor
    """(1, C, H, W) in [0, 1]."""
    seed: int = 0
    """Decides every random draw."""


def stress_image(models: Sequence[ServedModel], request: StressRequest) -> dict[str, Any]:
    """Attack an image on every model.

    Args:
        models: The served models, the first one first.
        request: The attack.

    Returns:
        For JSON: the label and the result of each model.

    Raises:
        RobustbenchError: If attack and threat model do not fit a model.
    """
    results = []
    first_example: Tensor | None = None
    for model in models:
        result, example = _stress_model(model, request)
        if first_example is None:
            first_example = example
        elif first_example.shape == example.shape:
            result["transferred"] = {
                "from": models[0].name,
                "answer": _answer_image(model, first_example),
            }
        results.append(result)
    return {"results": results}


def _stress_model(model: ServedModel, request: StressRequest) -> tuple[dict[str, Any], Tensor]:
    """Attack an image on one model; return its result and the adversarial example, (1, C, H, W)."""
    image = request.images[model.name]
    clean = read_answers(model, model.compute_logits(image))[0]
    label = clean.class_index if request.label is None else request.label
    names = model.class_names
    about: dict[str, Any] = {
        "model": model.name,
        "label": None if label is None else {"index": label, "name": names[label]},
        "clean": clean.to_json(names, 3),
        "transferred": None,
    }
    if label is None:
        unknown = {"outcome": "not attacked", "statement": "The model gives no class to attack."}
        return {**about, **unknown, "adversarial": None, "pictures": None, "measured": None}, image
    if label in request.targets:
        statement = f"The image already counts as a target: {names[label]}."
        unknown = {"outcome": "not attacked", "statement": statement}
        return {**about, **unknown, "adversarial": None, "pictures": None, "measured": None}, image
    result = _attack_image(model, request, image, label)
    example = result.adversarial_examples
    row = result.outcomes.iloc[0]
    adversarial = read_answers(model, model.compute_logits(example))[0]
    outcome = _find_outcome(result)
    about |= {
        "outcome": outcome,
        "statement": _describe_outcome(outcome, result, names),
        "adversarial": adversarial.to_json(names, 3),
        "pictures": build_pictures(image, example),
        "measured": {
            "linf": float(row["linf"]),
            "l2": float(row["l2"]),
            "forward_passes": int(row["forward_passes"]),
            "backward_passes": int(row["backward_passes"]),
            "success_8bit": None if row["broken_8bit"] is None else bool(row["broken_8bit"]),
        },
        "attack": repr(result.attack),
        "threat": result.threat.name,
        "notes": list(result.notes),
    }
    return about, example


def _attack_image(model: ServedModel, request: StressRequest, image: Tensor, label: int) -> EvaluationResult:
    parameters: dict[str, Any] = {}
    if request.attack == "pgd":
        # towards a set of targets, the margin: as the card of the attack from stop to speed limit
        parameters = {"steps": request.steps, "loss": "margin" if request.targets else "ce"}
    elif request.attack == "square":
        parameters = {"queries": max(2, request.steps)}
    return evaluate(
        model.classifier,
        image,
        torch.tensor([label]),
        attack=request.attack,
        norm=request.norm,
        eps=request.eps,
        transformation=request.transformation or None,
        targets=request.targets,
        seed=request.seed,
        diagnostics=False,
        **parameters,
    )


def _find_outcome(result: EvaluationResult) -> str:
    """Return the outcome of the only image as one word or two."""
    row = result.outcomes.iloc[0]
    if row["status"] == "error":
        return "error"
    if not row["clean_correct"]:
        return "misclassified"
    return "success" if row["broken"] else "failure"


def _describe_outcome(outcome: str, result: EvaluationResult, names: Sequence[str]) -> str:
    """Describe the outcome in one sentence; only a verified candidate counts."""
    row = result.outcomes.iloc[0]
    read = row["adversarial_prediction"]
    read_name = "an output that is not finite" if read is None or read != read else names[int(read)]  # noqa: PLR0124 - NaN
    passes = format_count(int(row["forward_passes"]) + int(row["backward_passes"]), "pass")
    goal = ", a target" if result.threat.targets else ""
    if outcome == "error":
        return f"The attack failed with an error: {row['error']}."
    if outcome == "misclassified":
        return "The image is misclassified without any attack."
    if outcome == "success":
        return f"The attack succeeds, verified: misclassified as {read_name}{goal}."
    return f"No adversarial example was found in {passes}. That is no proof: a stronger attack may succeed."


def build_pictures(image: Tensor, example: Tensor) -> dict[str, Any]:
    """Build the pictures of an adversarial example.

    Args:
        image: (1, C, H, W) in [0, 1].
        example: Same shape.

    Returns:
        Data URLs of the image, of the example, rounded to 8 bits, and of the difference around middle gray,
        multiplied by a whole number, ``amplification``, so that its largest value just fits.
    """
    difference = example[0] - image[0]
    largest = float(difference.abs().max())
    amplification = MAX_AMPLIFICATION if largest == 0 else max(1, int(_MIDDLE_GRAY / largest))
    amplification = min(MAX_AMPLIFICATION, amplification)
    return {
        "clean": encode_png(image[0]),
        "adversarial": encode_png(example[0]),
        "difference": encode_png(_MIDDLE_GRAY + amplification * difference),
        "amplification": amplification,
    }


def _answer_image(model: ServedModel, image: Tensor) -> dict[str, Any]:
    return read_answers(model, model.compute_logits(image))[0].to_json(model.class_names, 3)


def certify_image(model: ServedModel, request: CertifyRequest) -> dict[str, Any]:
    """Certify the answer of a model to one image.

    Args:
        model: A model with a certificate.
        request: The image.

    Returns:
        For JSON: whether the predicted class is certified in the ball, its certified radius where the method
        gives one, and what the certificate says.

    Raises:
        RobustbenchError: If the model cannot be certified.
    """
    served = model.certificate
    assert isinstance(served, ServedCertificate)  # noqa: S101 - the caller has checked
    clean = read_answers(model, model.compute_logits(request.image))[0]
    label = 0 if clean.class_index is None else clean.class_index
    result = _certify_class(model, served, request, label)
    predicted = result.predictions[0]
    if predicted is not None and predicted != label:  # a vote may have another winner than the network
        result = _certify_class(model, served, request, predicted)
    row = result.outcomes.iloc[0]
    names = model.class_names
    radius = result.radii[0]
    return {
        "model": model.name,
        "certified": bool(row["certified"]),
        "class": None if predicted is None else {"index": predicted, "name": names[predicted]},
        "radius": None if radius is None or radius != radius else radius,  # noqa: PLR0124 - NaN
        "statement": _describe_certificate(bool(row["certified"]), predicted, radius, served, names),
        "certificate": dict(served.settings),
        "concerns": result.concerns,
    }


def _certify_class(model: ServedModel, served: ServedCertificate, request: CertifyRequest, label: int) -> Any:
    return certify(
        model.classifier,
        request.image,
        torch.tensor([label]),
        certificate=served.certificate,
        norm=served.threat.norm,
        eps=served.threat.eps,
        seed=request.seed,
    )


def _describe_certificate(
    is_certified: bool,
    predicted: int | None,
    radius: float | None,
    served: ServedCertificate,
    names: Sequence[str],
) -> str:
    """Describe a certificate in one sentence."""
    if predicted is None:
        return "The certificate abstains: no class has a proven majority of the votes."
    name = names[predicted]
    if radius is not None and radius > 0:
        return f"Certified: {name} within {served.threat.norm} radius {radius:.3f}."
    if is_certified:
        return f"Certified: {name} within {served.threat.name}."
    return f"Not certified: nothing is proven about {name} within {served.threat.name}."
