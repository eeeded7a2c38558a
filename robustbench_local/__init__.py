"""robustbench_local: how often is a classifier right when someone works against it, and how sure are we?"""

from importlib.metadata import version

from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.foreign import AutoAttack
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.sources import load_dataset
from robustbench_local.errors import RobustbenchError
from robustbench_local.evaluation.evaluate import EvaluationResult, evaluate
from robustbench_local.models.sources import load_classifier
from robustbench_local.run import Run, run_grid
from robustbench_local.statistics import Estimate
from robustbench_local.threat import ThreatModel

__version__ = version("robustbench-local")

__all__ = [
    "FGSM",
    "PGD",
    "AutoAttack",
    "Classifier",
    "Dataset",
    "Estimate",
    "EvaluationResult",
    "RobustbenchError",
    "Run",
    "ThreatModel",
    "__version__",
    "evaluate",
    "load_classifier",
    "load_dataset",
    "run_grid",
]
