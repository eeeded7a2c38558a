"""The API's answers and bodies, as its OpenAPI document states them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from robustbench_local.serving.problems import PROBLEM_MEDIA_TYPE
from robustbench_local.serving.request_images import IMAGE_FIELD, IMAGE_MEDIA_TYPES
from robustbench_local.threats.threat_model import CORRUPTIONS

MAX_EPS = 10.0
"""Largest radius of an attack, in pixel units of [0, 1]."""
MAX_SEED = 2**31 - 1
MAX_SEVERITY = 5
DEFAULT_SEVERITY = 3
DEFAULT_STEPS = 20
MAX_TARGETS = 16
BALLS = ("Linf", "L2")
ATTACKS = ("fgsm", "pgd", "square")
_EPS_PATTERN = "^(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])/255$"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Answer):
    """Problem details, RFC 9457."""

    type: Literal["about:blank"]
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    """One line: what is wrong, and what to do."""


class NamedClass(_Answer):
    """A class."""

    index: int = Field(ge=0)
    name: str


class ClassProbability(NamedClass):
    """A class with its probability."""

    probability: float = Field(ge=0, le=1)


class ClassAnswer(_Answer):
    """The answer to one image; ``index`` is null if the image is rejected, or the output is not finite."""

    index: int | None
    name: str | None
    probability: float | None
    rejected: bool
    classes: list[ClassProbability]


class SeenImage(_Answer):
    """The image as the model sees it."""

    height: int
    width: int
    notes: list[str]
    enlarged: bool
    out_of_range: list[str]
    png: str | None


class ImageAnswer(_Answer):
    """The prediction for one image."""

    prediction: ClassAnswer
    comparison: ClassAnswer | None
    input: SeenImage


class PredictResponse(_Answer):
    """The predictions for the images of a request, in their order."""

    model: str
    digest: str
    comparison: str | None
    images: list[ImageAnswer]


class Pictures(_Answer):
    """An adversarial example and its difference from the image, as data URLs of PNG files."""

    clean: str
    adversarial: str
    difference: str
    amplification: int


class Transfer(_Answer):
    """The answer to the adversarial example of the first model, whose attacker does not know this one."""

    from_: str = Field(alias="from")
    answer: ClassAnswer


class Measurements(_Answer):
    """The size of the perturbation, in pixel units of [0, 1], and the attack's cost."""

    linf: float
    l2: float
    forward_passes: int
    backward_passes: int
    success_8bit: bool | None


class AttackResult(_Answer):
    """The verified result of an attack on one model."""

    model: str
    label: NamedClass | None
    clean: ClassAnswer
    outcome: Literal["success", "failure", "misclassified", "not attacked", "error"]
    statement: str
    adversarial: ClassAnswer | None
    transferred: Transfer | None
    pictures: Pictures | None
    measured: Measurements | None
    attack: str | None = None
    threat: str | None = None
    notes: list[str] = []


class AttackResults(_Answer):
    """The results of an attack, the served model first."""

    label_origin: Literal["predicted", "chosen"]
    results: list[AttackResult]


class CertificateSettings(_Answer):
    """A certificate and its ball."""

    method: str
    configuration: str
    norm: str
    eps: float
    threat: str
    error_probability: float
    caveat: str


class CertificateResult(_Answer):
    """What is proven about the answer to an image."""

    model: str
    certified: bool
    class_: NamedClass | None = Field(alias="class")
    radius: float | None
    statement: str
    certificate: CertificateSettings
    concerns: Literal["model", "smoothed"]


class Status(_Answer):
    """The state of the server."""

    status: Literal["ok", "ready"]


class ServedInput(_Answer):
    """The images that a model takes, and what happens to others."""

    model_config = ConfigDict(extra="allow")

    height: int
    width: int
    channels: int
    preparation: str


class ModelCard(_Answer):
    """A served model."""

    name: str
    source: str
    digest: str
    parameters: int | None
    access: str
    classes: list[str]
    can_reject: bool
    input: ServedInput
    certificate: CertificateSettings | None
    measured: list[dict[str, Any]]
    provenance: dict[str, Any]
    notes: list[str]


class Limits(_Answer):
    """The limits of the server."""

    max_images: int
    max_body_bytes: int
    max_pixels: int
    formats: list[str]
    attacks: bool
    max_attack_steps: int
    keeps_images: bool


class ModelCards(_Answer):
    """The served model, the one beside it, the server's limits and its monitoring."""

    model: ModelCard
    comparison: ModelCard | None
    limits: Limits
    drift: dict[str, Any] | None
    version: str


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems of an operation for OpenAPI."""
    schema = {"$ref": "#/components/schemas/Problem"}
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": "Problem", "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
    for status in {429, 503} & set(statuses):
        described[status]["headers"] = {
            "Retry-After": {"schema": {"type": "string"}, "description": "Seconds to wait."}
        }
    return described


def describe_image_body(max_images: int = 1) -> dict[str, Any]:
    """Describe a body that is an image for OpenAPI.

    A form is described in words: as a schema, it could not say that its files are images, and tools that make
    requests of a schema would send anything.

    Args:
        max_images: Largest number of images in a form.
    """
    image = {"schema": {"type": "string", "format": "binary"}}
    form = (
        f"up to {max_images} files named {IMAGE_FIELD}" if max_images > 1 else f"a file named {IMAGE_FIELD}"
    )
    return {
        "required": True,
        "description": f"The bytes of an image. A form (multipart/form-data) with {form} is accepted, too.",
        "content": dict.fromkeys(IMAGE_MEDIA_TYPES, image),
    }


def describe_attack_parameters(max_steps: int, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the query of ``/attack`` for OpenAPI.

    Args:
        max_steps: Largest number of steps.
        class_names: Names of the model's classes.
    """
    index = {"type": "integer", "minimum": 0, "maximum": len(class_names) - 1}
    chosen_class = {"anyOf": [index, {"type": "string", "enum": sorted(set(class_names))}]}
    radius = {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": MAX_EPS},
            {"type": "string", "pattern": _EPS_PATTERN},
        ]
    }
    steps = {"type": "integer", "minimum": 1, "maximum": max_steps}
    parameters: tuple[tuple[str, dict[str, Any], str], ...] = (
        (
            "threat",
            {"type": "string", "enum": [*BALLS, *CORRUPTIONS], "default": "Linf"},
            "The norm of a ball, or a corruption.",
        ),
        (
            "attack",
            {"type": "string", "enum": list(ATTACKS), "default": "pgd"},
            "The method inside a ball; square needs no gradients.",
        ),
        ("eps", {**radius, "default": "8/255"}, "Radius of the ball, in pixel units of [0, 1], or N/255."),
        (
            "severity",
            {"type": "integer", "minimum": 1, "maximum": MAX_SEVERITY, "default": DEFAULT_SEVERITY},
            "Severity of a corruption.",
        ),
        (
            "steps",
            {**steps, "default": min(DEFAULT_STEPS, max_steps)},
            "Steps of PGD; square asks the model 20 times as often.",
        ),
        ("label", chosen_class, "The true class, by index or name; by default the predicted one."),
        (
            "target",
            {"type": "array", "items": chosen_class, "maxItems": MAX_TARGETS},
            "Classes that the attacker aims at, inside a ball; by default any other one.",
        ),
        (
            "seed",
            {"type": "integer", "minimum": 0, "maximum": MAX_SEED, "default": 0},
            "Decides every random draw.",
        ),
    )
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
        for name, schema, text in parameters
    ]
