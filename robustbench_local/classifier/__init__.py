"""The one interface between an image classifier and every attack, defense and certificate."""

from robustbench_local.classifier.argument_checks import Access
from robustbench_local.classifier.classifier import Classifier, Precision
from robustbench_local.classifier.consistency import Consistency

__all__ = ["Access", "Classifier", "Consistency", "Precision"]
