"""Files that users name: regular files of a stated size, read without waiting and without filling memory."""

from __future__ import annotations

import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_local.config import user_files, zip_bombs
from robustbench_local.config.file_lookup import find_file
from robustbench_local.config.user_files import read_user_file
from robustbench_local.data.decode import read_image
from robustbench_local.data.npz import list_npz
from robustbench_local.defenses.training.checkpoint import load_checkpoint
from robustbench_local.errors import ConfigError, DataError, ModelError, RefusedError, RobustbenchError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.models.weight_files import read_weights

pytestmark = pytest.mark.skipif(os.name == "nt", reason="files of POSIX")
SPARSE_BYTES = 100 * 10**9


def make_odd(path: Path, kind: str) -> Path:
    """Put something at a path that is no regular file of a sane size."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(SPARSE_BYTES)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "absent":
        pass
    return path


READERS: dict[str, tuple[str, Callable[[Path], object], tuple[int, ...]]] = {
    "grid": ("grid.yaml", load_grid, (2,)),
    "weights": ("net.pt", lambda path: read_weights(find_file(str(path))), (3,)),
    "weights, read at once": ("net.pt", read_weights, (3,)),
    "tensors": ("net.safetensors", lambda path: read_weights(find_file(str(path))), (3,)),
    "archive": ("images.npz", lambda path: list_npz(path, where="npz"), (3,)),
    "image": ("one.png", lambda path: read_image(path, where="one.png"), (3,)),
    "checkpoint": ("train.ckpt", lambda path: load_checkpoint(path, {}), (2,)),
}


@pytest.mark.parametrize(
    "kind", ["fifo", "link to a fifo", "device", "socket", "folder", "sparse", "loop", "absent"]
)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_an_odd_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name, read, codes = READERS[reader]
    path = make_odd(tmp_path / name, kind)
    with pytest.raises(RobustbenchError) as caught:
        read(path)
    assert caught.value.exit_code in codes
    assert "\n" not in str(caught.value)


def test_a_file_is_read_up_to_its_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_user_file(path, limit=100) == b"x" * 100
    with pytest.raises(ConfigError, match=r"has 100 bytes, the limit is 99\. Name the right file$"):
        read_user_file(path, limit=99)


def test_the_limit_of_weights_and_archives_can_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2000)
    monkeypatch.setenv(user_files.SIZE_VARIABLE, "0.000001")
    with pytest.raises(ConfigError, match="or set RBL_MAX_FILE_GIB to more"):
        read_user_file(path)
    monkeypatch.setenv(user_files.SIZE_VARIABLE, "1")
    assert len(read_user_file(path)) == 2000
    for nonsense in ("much", "0", "-1", "nan", "inf"):
        monkeypatch.setenv(user_files.SIZE_VARIABLE, nonsense)
        with pytest.raises(ConfigError, match="RBL_MAX_FILE_GIB: must be a positive number"):
            read_user_file(path)


@pytest.mark.parametrize(("holds", "refused"), [(0.005, True), (0.05, False)])
def test_a_file_with_less_than_a_hundredth_on_the_disk_is_sparse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: float, refused: bool
) -> None:
    monkeypatch.setattr(user_files, "MIN_SPARSE_BYTES", 4 << 20)
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(os.urandom(int(holds * (4 << 20))))
        file.truncate(4 << 20)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no sparse files")
    if refused:
        with pytest.raises(ConfigError, match="is sparse"):
            read_user_file(path)
    else:
        assert len(read_user_file(path)) == 4 << 20


def test_a_file_that_does_not_say_its_size_is_read_whole() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    assert read_user_file(status).startswith(b"Name:")


def bomb(path: Path, inner: str, zeros: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(inner, "w") as entry:
        for _ in range(zeros >> 20):
            entry.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("entry", ["archive/data/0", "x.npy"])
def test_an_archive_is_looked_at_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setattr(zip_bombs, "MIN_BOMB_BYTES", 8 << 20)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    path = bomb(tmp_path / "bomb", entry, 16 << 20)
    read = {"x.npy": lambda: list_npz(path, where="npz")}.get(entry, lambda: read_weights(path))
    with pytest.raises(RefusedError, match="bytes unpack to 16,777,216, as a decompression bomb does"):
        read()
    with pytest.raises(RefusedError, match="decompression bomb"):
        load_checkpoint(path, {})


@pytest.mark.parametrize(("zeros", "refused"), [(8 << 20, False), (9 << 20, True)])
def test_small_archives_may_compress_as_they_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zeros: int, refused: bool
) -> None:
    monkeypatch.setattr(zip_bombs, "MIN_BOMB_BYTES", 8 << 20)
    content = bomb(tmp_path / "zip", "zeros", zeros).read_bytes()
    if refused:
        with pytest.raises(RefusedError):
            zip_bombs.check_zip_bomb(content, where="zip", error=DataError, remedy="")
    else:
        zip_bombs.check_zip_bomb(content, where="zip", error=DataError, remedy="")


def test_an_archive_that_unpacks_beyond_the_limit_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt"
    torch.save({"weight": torch.zeros(5000)}, path)
    read_weights(path)
    monkeypatch.setattr(zip_bombs, "read_max_file_bytes", lambda _error: 10_000)
    with pytest.raises(ModelError, match=r"it unpacks to .* bytes, the limit is 10,000"):
        read_weights(path)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**6, 0])
def test_a_header_of_safetensors_that_lies_about_its_length(tmp_path: Path, length: int) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{" + b"[" * 5000)
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        read_weights(path)
