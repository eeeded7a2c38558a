"""Loading of a file of torch.export, with the libraries that its operators come from."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.errors import ModelError
from robustbench_local.models.program_files import ProgramFile

_OPERATOR_MODULES = {
    b"quantized_decomposed": "torch.ao.quantization.fx._decomposed",
    b"torchao": "torchao",
    b"torchvision": "torchvision",
}
"""What registers operators, by the namespace in which a program calls them."""


def load_exported(program: ProgramFile) -> Any:
    """Load an exported program, which may run any code.

    Args:
        program: The file, which the user permits.

    Returns:
        The ``torch.export.ExportedProgram``.

    Raises:
        ModelError: If torch cannot load it.
    """
    _start_autograd()
    logged: list[BaseException] = []
    try:
        with warnings.catch_warnings(action="ignore"), _capture_errors(logged):
            for namespace, module in _OPERATOR_MODULES.items():
                if namespace in program.content:  # the graph is stored as it is, without compression
                    _import_operators(module)
            return torch.export.load(io.BytesIO(program.content))
    except Exception as error:
        refuse_shortage(error, program.path.name)
        cause = logged[0] if logged else error
        raise ModelError(
            f"torch cannot load it: {type(cause).__name__}: {extract_first_line(cause)}",
            where=program.path.name,
            remedy="export it again with this version of torch, and install the library of its operators",
        ) from error


def _import_operators(module: str) -> None:
    try:
        import_module(module)
    except ImportError:
        return  # the load names the operator that is missing


def _start_autograd() -> None:
    """Start autograd before torch.export pretends that there are GPUs, for which it would start threads.

    Forks of a process with such threads cannot compute gradients.
    """
    if not torch.cuda.is_available():
        torch.zeros(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]


@contextmanager
def _capture_errors(errors: list[BaseException]) -> Iterator[None]:
    """Collect the errors that torch.export only logs, before it raises another one; print none of its log."""

    def collect_error(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            errors.append(record.exc_info[1])
        return False  # nothing is printed

    logger = logging.getLogger("torch.export")
    logger.addFilter(collect_error)
    try:
        yield
    finally:
        logger.removeFilter(collect_error)
