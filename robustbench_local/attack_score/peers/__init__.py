"""The attacks of other libraries, one adapter a file; a library that is not installed is listed as such."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerFunction


@dataclass(frozen=True)
class PeerLibrary:
    """A library that attacks.

    Args:
        name: What it is called in the tables.
        adapter: Module of this package with the tables ``METHODS`` and ``MINIMUM_NORM``.
        package: What is imported.
        distribution: What is installed.
        pip_arguments: Arguments of pip that get it without changing what is there.
    """

    name: str
    adapter: str
    package: str
    distribution: str
    pip_arguments: str

    def is_installed(self) -> bool:
        """Whether it can be imported."""
        return importlib.util.find_spec(self.package) is not None

    def get_version(self) -> str:
        """Its version."""
        return importlib.metadata.version(self.distribution)

    def load_methods(self) -> dict[str, PeerFunction]:
        """Its methods by the names of the benchmark; importing it may take seconds."""
        return {name: cast("PeerFunction", run) for name, run in self._load_table("METHODS").items()}

    def load_minimum_norm_attacks(self, norm: str) -> dict[str, PeerAttack]:
        """Its minimum-norm attacks for a norm by name; importing it may take seconds."""
        attacks = self._load_table("MINIMUM_NORM").get(norm, {})
        return dict(cast("Mapping[str, PeerAttack]", attacks))

    def _load_table(self, name: str) -> Mapping[str, object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter = importlib.import_module(f"{__name__}.{self.adapter}")
        table: Mapping[str, object] = getattr(adapter, name)
        return table


PEERS = (
    PeerLibrary(
        "torchattacks", "with_torchattacks", "torchattacks", "torchattacks", "--no-deps torchattacks==3.5.1"
    ),
    PeerLibrary("pyautoattack", "with_pyautoattack", "pyautoattack", "pyautoattack", "pyautoattack"),
    PeerLibrary("foolbox", "with_foolbox", "foolbox", "foolbox", "foolbox"),
    PeerLibrary(
        "ART",
        "with_art",
        "art",
        "adversarial-robustness-toolbox",
        "--no-deps adversarial-robustness-toolbox six scikit-learn joblib threadpoolctl",
    ),
    PeerLibrary(
        "adv-lib",
        "with_adv_lib",
        "adv_lib",
        "adv-lib",
        "adv-lib  # builds visdom: PIP_BUILD_CONSTRAINT with setuptools<80",
    ),
    PeerLibrary("secml-torch", "with_secml", "secmlt", "secml-torch", "--no-deps secml-torch"),
)
