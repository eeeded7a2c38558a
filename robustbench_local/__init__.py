"""robustbench_local: how often is a classifier right when someone works against it, and how sure are we?"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from robustbench_local.attacks.ensembles.autoattack import AutoAttack
    from robustbench_local.attacks.fgsm import FGSM
    from robustbench_local.attacks.pgd import PGD
    from robustbench_local.classifier import Classifier
    from robustbench_local.data.data_sources import load_dataset
    from robustbench_local.data.dataset import Dataset
    from robustbench_local.defenses.wrappers.wrapper_registry import defend
    from robustbench_local.errors import RobustbenchError
    from robustbench_local.evaluation.certify import CertificationResult, certify
    from robustbench_local.evaluation.evaluate import EvaluationResult, evaluate
    from robustbench_local.models.model_sources import load_classifier
    from robustbench_local.run import Run, run_grid
    from robustbench_local.statistics import Estimate
    from robustbench_local.threats.threat_model import ThreatModel

__all__ = [
    "FGSM",
    "PGD",
    "AutoAttack",
    "CertificationResult",
    "Classifier",
    "Dataset",
    "Estimate",
    "EvaluationResult",
    "RobustbenchError",
    "Run",
    "ThreatModel",
    "__version__",
    "certify",
    "defend",
    "evaluate",
    "load_classifier",
    "load_dataset",
    "run_grid",
]

# Looked up when first asked for: reading a report or listing cards should not wait for torch.
_MODULE_BY_NAME = {
    "FGSM": "attacks.fgsm",
    "PGD": "attacks.pgd",
    "AutoAttack": "attacks.ensembles.autoattack",
    "CertificationResult": "evaluation.certify",
    "Classifier": "classifier",
    "Dataset": "data.dataset",
    "Estimate": "statistics",
    "EvaluationResult": "evaluation.evaluate",
    "RobustbenchError": "errors",
    "Run": "run",
    "ThreatModel": "threats.threat_model",
    "certify": "evaluation.certify",
    "defend": "defenses.wrappers.wrapper_registry",
    "evaluate": "evaluation.evaluate",
    "load_classifier": "models.model_sources",
    "load_dataset": "data.data_sources",
    "run_grid": "run",
}


_SUBMODULES = frozenset(module.name for module in iter_modules(__path__))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("robustbench-local")
    if name in _MODULE_BY_NAME:
        return getattr(import_module(f"{__name__}.{_MODULE_BY_NAME[name]}"), name)
    if name in _SUBMODULES:  # the same before the first import of it as after
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
