"""robustbench_local: how often is a classifier right when someone works against it, and how sure are we?"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from robustbench_local.attacks.adapters.libraries import ReferenceAutoAttack, TorchattacksAttack
    from robustbench_local.attacks.adaptive.adaptive import Adaptive
    from robustbench_local.attacks.apgd.apgd import APGD
    from robustbench_local.attacks.apgd.targeted import APGDT
    from robustbench_local.attacks.base import Attack
    from robustbench_local.attacks.black_box.boundary import Boundary
    from robustbench_local.attacks.black_box.hopskipjump import HopSkipJump
    from robustbench_local.attacks.black_box.spsa import SPSA
    from robustbench_local.attacks.corruption import Corruption
    from robustbench_local.attacks.ensembles.apgd_ce_t import APGDCET
    from robustbench_local.attacks.ensembles.autoattack import AutoAttack
    from robustbench_local.attacks.fgsm import FGSM
    from robustbench_local.attacks.minimum_norm.curve import Curve
    from robustbench_local.attacks.minimum_norm.cw import CW
    from robustbench_local.attacks.minimum_norm.ddn import DDN
    from robustbench_local.attacks.minimum_norm.deepfool import DeepFool
    from robustbench_local.attacks.minimum_norm.ead import EAD
    from robustbench_local.attacks.minimum_norm.fab import FAB
    from robustbench_local.attacks.minimum_norm.fmn import FMN
    from robustbench_local.attacks.minimum_norm.pdpgd import PDPGD
    from robustbench_local.attacks.pgd import PGD
    from robustbench_local.attacks.physical.patch import Patch
    from robustbench_local.attacks.physical.sticker import Sticker
    from robustbench_local.attacks.sparse.sigma_zero import SigmaZero, SigmaZeroBall
    from robustbench_local.attacks.sparse.sparse_rs import SparseRS
    from robustbench_local.attacks.spatial import Spatial
    from robustbench_local.attacks.square.square import Square
    from robustbench_local.attacks.transfer.di_fgsm import DIFGSM
    from robustbench_local.attacks.transfer.mi_fgsm import MIFGSM
    from robustbench_local.attacks.transfer.ti_fgsm import TIFGSM
    from robustbench_local.attacks.transfer.vmi_fgsm import VMIFGSM
    from robustbench_local.certification.base import Certificate, CertifiedBatch
    from robustbench_local.certification.bound_propagation.crown import CROWN
    from robustbench_local.certification.bound_propagation.ibp import IBP
    from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
    from robustbench_local.classifier import Classifier
    from robustbench_local.compare import ComparisonReport, compare_runs
    from robustbench_local.data.data_sources import load_dataset
    from robustbench_local.data.dataset import Dataset
    from robustbench_local.defenses.recipes.base import Recipe
    from robustbench_local.defenses.wrappers.base import FixedWrapper, RandomWrapper, Wrapper
    from robustbench_local.defenses.wrappers.wrapper_registry import defend
    from robustbench_local.errors import RobustbenchError
    from robustbench_local.evaluation.adversarial_examples import AdversarialExamples, attack
    from robustbench_local.evaluation.certify import CertificationResult, certify
    from robustbench_local.evaluation.evaluate import EvaluationResult, evaluate
    from robustbench_local.evaluation.options import Options
    from robustbench_local.merging.merge_runs import merge_runs
    from robustbench_local.models.model_sources import load_classifier
    from robustbench_local.randomness import RandomStream as Stream
    from robustbench_local.run import Run, run_grid
    from robustbench_local.statistics import Estimate
    from robustbench_local.threats.threat_model import ThreatModel

__all__ = [
    "APGD",
    "APGDCET",
    "APGDT",
    "CROWN",
    "CW",
    "DDN",
    "DIFGSM",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "IBP",
    "MIFGSM",
    "PDPGD",
    "PGD",
    "SPSA",
    "TIFGSM",
    "VMIFGSM",
    "Adaptive",
    "AdversarialExamples",
    "Attack",
    "AutoAttack",
    "Boundary",
    "Certificate",
    "CertificationResult",
    "CertifiedBatch",
    "Classifier",
    "ComparisonReport",
    "Corruption",
    "Curve",
    "Dataset",
    "DeepFool",
    "Estimate",
    "EvaluationResult",
    "FixedWrapper",
    "HopSkipJump",
    "Options",
    "Patch",
    "RandomWrapper",
    "Recipe",
    "ReferenceAutoAttack",
    "RobustbenchError",
    "Run",
    "SigmaZero",
    "SigmaZeroBall",
    "Smoothing",
    "SparseRS",
    "Spatial",
    "Square",
    "Sticker",
    "Stream",
    "ThreatModel",
    "TorchattacksAttack",
    "Wrapper",
    "__version__",
    "attack",
    "certify",
    "compare_runs",
    "defend",
    "evaluate",
    "load_classifier",
    "load_dataset",
    "merge_runs",
    "run_grid",
]

# Looked up when first asked for: reading a report or listing cards should not wait for torch.
_MODULE_BY_NAME = {
    "APGD": "attacks.apgd.apgd",
    "APGDCET": "attacks.ensembles.apgd_ce_t",
    "APGDT": "attacks.apgd.targeted",
    "Adaptive": "attacks.adaptive.adaptive",
    "AdversarialExamples": "evaluation.adversarial_examples",
    "Attack": "attacks.base",
    "AutoAttack": "attacks.ensembles.autoattack",
    "Boundary": "attacks.black_box.boundary",
    "CROWN": "certification.bound_propagation.crown",
    "CW": "attacks.minimum_norm.cw",
    "Certificate": "certification.base",
    "CertificationResult": "evaluation.certify",
    "CertifiedBatch": "certification.base",
    "Classifier": "classifier",
    "ComparisonReport": "compare",
    "Corruption": "attacks.corruption",
    "Curve": "attacks.minimum_norm.curve",
    "DDN": "attacks.minimum_norm.ddn",
    "DIFGSM": "attacks.transfer.di_fgsm",
    "Dataset": "data.dataset",
    "DeepFool": "attacks.minimum_norm.deepfool",
    "EAD": "attacks.minimum_norm.ead",
    "Estimate": "statistics",
    "EvaluationResult": "evaluation.evaluate",
    "FAB": "attacks.minimum_norm.fab",
    "FGSM": "attacks.fgsm",
    "FMN": "attacks.minimum_norm.fmn",
    "FixedWrapper": "defenses.wrappers.base",
    "HopSkipJump": "attacks.black_box.hopskipjump",
    "IBP": "certification.bound_propagation.ibp",
    "MIFGSM": "attacks.transfer.mi_fgsm",
    "Options": "evaluation.options",
    "PDPGD": "attacks.minimum_norm.pdpgd",
    "PGD": "attacks.pgd",
    "Patch": "attacks.physical.patch",
    "RandomWrapper": "defenses.wrappers.base",
    "Recipe": "defenses.recipes.base",
    "ReferenceAutoAttack": "attacks.adapters.libraries",
    "RobustbenchError": "errors",
    "Run": "run",
    "SPSA": "attacks.black_box.spsa",
    "SigmaZero": "attacks.sparse.sigma_zero",
    "SigmaZeroBall": "attacks.sparse.sigma_zero",
    "SparseRS": "attacks.sparse.sparse_rs",
    "Smoothing": "certification.randomized_smoothing.smoothing_certificate",
    "Spatial": "attacks.spatial",
    "Square": "attacks.square.square",
    "Sticker": "attacks.physical.sticker",
    "Stream": "randomness",
    "TIFGSM": "attacks.transfer.ti_fgsm",
    "ThreatModel": "threats.threat_model",
    "TorchattacksAttack": "attacks.adapters.libraries",
    "VMIFGSM": "attacks.transfer.vmi_fgsm",
    "Wrapper": "defenses.wrappers.base",
    "attack": "evaluation.adversarial_examples",
    "certify": "evaluation.certify",
    "compare_runs": "compare",
    "defend": "defenses.wrappers.wrapper_registry",
    "evaluate": "evaluation.evaluate",
    "load_classifier": "models.model_sources",
    "load_dataset": "data.data_sources",
    "merge_runs": "merging.merge_runs",
    "run_grid": "run",
}
_NAME_IN_MODULE = {"Stream": "RandomStream"}
"""Public names that their module spells out."""
_SUBMODULES = frozenset(module.name for module in iter_modules(__path__))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("robustbench-local")
    if name in _MODULE_BY_NAME:
        module = import_module(f"{__name__}.{_MODULE_BY_NAME[name]}")
        return getattr(module, _NAME_IN_MODULE.get(name, name))
    if name in _SUBMODULES:  # the same before the first import of it as after
        return import_module(f"{__name__}.{name}")
    raise AttributeError(_describe_unknown_name(name))


def __dir__() -> list[str]:
    return sorted(__all__)


def _describe_unknown_name(name: str) -> str:
    """One line for a name that is not public, with the nearest one that is."""
    message = f"module {__name__!r} has no attribute {name!r}"
    if name.startswith("_"):
        return message
    errors = import_module(f"{__name__}.errors")
    return f"{message}; {errors.did_you_mean(name, __all__)}"
