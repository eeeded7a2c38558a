"""The one interface between an image classifier and every attack, defense and certificate."""

from typing import TYPE_CHECKING

from robustbench_local.classifier.literals import Access, Precision
from robustbench_local.lazy_names import make_module_getattr

if TYPE_CHECKING:
    from robustbench_local.classifier.classifier import Classifier
    from robustbench_local.classifier.consistency import Consistency
    from robustbench_local.classifier.settings import ClassifierSettings

__all__ = ["Access", "Classifier", "ClassifierSettings", "Consistency", "Precision"]

__getattr__ = make_module_getattr(
    __name__, {"Classifier": "classifier", "ClassifierSettings": "settings", "Consistency": "consistency"}
)
