"""Where the class folders of a folder of images are: in it, or in one of its splits; asked where unclear."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from robustbench_local.data.image_files import is_image_file
from robustbench_local.errors import DataError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NO_SPLIT = "none"
"""What ``split`` says where the folders are classes, whatever they look like."""
_USUAL: tuple[tuple[str, ...], ...] = (
    ("train", "training"),
    ("val", "valid", "validation"),
    ("test", "testing"),
)
"""Names that are splits without a question; each row is one split."""
_USUAL_NAMES = {name for names in _USUAL for name in names}
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
"""Words that name a split; a spelling that is not here shows by its sub-folders."""
_FILLERS = _words(
    "set sets data dataset datasets images image img imgs pictures photos samples subset part partition "
    "final full clean raw new old small large labeled labelled unlabeled"
)
"""Words that stand beside them: ``test_images``, ``Train data``, ``training-set-2``."""
_HOLDERS = _words(
    "image images img imgs jpg jpeg jpegs jpegimages png pngs data frames photo photos picture pictures "
    "files rgb raw"
)
"""Folders that only hold a class's images: ``n01443537/images/``."""
_MOST_NAMED, _MOST_CHOICES = 5, 20


@dataclass(frozen=True)
class _Folders:
    """What one level of folders is like; folders without images are left out."""

    inside: Mapping[str, tuple[str, ...]]
    """Each folder with the names of its sub-folders that hold images."""
    leaves: Mapping[str, frozenset[str]]
    """Each folder with the names of all folders below it, however deep, that images lie in."""
    loose: frozenset[str]
    """Folders with images of their own, beside or instead of sub-folders."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.inside)


def find_classes(folder: Path, split: str, where: str) -> tuple[Path, tuple[str, ...]]:
    """The folder whose sub-folders are the classes, and what a reader should know about the choice.

    Folders are splits if they have the usual names; also, whatever they are called, if their own sub-folders
    share a name, or if their names say so. Splits of other than the usual names are never chosen unasked.

    Args:
        folder: What the user named.
        split: Which split; ``"none"``: the sub-folders are classes.
        where: What messages call the folder.

    Raises:
        DataError: If it is not clear which folders are classes, or there is no such split.
    """
    level = _look_into(folder)
    if split == NO_SPLIT and not (folder / NO_SPLIT).is_dir():
        return folder, _flattened(level)
    chosen = _usual_split(folder, level, split, where)
    if chosen is None:
        reason = _doubt(level)
        named = split in level.inside and bool(level.inside[split])
        if reason is None and not (named and split not in _USUAL_NAMES):
            return folder, _flattened(level)
        if not named:
            raise _ask(level, reason or "", where)
        chosen = folder / split
    inner = _look_into(chosen)
    reason = _doubt(inner)
    if reason is not None:
        remedy = f"name the folder that holds the classes, or {chosen.name}/ itself with split: {NO_SPLIT}"
        raise DataError(f"in its split {chosen.name!r} {reason}", where=where, remedy=remedy)
    return chosen, _flattened(inner)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; hidden ones and those of tools are not for images."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
    )


def _usual_split(folder: Path, level: _Folders, split: str, where: str) -> Path | None:
    """The split where all folders, or all that hold images, have usual names; None where they have not."""
    names = {path.name for path in subfolders(folder)}
    if level.inside and not names <= _USUAL_NAMES:
        names = set(level.names)
    if not names or not names <= _USUAL_NAMES:
        return None
    wanted = next((group for group in _USUAL if split in group), (split,))
    for name in (split, *wanted):
        if name in names:
            return folder / name
    remedy = f"set split to one of {', '.join(sorted(names))}"
    raise DataError(f"there is no split {split!r}", where=where, remedy=remedy)


def _look_into(folder: Path) -> _Folders:
    inside, leaves, loose = {}, {}, set()
    for path in subfolders(folder):
        below = _folders_of_images(path)
        if not below:
            continue
        inside[path.name] = tuple(sorted({one.parts[0] for one in below if one.parts}))
        leaves[path.name] = frozenset(one.name for one in below if one.parts)
        if Path() in below:
            loose.add(path.name)
    return _Folders(inside, leaves, frozenset(loose))


def _folders_of_images(folder: Path) -> list[Path]:
    """The folders in which images lie, relative to ``folder``, itself among them as an empty path."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        if any(is_image_file(Path(parent, name)) for name in files):
            found.append(Path(parent).relative_to(folder))
    return found


