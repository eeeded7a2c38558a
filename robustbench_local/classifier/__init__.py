"""The one interface between an image classifier and every attack, defense and certificate."""

from robustbench_local.classifier.argument_checks import Access
from robustbench_local.classifier.classifier import Classifier
from robustbench_local.classifier.consistency import Consistency
from robustbench_local.classifier.settings import ClassifierSettings, Precision

__all__ = ["Access", "Classifier", "ClassifierSettings", "Consistency", "Precision"]
