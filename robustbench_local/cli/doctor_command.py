"""``rbl doctor``: check that the installation has everything a run needs."""

from __future__ import annotations


def command() -> int:
    """Check versions, devices, extras, cards and shipped weights; exit 3 if something is broken."""
    from robustbench_local.cli.installation_checks import check_installation

    return check_installation()
