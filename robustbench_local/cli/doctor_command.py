"""``rbl doctor``: check that the installation has everything a run needs, or what a cluster has."""

from __future__ import annotations

from robustbench_local.cli.shared_options import AddressOption, ExecutorOption
from robustbench_local.errors import ConfigError


def command(executor: ExecutorOption = "local", address: AddressOption = None) -> int:
    """Check versions, devices, extras, cards and weights, or a cluster; exit 3 if something is broken."""
    if executor == "ray":
        from robustbench_local.cli.cluster_checks import check_cluster

        return check_cluster(address)
    if address is not None:
        raise ConfigError("address is an option of Ray", remedy="add --executor ray, or leave it out")
    from robustbench_local.cli.installation_checks import check_installation

    return check_installation()
