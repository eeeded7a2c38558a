"""Preparation of photographs of several sizes by the models' own input contracts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import choose_form
from robustbench_local.data.collect import ModelContract
from robustbench_local.data.dataset import has_class_names
from robustbench_local.data.photographs import is_photograph_size, shrinks_photographs
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.grid.schema import ModelEntry
from robustbench_local.evaluation.isolation.isolated_call import call_isolated
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.model_loading import has_foreign_code, load_entry
from robustbench_local.extensions.user_import import import_known_libraries
from robustbench_local.models.endpoint_options import is_url


@dataclass(frozen=True, kw_only=True)
class ContractFinder:
    """Finds the input contract of a grid's models, by loading them."""

    entries: Sequence[ModelEntry]
    """The models of the grid."""
    options: Options
    """The options of the run."""
    base_folder: Path
    """Folder that the grid file's relative paths start from."""

    def find_contract(
        self, class_names: tuple[str, ...], size: tuple[int, int] | None
    ) -> ModelContract | None:
        """Return the contract by which photographs are prepared, with the models that have it.

        Images of several sizes need a contract: that of most models, or of several the first. Images of one
        size are prepared only if all models share a contract that says how, and only shrunk: small images
        are attacked in their own size, and enlarged inside the model.

        Args:
            class_names: Names of the data's classes.
            size: (H, W) of the images; None if they differ.

        Returns:
            None if there is none. Models that cannot be loaded are left out: they are reported when they are
            loaded to be attacked.

        Raises:
            RobustbenchError: If an entry of the grid is wrong.
        """
        if size is not None and not (is_photograph_size(size) and all(map(_may_say_how, self.entries))):
            return None
        shared = self._group_models(class_names)
        if not shared:
            return None
        contract, names = max(shared, key=lambda group: len(group[1]))
        if size is not None and (len(shared) > 1 or not shrinks_photographs(contract, size)):
            return None
        verb = choose_form(len(names), "does", "do")
        return ModelContract(contract=contract, models=f"{_join_names(names)} {verb}")

    def _group_models(self, class_names: tuple[str, ...]) -> list[tuple[InputContract, list[str]]]:
        """Return the different ways to resize and crop, each with the ids of its models, in their order."""
        groups: dict[InputContract, list[str]] = {}
        for entry in self.entries:
            try:
                contract = self._read_contract(entry, class_names)
            except ModelError:
                continue
            if contract.input_size is not None:
                groups.setdefault(contract.geometry, []).append(entry.id)
        return list(groups.items())

    def _read_contract(self, entry: ModelEntry, class_names: tuple[str, ...]) -> InputContract:
        """Load a model and return its contract; in a child process where that may run a user's code."""
        read = partial(self._load_contract, entry, class_names)
        if has_foreign_code(entry):
            import_known_libraries()  # once here, and not again in every child
            return call_isolated(read, timeout=self.options.timeout, name=entry.id)
        return read()

    def _load_contract(self, entry: ModelEntry, class_names: tuple[str, ...]) -> InputContract:
        classifier = load_entry(
            entry,
            device="cpu",
            allow_code=self.options.allow_code,
            default_classes=len(class_names),
            default_class_names=class_names if has_class_names(class_names) else None,
            base_folder=self.base_folder,
        )
        return classifier.contract


def _may_say_how(entry: ModelEntry) -> bool:
    """Return False for models that cannot say how their images are resized, unless the user does."""
    is_stated = entry.preprocessing is not None and entry.preprocessing.resize is not None
    return is_stated or not (has_foreign_code(entry) or is_url(entry.source))


def _join_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