def _doubt(level: _Folders) -> str | None:
    """Why these folders may not be classes, in words; None if nothing speaks against it."""
    shared = _shared({name: {*level.inside[name], *level.leaves[name]} for name in level.names})
    if shared:
        return f"these folders have sub-folders of the same names ({_listed(shared)}), as splits have"
    splits = {name: split for name in level.names if (split := _split_named(name)) is not None}
    if len(splits) == len(level.names) and splits and (len(splits) > 1 or any(level.inside.values())):
        return "these folders are called as splits are"
    if len(set(splits.values())) > 1:
        return f"some of these folders are called as splits are ({_listed(sorted(splits))})"
    for name in splits:
        if len(level.inside[name]) > 1:
            inner = _listed(level.inside[name])
            return f"the folder {_printable(name)} is called as a split is and has sub-folders ({inner})"
    deep = [name for name in level.names if level.inside[name] and name not in level.loose]
    several = [name for name in deep if len(level.leaves[name]) > 1]
    if len(deep) == len(level.names) and several:
        first = sorted(level.leaves[several[0]])
        return f"all images lie in sub-folders of these folders ({several[0]}: {_listed(first)})"
    return None


def _shared(inside: Mapping[str, Collection[str]]) -> list[str]:
    """Names of sub-folders that more than one folder has; folders that only hold images do not count."""
    seen: dict[str, str] = {}
    shared: set[str] = set()
    for folder, names in inside.items():
        for name in names:
            key = _folded(name)
            if key not in _HOLDERS and seen.setdefault(key, folder) != folder:
                shared.add(name)
    return sorted(shared)


def _split_named(name: str) -> str | None:
    """Which split a folder's name says it is, in any spelling: ``Test``, ``train_images``, ``fold1``."""
    folded = _folded(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    words = [word for word in re.split(r"[\W\d_]+", folded) if word]
    if "".join(words) in ("holdout", "heldout"):
        return "holdout"
    named = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    others = [word for word in words if word not in _SPLIT_WORDS and word not in _FILLERS and len(word) > 1]
    return next(iter(sorted(named))) if named and not others else None


def _folded(name: str) -> str:
    text = unicodedata.normalize("NFKD", name).casefold()
    return "".join(character for character in text if not unicodedata.combining(character))


_SPLIT_WORDS = {
    _folded(word): split for split, words in _SPLIT_WORDS_BY_SPLIT.items() for word in words.split()
}


def _ask(level: _Folders, reason: str, where: str) -> DataError:
    able = [name for name in level.names if level.inside[name]]
    choice = (
        f"set split to one of {_listed(able, _MOST_CHOICES)}" if able else "name the folder of the classes"
    )
    what = f"are its folders ({_listed(level.names, _MOST_CHOICES)}) splits or classes? {reason}"
    return DataError(what, where=where, remedy=f"{choice}, or set split: {NO_SPLIT} if they are the classes")


def _flattened(level: _Folders) -> tuple[str, ...]:
    """Say that images of deeper folders count for the class folder above."""
    deep = [f"{name}/{inner}" for name in level.names for inner in level.inside[name]]
    return (f"images in deeper folders count for their class folder: {_listed(deep)}",) if deep else ()


def _listed(names: Collection[str], most: int = _MOST_NAMED) -> str:
    shown = [_printable(name) for name in list(names)[:most]]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
