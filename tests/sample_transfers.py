"""A run with all that is no white-box attack in a ball: distances, black boxes, transfers, corruptions."""

from __future__ import annotations

from sample_run import EPS_8_OF_255, SamplePlan, SampleRun

CORRUPTION_NAMES = ("gaussian_noise", "fog", "jpeg_compression")
SEVERITIES = (1, 3, 5)
MODELS = ("signs-plain", "signs-pgd-at")


def _plan_linf(attack: str, strength: float, **changes) -> SamplePlan:
    ball = {
        "card": attack,
        "norm": "Linf",
        "eps": EPS_8_OF_255,
        "threat": "linf-8",
        "passes_per_image": (252, 250),
    }
    return SamplePlan(attack=attack, strength=strength, **(ball | changes))


def _plan_l2(attack: str, strength: float) -> SamplePlan:
    return SamplePlan(
        attack=attack, card=attack, norm="L2", eps=0.8, threat="l2-0.8", strength=strength,
        passes_per_image=(1000, 1000), measure="distance",
    )  # fmt: skip


def _plan_corruption(kind: str, place: int, severity: int) -> SamplePlan:
    name = f"{kind}-{severity}"
    return SamplePlan(
        attack=name, card=name, norm="corruption", eps=float(severity), threat=name,
        strength=0.8 + 0.1 * place, passes_per_image=(2, 0), knowledge="labels",
    )  # fmt: skip


ATTACKS = (
    _plan_linf("pgd50-linf-8", 0.8),
    _plan_linf("square-linf-8", 0.97, passes_per_image=(5000, 0), knowledge="scores"),
    _plan_linf("hopskipjump-linf-8", 0.6, passes_per_image=(10_000, 0), knowledge="labels"),
    _plan_linf("curve-linf-8", 0.79, passes_per_image=(45, 45), measure="distance"),
    _plan_l2("ddn-l2-0.8", 0.97),
    _plan_l2("fmn-l2-0.8", 0.93),
    SamplePlan(attack="ead-l1-12", card="ead-l1-12", norm="L1", eps=12.0, threat="l1-12", strength=0.9,
         passes_per_image=(900, 900)),
    SamplePlan(attack="spatial-30", card="spatial-30", norm="spatial", eps=30.0, threat="spatial-30",
         strength=0.8, passes_per_image=(776, 0), knowledge="labels"),
)  # fmt: skip
TRANSFERS = tuple(
    _plan_linf(f"mi-fgsm-linf-8[from={model}]", 0.97, passes_per_image=(2, 0), knowledge="transfer",
          surrogate=model, card="mi-fgsm-linf-8")
    for model in MODELS
)  # fmt: skip
CORRUPTIONS = tuple(
    _plan_corruption(kind, place, severity)
    for place, kind in enumerate(CORRUPTION_NAMES)
    for severity in SEVERITIES
)
TRANSFER_SAMPLE = SampleRun(
    models=MODELS,
    plans=(*ATTACKS, *TRANSFERS, *CORRUPTIONS),
    failing_cell=None,
    has_images=False,
    statuses={(model, f"mi-fgsm-linf-8[from={model}]"): "skipped" for model in MODELS},
)
