"""Detection of the class folders in a folder of images: its own sub-folders, or those of a split."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.data.image_files import is_image_file
from robustbench_local.errors import DataError


def _parse_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NO_SPLIT = "none"
"""Value of ``split`` that declares the sub-folders to be classes, whatever their names."""
_STANDARD_SPLITS: tuple[tuple[str, ...], ...] = (
    ("train", "training"),
    ("val", "valid", "validation"),
    ("test", "testing"),
)
"""Folder names that always denote a split; each row is one split."""
_STANDARD_SPLIT_NAMES = {name for names in _STANDARD_SPLITS for name in names}
_SPLIT_WORDS_BY_SPLIT: Mapping[str, str] = {
    "train": (
        "train training trainset trainingset traindata trn tr entrenamiento entrainement apprentissage "
        "treino treinamento addestramento lernen trainieren обучение тренировка 训练 訓練 训练集 学習 "
        "학습 تدريب"
    ),
    "val": (
        "val vali valid valset validate validation validating validationset dev devel develop development "
        "validacion validacao validazione validierung валидация проверка 验证 驗證 验证集 検証 검증"
    ),
    "test": (
        "test tests testing tst te testset testdata eval evaluation evaluate evaluating prueba pruebas teste "
        "prova essai тест тестирование 测试 測試 测试集 テスト 테스트 اختبار"
    ),
    "holdout": "holdout heldout",
    "fold": "fold folds split splits cv kfold",
}
"""Words that name a split; other spellings are recognized by their sub-folders."""
_FILLER_WORDS = _parse_words(
    "set sets data dataset datasets images image img imgs pictures photos samples subset part partition "
    "final full clean raw new old small large labeled labelled unlabeled"
)
"""Words that may accompany them: ``test_images``, ``Train data``, ``training-set-2``."""
_IMAGE_FOLDER_WORDS = _parse_words(
    "image images img imgs jpg jpeg jpegs jpegimages png pngs data frames photo photos picture pictures "
    "files rgb raw"
)
"""Names of folders that only hold a class's images: ``n01443537/images/``."""
_MAX_NAMED, _MAX_CHOICES = 5, 20


@dataclass(frozen=True)
class _FolderLevel:
    """One level of folders; folders without images are omitted."""

    subfolders: Mapping[str, tuple[str, ...]]
    """Folder -> names of its sub-folders that hold images."""
    image_folders: Mapping[str, frozenset[str]]
    """Folder -> names of all folders below it, at any depth, that hold images directly."""
    folders_with_images: frozenset[str]
    """Folders that hold images directly, with or without sub-folders."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.subfolders)


def find_classes(folder: Path, split: str, where: str) -> tuple[Path, tuple[str, ...]]:
    """Return the folder whose sub-folders are the classes, and notes about the choice.

    Folders are splits if they have the usual names, if their own sub-folders share a name, or if their names
    contain a word for a split. A split without a usual name is used only if ``split`` names it.

    Args:
        folder: The folder that the user named.
        split: The split; ``"none"`` if the sub-folders are classes.
        where: Name of the folder in messages.

    Raises:
        DataError: If it is not clear which folders are classes, or there is no such split.
    """
    level = _read_level(folder)
    if split == NO_SPLIT and not (folder / NO_SPLIT).is_dir():
        return folder, _note_deeper_folders(level)
    chosen = _find_standard_split(folder, level, split, where)
    if chosen is None:
        reason = _explain_doubt(level)
        is_named_split = split in level.subfolders and bool(level.subfolders[split])
        if reason is None and not (is_named_split and split not in _STANDARD_SPLIT_NAMES):
            return folder, _note_deeper_folders(level)
        if not is_named_split:
            raise _build_unclear_error(level, reason or "", where)
        chosen = folder / split
    inner = _read_level(chosen)
    reason = _explain_doubt(inner)
    if reason is not None:
        remedy = f"name the folder that holds the classes, or {chosen.name}/ itself with split: {NO_SPLIT}"
        raise DataError(f"in its split {chosen.name!r} {reason}", where=where, remedy=remedy)
    return chosen, _note_deeper_folders(inner)


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and those of tools."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
    )


def _find_standard_split(folder: Path, level: _FolderLevel, split: str, where: str) -> Path | None:
    """Return the split's folder if all folders, or all that hold images, have usual names, else None."""
    names = {path.name for path in list_subfolders(folder)}
    if level.subfolders and not names <= _STANDARD_SPLIT_NAMES:
        names = set(level.names)
    if not names or not names <= _STANDARD_SPLIT_NAMES:
        return None
    wanted = next((group for group in _STANDARD_SPLITS if split in group), (split,))
    for name in (split, *wanted):
        if name in names:
            return folder / name
    remedy = f"set split to one of {', '.join(sorted(names))}"
    raise DataError(f"there is no split {split!r}", where=where, remedy=remedy)


