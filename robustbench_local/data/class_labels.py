"""Labels: mapping the data's classes to the model's class indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from robustbench_local.config.class_lookup import normalize_class_name
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import MAX_CLASSES, Dataset, build_class_names, format_rows
from robustbench_local.errors import DataError


def fit_labels(dataset: Dataset, num_classes: int, class_names: Sequence[str] | None = None) -> Dataset:
    """Convert the labels to the model's class indices, or refuse before any attack.

    The first rule that applies is used:

    1. Both have names, and the model has each class of the data: match by name, in any order. Where the model
       has synonyms, as in ``"tench, Tinca tinca"``, one of them is enough. Names of a model such as ``"1",
       "2", "0"`` are numbers of the data's classes, in another order.
    2. Both have the same number of classes: keep the indices.
    3. The data has no names and all its labels are below ``num_classes``: keep the indices.
    4. The data has exactly ``num_classes`` different labels, with gaps: close the gaps, with a note.

    Args:
        dataset: The data, with the labels of its source.
        num_classes: Number of logits of the model.
        class_names: The model's class names, if it has any.

    Returns:
        The data with labels in ``range(num_classes)``, ``class_names`` of that length, and a ``label_map``
        from the source's labels to the model's indices.

    Raises:
        DataError: If no rule applies (F16), a label has no class (F36), a name matches several classes, or
            common names have different indices while other names are unknown.
    """
    names = tuple(class_names or ())
    if names == build_class_names(len(names)):
        names = ()
    known = _find_known_labels(dataset)
    if names and (dataset.has_class_names or _are_class_numbers(names)):
        by_name = _match_names(dataset, known, names)
        if by_name is not None:
            has_moved = any(source != target for source, target in by_name.items())
            note = "labels were matched to the model's classes by name" if has_moved else None
            return _apply_mapping(dataset, by_name, names, note)
    if dataset.num_classes == num_classes:
        note = _check_positions(dataset, known, names)
        new_names = dataset.class_names if dataset.has_class_names or not names else names
        return _apply_mapping(dataset, {label: label for label in known}, new_names, note)
    if not dataset.has_class_names and max(known) < num_classes:
        return _apply_mapping(
            dataset, {label: label for label in known}, names or build_class_names(num_classes), None
        )
    if len(known) == num_classes and (dataset.label_map or not dataset.has_class_names):
        closed = {label: position for position, label in enumerate(known)}
        new_names = tuple(dataset.class_names[label] for label in known)
        note = (
            f"the data's {num_classes} different labels were numbered 0 to {num_classes - 1} in their order"
        )
        return _apply_mapping(dataset, closed, names or new_names, note)
    raise _build_misfit_error(dataset, known, num_classes, names)


def index_labels(names: Iterable[str], where: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Number the labels of a source (F35).

    Args:
        names: The labels as written in the source.
        where: Name of the source in messages.

    Returns:
        Label -> class index, and the name of each index. If all labels are numbers, they are the indices,
        including gaps; otherwise they are numbered in alphabetical order.

    Raises:
        DataError: If two labels are the same number.
    """
    ordered = sorted(set(names))
    if not all(name.isdecimal() and int(name) < MAX_CLASSES for name in ordered):
        return {name: index for index, name in enumerate(ordered)}, tuple(ordered)
    label_map = {name: int(name) for name in sorted(ordered, key=int)}
    if len(set(label_map.values())) < len(label_map):
        raise DataError(f"two labels are the same number: {', '.join(label_map)}", where=where)
    return label_map, build_class_names(max(label_map.values(), default=0) + 1)


def describe_class_difference(first: Dataset, second: Dataset) -> str | None:
    """Describe why two models, each with the same data fitted to it, do not share class indices.

    Args:
        first: The data that :func:`fit_labels` fitted to one model.
        second: The same for the other model.

    Returns:
        The difference, in words; None if an index means the same class to both, as far as names tell.
    """
    if first.num_classes != second.num_classes:
        return f"it has {format_count(first.num_classes, 'class')}, the other model {second.num_classes}"
    if first.has_class_names and second.has_class_names:
        for index, (mine, other) in enumerate(zip(first.class_names, second.class_names, strict=True)):
            if normalize_class_name(mine) != normalize_class_name(other):
                return f"its class {index} is {mine!r}, the other model's {other!r}"
    if first.label_map != second.label_map or not torch.equal(first.labels, second.labels):
        return "it numbers the data's classes differently"
    return None


