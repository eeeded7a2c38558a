"""The other libraries, one adapter a file; what is not installed is said to be absent."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import warnings
from dataclasses import dataclass

from benchmarks.job import AttackFunction


@dataclass(frozen=True)
class PeerLibrary:
    """A library that attacks.

    Args:
        name: What it is called in the tables.
        adapter: Module of this package with a table ``METHODS``.
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

    def load_methods(self) -> dict[str, AttackFunction]:
        """Its methods by the names of ``rows``; importing it may take seconds."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter = importlib.import_module(f"benchmarks.peers.{self.adapter}")
        return dict(adapter.METHODS)


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
