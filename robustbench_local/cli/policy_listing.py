"""The ready-made policies of ``rbl gate``, listed or printed."""

from __future__ import annotations

from robustbench_local.cli.terminal_output import echo_line
from robustbench_local.config.gate_policy import list_policies, read_policy_text


def print_policies() -> int:
    """Print name and description of each ready-made policy, and return the exit code."""
    policies = list_policies()
    width = max(map(len, policies))
    for name, description in policies.items():
        echo_line(f"{name.ljust(width)}  {description}")
    return 0


def print_policy(name: str) -> int:
    """Print a ready-made policy as it could stand in a file, and return the exit code.

    Raises:
        ConfigError: If there is none of that name.
    """
    for line in read_policy_text(name).splitlines():
        echo_line(line)
    return 0