def _find_known_labels(dataset: Dataset) -> list[int]:
    """Return the classes with images in the source, independent of the selected images."""
    present = torch.bincount(dataset.labels).nonzero().flatten().tolist()
    return sorted({*dataset.label_map.values(), *present})


def _are_class_numbers(names: Sequence[str]) -> bool:
    """Return whether a model's names, but for some such as a background, are the numbers from 0 on."""
    numbers = [name for name in names if name.isdecimal()]
    return len(numbers) > 1 and set(numbers) == set(build_class_names(len(numbers)))


def _match_names(dataset: Dataset, known: Sequence[int], names: Sequence[str]) -> dict[int, int] | None:
    """Map each label to the model's class of that name; None if the model lacks a name."""
    indices: dict[str, list[int]] = {}
    synonyms: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(normalize_class_name(name), []).append(index)
        for synonym in dict.fromkeys(map(normalize_class_name, name.split(","))):
            synonyms.setdefault(synonym, []).append(index)
    mapping: dict[int, int] = {}
    for label in known:
        name = dataset.class_names[label]
        key = normalize_class_name(name)
        matches = indices.get(key) or synonyms.get(key, [])
        if not matches:
            return None
        if len(matches) > 1 and label not in matches:
            what = f"the class {name!r} matches {len(matches)} of the model's classes: {matches}"
            raise DataError(
                what, where=dataset.name, remedy="rename the class, or give the labels as numbers"
            )
        mapping[label] = label if label in matches else matches[0]
    if len(set(mapping.values())) < len(mapping):
        raise DataError(
            "two classes of the data have the same name", where=dataset.name, remedy="rename one of them"
        )
    return mapping


def _check_positions(dataset: Dataset, known: Sequence[int], names: Sequence[str]) -> str | None:
    """Refuse to match by position if a common name contradicts it; return a note if names differ."""
    if not names or not dataset.has_class_names:
        return None
    keys = [normalize_class_name(name) for name in names]
    for label in known:
        key = normalize_class_name(dataset.class_names[label])
        if key in keys and keys[label] != key:
            other = keys.index(key)
            name = dataset.class_names[label]
            what = f"the class {name!r} is number {label} in the data and {other} in the model"
            unknown = next(name for name in dataset.class_names if normalize_class_name(name) not in keys)
            remedy = f"give all classes the model's names; it has no {unknown!r}"
            raise DataError(what, where=dataset.name, remedy=remedy)
    return "the data and the model name some classes differently: classes were matched by their numbers"


def _apply_mapping(
    dataset: Dataset, mapping: Mapping[int, int], names: Sequence[str], note: str | None
) -> Dataset:
    table = torch.arange(dataset.num_classes)
    table[list(mapping)] = torch.tensor(list(mapping.values()))
    source = dataset.label_map or {dataset.class_names[label]: label for label in mapping}
    return replace(
        dataset,
        labels=table[dataset.labels],
        class_names=tuple(names),
        label_map={label: mapping[index] for label, index in source.items()},
        notes=(*dataset.notes, note) if note else dataset.notes,
    )


def _build_misfit_error(
    dataset: Dataset, known: Sequence[int], num_classes: int, names: Sequence[str]
) -> DataError:
    """Explain why the labels do not fit the model's classes; named data count all their names."""
    classes = range(dataset.num_classes) if dataset.has_class_names else known
    if names:
        remedy = "rename the data's classes to the model's class names"
    elif dataset.has_class_names:
        remedy = "give the model class_names, by which labels are matched"
    else:
        remedy = "give data with the model's classes"
    remedy += f", or load a model with num_classes {len(classes)}"
    wrong = dataset.labels >= num_classes
    where = f"{dataset.name}, {format_rows(wrong)}" if wrong.any() else dataset.name
    data_sample = _format_sample([dataset.class_names[label] for label in classes])
    if len(known) < len(classes):
        data_sample += f"; {len(known)} occur"
    model_sample = f"({_format_sample(names)})" if names else "(without names)"
    what = (
        f"the data has {format_count(len(classes), 'class')} ({data_sample}) and the model has "
        f"{num_classes} {model_sample}"
    )
    return DataError(what, where=where, remedy=remedy)


def _format_sample(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
