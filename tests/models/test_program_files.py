"""Files of programs: what is in them is named, and none is run without permission."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from program_samples import build_network

from robustbench_local.errors import ModelError, RefusedError, RobustbenchError
from robustbench_local.models.model_sources import load_classifier

EXPORTED = ("models/model.json", "data/weights/weight_0", "archive_format")


def write_archive(path: Path, names: tuple[str, ...]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"net/{name}", "{}")
    return path


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ((*EXPORTED, "data/aotinductor/model/code.so"), RefusedError, r"native code .* never run\. Save the"),
        ((*EXPORTED, "extra/plugin.so"), RefusedError, "native code"),
        (("models/one.json", "models/two.json"), ModelError, "holds 2 programs, none of them called 'model'"),
        (("bytecode.pkl", "data.pkl"), ModelError, "mobile interpreter"),
        (
            ("constants.pkl", "code/__torch__.py"),
            ModelError,
            r"TorchScript archive\. Write torchscript:net.pt2",
        ),
        (("serialized_exported_program.json",), ModelError, "before 2.8"),
        (
            ("data.pkl", "data/0"),
            ModelError,
            r"weights or a pickled module, not a program\. Write checkpoint:",
        ),
        (("readme.txt",), ModelError, r"something else\. Save it by torch.export.save"),
    ],
)
@pytest.mark.parametrize("allow_code", [True, False])
def test_what_is_no_exported_program_is_named(
    tmp_path: Path, names: tuple[str, ...], error: type[RobustbenchError], message: str, allow_code: bool
) -> None:
    write_archive(tmp_path / "net.pt2", names)
    with pytest.raises(error, match=message):
        load_classifier("export:net.pt2", base_folder=tmp_path, allow_code=allow_code)


def test_an_executorch_program_and_a_checkpoint_are_no_torchscript(tmp_path: Path) -> None:
    (tmp_path / "net.pte").write_bytes(b"\x1c\x00\x00\x00ET12" + bytes(64))
    for source in ("export", "torchscript"):
        with pytest.raises(RefusedError, match="is a program of ExecuTorch, which torch cannot run"):
            load_classifier(f"{source}:net.pte", base_folder=tmp_path, allow_code=True)
    torch.save(build_network().state_dict(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"holds weights .*\. Write checkpoint:net.pt"):
        load_classifier("torchscript:net.pt", base_folder=tmp_path, allow_code=True)


@pytest.mark.parametrize("part", ["net/code/net.py", "net/constants.pkl"])
def test_a_damaged_archive_is_refused(tmp_path: Path, part: str) -> None:
    path = write_archive(tmp_path / "net.pt", ("constants.pkl", "code/net.py"))
    content = bytearray(path.read_bytes())
    content[content.index(part.encode()) + len(part)] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"net.pt: is damaged: {part} does not have its checksum\. Get it"):
        load_classifier("torchscript:net.pt", base_folder=tmp_path, allow_code=True)


def test_an_archive_of_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "net.pt", ("constants.pkl", "code/net.py"))
    content = path.read_bytes().replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00"
    )
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"net.pt: is damaged: an entry \("):
        load_classifier("torchscript:net.pt", base_folder=tmp_path, allow_code=True)


def test_permission_is_for_one_file(tmp_path: Path) -> None:
    write_archive(tmp_path / "net.pt2", EXPORTED)
    with pytest.raises(RefusedError, match=r"trust_pickle is 'sha256:0+', but this file is sha256:"):
        load_classifier("export:net.pt2", base_folder=tmp_path, trust_pickle=f"sha256:{'0' * 64}")
    with pytest.raises(ModelError, match="its SHA-256 is"):
        load_classifier("export:net.pt2", base_folder=tmp_path, sha256="0" * 64, allow_code=True)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("robustbench_local.config.zip_bombs.MIN_BOMB_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/constants.pkl", bytes(1_000_000))
        archive.writestr("net/code/net.py", "")
    with pytest.raises(RefusedError, match="decompression bomb"):
        load_classifier("torchscript:net.pt", base_folder=tmp_path, allow_code=True)