def _read_level(folder: Path) -> _FolderLevel:
    subfolders, image_folders, with_images = {}, {}, set()
    for path in list_subfolders(folder):
        paths = _find_image_folders(path)
        if not paths:
            continue
        subfolders[path.name] = tuple(sorted({inner.parts[0] for inner in paths if inner.parts}))
        image_folders[path.name] = frozenset(inner.name for inner in paths if inner.parts)
        if Path() in paths:
            with_images.add(path.name)
    return _FolderLevel(subfolders, image_folders, frozenset(with_images))


def _find_image_folders(folder: Path) -> list[Path]:
    """Return the folders that hold images, relative to ``folder``, which is itself an empty path."""

    def fail(error: OSError) -> None:
        raise error

    image_folders = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        if any(is_image_file(Path(parent, name)) for name in files):
            image_folders.append(Path(parent).relative_to(folder))
    return image_folders


def _explain_doubt(level: _FolderLevel) -> str | None:
    """Explain why these folders may not be classes; None if nothing speaks against it."""
    shared = _find_shared_names(
        {name: {*level.subfolders[name], *level.image_folders[name]} for name in level.names}
    )
    if shared:
        return f"these folders have sub-folders of the same names ({_format_names(shared)}), as splits have"
    splits = {name: split for name in level.names if (split := _parse_split(name)) is not None}
    if len(splits) == len(level.names) and splits and (len(splits) > 1 or any(level.subfolders.values())):
        return "these folders are named like splits"
    if len(set(splits.values())) > 1:
        return f"some of these folders are named like splits ({_format_names(sorted(splits))})"
    for name in splits:
        if len(level.subfolders[name]) > 1:
            inner = _format_names(level.subfolders[name])
            return f"the folder {_format_name(name)} is named like a split and has sub-folders ({inner})"
    deep = [name for name in level.names if level.subfolders[name] and name not in level.folders_with_images]
    mixed = [name for name in deep if len(level.image_folders[name]) > 1]
    if len(deep) == len(level.names) and mixed:
        first = sorted(level.image_folders[mixed[0]])
        return f"all images lie in sub-folders of these folders ({mixed[0]}: {_format_names(first)})"
    return None


def _find_shared_names(inside: Mapping[str, Collection[str]]) -> list[str]:
    """Return names of sub-folders that several folders have, except names of mere image folders."""
    first_owner: dict[str, str] = {}
    shared: set[str] = set()
    for folder, names in inside.items():
        for name in names:
            key = _fold_case(name)
            if key not in _IMAGE_FOLDER_WORDS and first_owner.setdefault(key, folder) != folder:
                shared.add(name)
    return sorted(shared)


def _parse_split(name: str) -> str | None:
    """Return the split that a folder's name denotes: ``Test``, ``train_images``, ``fold1``; else None."""
    folded = _fold_case(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    words = [word for word in re.split(r"[\W\d_]+", folded) if word]
    if "".join(words) in ("holdout", "heldout"):
        return "holdout"
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    others = [
        word for word in words if word not in _SPLIT_WORDS and word not in _FILLER_WORDS and len(word) > 1
    ]
    return next(iter(sorted(splits))) if splits and not others else None


def _fold_case(name: str) -> str:
    text = unicodedata.normalize("NFKD", name).casefold()
    return "".join(character for character in text if not unicodedata.combining(character))


_SPLIT_WORDS = {
    _fold_case(word): split for split, words in _SPLIT_WORDS_BY_SPLIT.items() for word in words.split()
}


def _build_unclear_error(level: _FolderLevel, reason: str, where: str) -> DataError:
    candidates = [name for name in level.names if level.subfolders[name]]
    choice = (
        f"set split to one of {_format_names(candidates, _MAX_CHOICES)}"
        if candidates
        else "name the folder of the classes"
    )
    what = f"are its folders ({_format_names(level.names, _MAX_CHOICES)}) splits or classes? {reason}"
    return DataError(what, where=where, remedy=f"{choice}, or set split: {NO_SPLIT} if they are the classes")


def _note_deeper_folders(level: _FolderLevel) -> tuple[str, ...]:
    """Note that images in deeper folders belong to the class folder above them."""
    deep = [f"{name}/{inner}" for name in level.names for inner in level.subfolders[name]]
    return (f"images in deeper folders count for their class folder: {_format_names(deep)}",) if deep else ()


def _format_names(names: Collection[str], most: int = _MAX_NAMED) -> str:
    texts = [_format_name(name) for name in list(names)[:most]]
    return ", ".join(texts) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _format_name(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
