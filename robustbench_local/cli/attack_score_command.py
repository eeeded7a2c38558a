"""``rbl attack-score``: how strong each attack is, as a number between 0 and 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_local.cli.shared_options import AllowCodeOption, DeviceOption
from robustbench_local.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from robustbench_local.attack_score.scoring import AttackScore

_GRID_SUFFIXES = frozenset({".yaml", ".yml"})


def command(
    models: Annotated[
        list[str], typer.Argument(help="Models such as zoo:signs-plain, or a grid file with models and data.")
    ],
    norm: Annotated[str, typer.Option(help="L2, Linf, L1 ...: the norm of the distances.")] = "L2",
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images, stratified by class.")] = 100,
    data: Annotated[str, typer.Option(help="Images of the models, unless a grid file names them.")] = "signs",
    attacks: Annotated[
        str, typer.Option(help="Our attacks, such as fmn,ddn; by default every minimum-norm attack.")
    ] = "",
    libraries: Annotated[
        str,
        typer.Option(help="Other libraries: auto (all installed), none, or names such as foolbox,adv-lib."),
    ] = "auto",
    budget: Annotated[
        int, typer.Option(min=1, help="Maximum forward and backward passes per image, all together.")
    ] = 400,
    own_budget: Annotated[
        int | None, typer.Option(min=1, help="The same for our attacks, by default the same number.")
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option(min=0, help="Largest distance to search for; by default set by the norm.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, envvar="RBL_SEED", help="Seed of every draw.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            envvar="RBL_OUT",
            help="Folder for score.md, score.json, distances.csv; a comparison in it is resumed.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    allow_code: AllowCodeOption = False,
    as_json: Annotated[bool, typer.Option("--json", envvar="RBL_JSON", help="As JSON.")] = False,
) -> None:
    """Compare minimum-norm attacks, ours and those of installed libraries, by AttackBench's optimality.

    Every candidate is verified, so that an attack's own bookkeeping decides nothing.
    """
    from rich.console import Console

    from robustbench_local.attack_score.scoring import ScoreOptions, score_attacks
    from robustbench_local.cli.terminal_output import echo_line, print_json, print_line
    from robustbench_local.evaluation.grid.schema import load_grid
    from robustbench_local.evaluation.options import Options
    from robustbench_local.evaluation.planning.planner import make_plan
    from robustbench_local.extensions.code_permission import permit_code
    from robustbench_local.threats.threat_model import ThreatModel

    options = ScoreOptions(
        norm=ThreatModel(norm=norm, eps=1.0).norm,  # type: ignore[arg-type]  # an unknown norm is refused
        attacks=_split_names(attacks),
        libraries=() if libraries == "auto" else _split_names(libraries),
        budget=budget,
        own_budget=own_budget,
        max_distance=max_distance,
        seed=seed,
    )
    grid, base = load_grid(_find_grid_source(models, data))
    run_options = Options(limit=n, seed=seed, device=device, allow_code=allow_code)
    plan = make_plan(grid, run_options, base_folder=base, is_dry_run=True)
    subjects = [subject for subject in plan.subjects if subject.problem is None]
    for subject in plan.subjects:
        if subject.problem is not None:
            echo_line(f"rbl: {subject} is left out: {subject.problem}", error=True)
    folder = None if out is None else out / "measurements"
    with permit_code(allow_code, base):
        score = score_attacks(
            subjects, options, folder=folder, report=lambda line: echo_line(line, error=True)
        )
    if out is not None:
        _write_files(score, out)
    console = Console()
    if as_json:
        print_json(console, score.to_json(), indent=2)
        return
    from robustbench_local.attack_score.tables import list_notes

    console.print(_build_table(score))
    for note in list_notes(score):
        print_line(console, note, wrap=True)


def _split_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _find_grid_source(models: list[str], data: str) -> Path | dict[str, Any]:
    """Return the grid file, or a grid of the models; its attack runs nowhere."""
    files = [model for model in models if Path(model).suffix in _GRID_SUFFIXES]
    if not files:
        entries = [{"id": model, "source": model} for model in models]
        return {"data": {"source": data}, "models": entries, "attacks": ["fgsm-linf-8"]}
    if len(models) > 1:
        raise ConfigError("give one grid file, or models", remedy="put all models into the grid file")
    return Path(files[0])


def _write_files(score: AttackScore, out: Path) -> None:
    import json

    from robustbench_local.attack_score.tables import render_csv, render_markdown
    from robustbench_local.store.atomic_files import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "score.md", render_markdown(score))
    write_atomically(out / "score.json", json.dumps(score.to_json(), indent=2) + "\n")
    write_atomically(out / "distances.csv", render_csv(score))


def _build_table(score: AttackScore) -> Table:
    from rich.table import Table

    from robustbench_local.attack_score.tables import HEAD, format_cells, format_title
    from robustbench_local.cli.terminal_output import escape_text

    table = Table(title=format_title(score), title_justify="left")
    for column in HEAD:
        table.add_column(column, justify="left" if column == "attack" else "right")
    for row in score.rows:
        table.add_row(*(escape_text(cell, "bold" if row.is_own else "") for cell in format_cells(row)))
    return table
