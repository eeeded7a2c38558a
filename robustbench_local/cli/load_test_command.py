"""``rbl load-test``: throughput, latency, behaviour over time and accuracy of a served model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_paths
from robustbench_local.cli.shared_options import AllowCodeOption


def command(
    target: Annotated[
        str,
        typer.Argument(help="URL of a service, or a model as for rbl serve, which is served for the test."),
    ],
    serve_options: Annotated[
        list[str] | None,
        typer.Argument(help="For a model: options of rbl serve after --, such as -- --size 224 --threads 2."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(envvar="RBL_DATA_SOURCE", help="Held-out images: signs, folder:DIR; by default noise."),
    ] = None,
    split: Annotated[str, typer.Option(help="Their split.")] = "test",
    limit: Annotated[int, typer.Option(min=1, help="Largest number of them.")] = 200,
    corruptions: Annotated[
        str | None,
        typer.Option(help="Corruptions with severities such as fog-3,pixelate-5; all, or none."),
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="Images in a request.")] = "1,8",
    concurrency: Annotated[str, typer.Option(help="Clients of the closed loops.")] = "1,4,16",
    rate: Annotated[
        str | None,
        typer.Option(
            help="Requests per second of the open loops, or none; by default half of the highest rate."
        ),
    ] = None,
    duration: Annotated[str, typer.Option(help="Measured time of each load: 10s, 1m.")] = "10s",
    warmup: Annotated[str, typer.Option(help="Time before each load that is not measured.")] = "1s",
    soak: Annotated[
        str, typer.Option(help="Time under one load, to find drift and leaks; 0 for none.")
    ] = "0",
    timeout: Annotated[str, typer.Option(help="Time after which a request has failed.")] = "30s",
    start_timeout: Annotated[str, typer.Option(help="Longest time until a model is served.")] = "5m",
    protocol: Annotated[
        str, typer.Option(help="serve, json or png: form of requests and answers; auto asks the service.")
    ] = "auto",
    key: Annotated[str, typer.Option(help="Path of scores or labels in a JSON answer.")] = "",
    token: Annotated[
        str | None, typer.Option(help="Environment variable whose value is sent as Authorization: Bearer.")
    ] = None,
    pid: Annotated[
        int | None,
        typer.Option(min=1, help="Process of a service on this machine, where it has no /metrics."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--as", help="Id of the model in the run of --out, such as candidate or 'candidate + jpeg'."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            envvar="RBL_OUT",
            help="Folder for load_test.json; a run directory, so that its report and gates include it.",
            autocompletion=complete_paths,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, envvar="RBL_SEED", help="Seed of every draw.")] = 0,
    allow_code: AllowCodeOption = False,
    as_json: Annotated[bool, typer.Option("--json", envvar="RBL_JSON", help="As JSON.")] = False,
) -> int:
    """Measure a served model under load (extra: web).

    Closed loops over batch sizes and concurrencies, open loops with Poisson arrivals, a soak, and accuracy
    before and after. Limits are gates: p95_ms and throughput.
    """
    from robustbench_local.cli.load_test_run import LoadTestArguments, execute_load_test

    return execute_load_test(
        LoadTestArguments(
            target=target,
            serve_options=tuple(serve_options or ()),
            data=data,
            split=split,
            limit=limit,
            corruptions=corruptions,
            batch_sizes=batch_sizes,
            concurrency=concurrency,
            rate=rate,
            duration=duration,
            warmup=warmup,
            soak=soak,
            timeout=timeout,
            start_timeout=start_timeout,
            protocol=protocol,
            key=key,
            token=token,
            pid=pid,
            name=name,
            out=out,
            seed=seed,
            allow_code=allow_code,
            as_json=as_json,
        )
    )
