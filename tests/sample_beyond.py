"""A run with all that is no white-box attack in a ball: distances, black boxes, transfers, corruptions."""

from __future__ import annotations

from sample_run import LINF_8, Plan, Sample

KINDS = ("gaussian_noise", "fog", "jpeg_compression")
SEVERITIES = (1, 3, 5)
MODELS = ("signs-plain", "signs-pgd-at")


def _linf(attack: str, strength: float, **changes) -> Plan:
    ball = {"card": attack, "norm": "Linf", "eps": LINF_8, "threat": "linf-8", "passes": (252, 250)}
    return Plan(attack=attack, strength=strength, **(ball | changes))


def _l2(attack: str, strength: float) -> Plan:
    return Plan(
        attack=attack, card=attack, norm="L2", eps=0.8, threat="l2-0.8", strength=strength,
        passes=(1000, 1000), measure="distance",
    )  # fmt: skip


def _corruption(kind: str, place: int, severity: int) -> Plan:
    name = f"{kind}-{severity}"
    return Plan(
        attack=name, card=name, norm="corruption", eps=float(severity), threat=name,
        strength=0.8 + 0.1 * place, passes=(2, 0), knowledge="labels",
    )  # fmt: skip


ATTACKS = (
    _linf("pgd50-linf-8", 0.8),
    _linf("square-linf-8", 0.97, passes=(5000, 0), knowledge="scores"),
    _linf("hopskipjump-linf-8", 0.6, passes=(10_000, 0), knowledge="labels"),
    _linf("curve-linf-8", 0.79, passes=(45, 45), measure="distance"),
    _l2("ddn-l2-0.8", 0.97),
    _l2("fmn-l2-0.8", 0.93),
    Plan(attack="ead-l1-12", card="ead-l1-12", norm="L1", eps=12.0, threat="l1-12", strength=0.9,
         passes=(900, 900)),
    Plan(attack="spatial-30", card="spatial-30", norm="spatial", eps=30.0, threat="spatial-30", strength=0.8,
         passes=(776, 0), knowledge="labels"),
)  # fmt: skip
TRANSFERS = tuple(
    _linf(f"mi-fgsm-linf-8[from={model}]", 0.97, passes=(2, 0), knowledge="transfer",
          surrogate=model, card="mi-fgsm-linf-8")
    for model in MODELS
)  # fmt: skip
CORRUPTIONS = tuple(
    _corruption(kind, place, severity) for place, kind in enumerate(KINDS) for severity in SEVERITIES
)
BEYOND = Sample(
    models=MODELS,
    plans=(*ATTACKS, *TRANSFERS, *CORRUPTIONS),
    failing=None,
    pictures=False,
    statuses={(model, f"mi-fgsm-linf-8[from={model}]"): "skipped" for model in MODELS},
)
