"""``python -m robustbench_local.cli``: the command line for when its script is not on the path."""

from robustbench_local.cli.main import main

main()
