"""The one interface between an image classifier and every attack, defense and certificate."""

from robustbench_local.classifier.classifier import Access, Classifier, Consistency, Precision

__all__ = ["Access", "Classifier", "Consistency", "Precision"]
