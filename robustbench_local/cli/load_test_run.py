"""The work of ``rbl load-test``: check the arguments, find or serve the model, measure, print and store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from robustbench_local.cli.terminal_output import echo_line
from robustbench_local.errors import ConfigError, did_you_mean, format_install_command
from robustbench_local.models.endpoint_options import is_url

if TYPE_CHECKING:
    from robustbench_local.load_test.run_load_test import LoadPlan
    from robustbench_local.load_test.service import Service
    from robustbench_local.store.load_test_records import LoadTestRecord

_LIBRARIES = ("h11",)
_SERVE_LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(ms|s|m|min|h)?", re.ASCII)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, None: 1.0}
_MAX_SECONDS = 7 * 86_400.0
_MAX_BATCH, _MAX_CLIENTS, _MAX_LOADS = 4_096, 512, 100
_CEILING_SECONDS = 1.0
_AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class LoadTestArguments:
    """The arguments of the command, as its help describes them."""

    target: str
    serve_options: tuple[str, ...]
    data: str | None
    split: str
    limit: int
    corruptions: str | None
    batch_sizes: str
    concurrency: str
    rate: str | None
    duration: str
    warmup: str
    soak: str
    timeout: str
    start_timeout: str
    protocol: str
    key: str
    token: str | None
    pid: int | None
    name: str | None
    out: Path | None
    seed: int
    allow_code: bool
    as_json: bool


def execute_load_test(arguments: LoadTestArguments) -> int:
    """Run the load test that a command asks for, print it and store it; return exit code 0."""
    _check_libraries(is_served=not is_url(arguments.target))
    from robustbench_local.cli.load_test_subject import list_run_models
    from robustbench_local.cli.load_test_tables import print_load_test
    from robustbench_local.extensions.code_permission import permit_code

    plan = build_load_plan(arguments)
    known = None if arguments.out is None else list_run_models(arguments.out)
    with permit_code(arguments.allow_code, Path.cwd()):
        record = asyncio.run(_measure_service(arguments, plan, known))
    path = None
    if arguments.out is not None:
        from robustbench_local.store.load_test_file import add_load_test

        path = add_load_test(arguments.out, record)
    print_load_test(record, path, as_json=arguments.as_json)
    return 0


async def _measure_service(
    arguments: LoadTestArguments, plan: LoadPlan, known: Mapping[tuple[str, str], str | None] | None
) -> LoadTestRecord:
    from robustbench_local.cli.load_test_subject import choose_subject
    from robustbench_local.load_test.run_load_test import run_load_test
    from robustbench_local.load_test.sent_images import DEFAULT_CORRUPTIONS, load_images, parse_corruptions
    from robustbench_local.load_test.service import check_batch_sizes

    chosen = parse_corruptions(
        arguments.corruptions or (DEFAULT_CORRUPTIONS if arguments.data is not None else "none")
    )
    if chosen and arguments.data is None:
        raise ConfigError("corruptions need images", where="--corruptions", remedy="name them with --data")
    async with _open_service(arguments, plan) as (service, pid):
        subject = choose_subject(
            service, known, target=arguments.target, name=arguments.name, folder=arguments.out
        )
        check_batch_sizes(service, plan.batch_sizes)
        images = load_images(
            service,
            arguments.data,
            split=arguments.split,
            limit=arguments.limit,
            corruptions=chosen,
            seed=arguments.seed,
            allow_code=arguments.allow_code,
        )
        return await run_load_test(service, images, plan, subject, _report_line, pid=pid)


def _report_line(line: str) -> None:
    echo_line(line, error=True)


@asynccontextmanager
async def _open_service(
    arguments: LoadTestArguments, plan: LoadPlan
) -> AsyncIterator[tuple[Service, int | None]]:
    """Find the service of a URL, or serve the model of a source; yields it and its process."""
    from robustbench_local.load_test.local_service import build_serve_command, serve_locally
    from robustbench_local.load_test.service import find_service
    from robustbench_local.load_test.wire_formats import Protocol

    if arguments.protocol not in (_AUTO, *get_args(Protocol)):
        choices = [_AUTO, *get_args(Protocol)]
        raise ConfigError(
            f"there is no {arguments.protocol!r}",
            where="--protocol",
            remedy=did_you_mean(arguments.protocol, choices),
        )
    if is_url(arguments.target):
        if arguments.serve_options:
            raise ConfigError(
                "a service that runs takes no options",
                where=arguments.serve_options[0],
                remedy="leave them out",
            )
        protocol = None if arguments.protocol == _AUTO else arguments.protocol
        yield (
            await find_service(arguments.target, protocol=protocol, key=arguments.key, token=arguments.token),  # type: ignore[arg-type]
            arguments.pid,
        )
        return
    options = [*arguments.serve_options, *(["--allow-code"] if arguments.allow_code else [])]
    command = build_serve_command(arguments.target, options, max_images=max(plan.batch_sizes))
    _report_line(f"serving {arguments.target}")
    async with serve_locally(
        command, start_seconds=parse_duration(arguments.start_timeout, "--start-timeout")
    ) as local:
        yield await find_service(local.url, protocol="serve", key="", token=None), local.pid


def build_load_plan(arguments: LoadTestArguments) -> LoadPlan:
    """Build the plan of a load test.

    Raises:
        ConfigError: If a number or a time is none, or out of range.
    """
    from robustbench_local.load_test.run_load_test import LoadPlan

    plan = LoadPlan(
        batch_sizes=_parse_counts(arguments.batch_sizes, "--batch-sizes", _MAX_BATCH),
        concurrencies=_parse_counts(arguments.concurrency, "--concurrency", _MAX_CLIENTS),
        rates=_parse_rates(arguments.rate),
        warmup=parse_duration(arguments.warmup, "--warmup", is_optional=True),
        seconds=parse_duration(arguments.duration, "--duration"),
        soak=parse_duration(arguments.soak, "--soak", is_optional=True),
        timeout=parse_duration(arguments.timeout, "--timeout"),
        ceiling_seconds=_CEILING_SECONDS,
        seed=arguments.seed,
    )
    if len(plan.batch_sizes) * len(plan.concurrencies) > _MAX_LOADS:
        raise ConfigError(
            f"more than {_MAX_LOADS} loads", where="--concurrency", remedy="give fewer batch sizes or clients"
        )
    return plan


def parse_duration(text: str, where: str, *, is_optional: bool = False) -> float:
    """Parse a time such as ``5s``, ``1.5m`` or ``60`` as seconds.

    Args:
        text: What the user wrote.
        where: The flag.
        is_optional: Whether it may be 0.

    Raises:
        ConfigError: If it is no time, or out of range.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"cannot read the time {text!r}", where=where, remedy="write 30s, 5m or 1h")
    seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > _MAX_SECONDS or (seconds == 0 and not is_optional):
        least = "0" if is_optional else "more than 0"
        raise ConfigError(f"{text} is out of range", where=where, remedy=f"give {least} to 7 days")
    return seconds


def _parse_counts(text: str, where: str, most: int) -> tuple[int, ...]:
    """Parse whole numbers, separated by commas, without repetitions and in ascending order."""
    words = [part.strip() for part in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= most for word in words):
        raise ConfigError(
            f"cannot read {text!r}", where=where, remedy=f"write numbers from 1 to {most:,} such as 1,8"
        )
    return tuple(sorted({int(word) for word in words}))


def _parse_rates(text: str | None) -> tuple[float, ...] | None:
    """Parse rates, separated by commas; ``none`` gives no open loop, and None leaves them to the test."""
    if text is None:
        return None
    if text.strip() == "none":
        return ()
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = [0.0]
    if not all(0 < rate <= 100_000 for rate in rates):
        raise ConfigError(
            f"cannot read {text!r}", where="--rate", remedy="write requests per second such as 10,50"
        )
    return tuple(sorted(set(rates)))


def _check_libraries(*, is_served: bool) -> None:
    """Refuse to start without the libraries of the extra.

    Raises:
        ConfigError: Naming the command that installs them.
    """
    needed = (*_LIBRARIES, *(_SERVE_LIBRARIES if is_served else ()))
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"rbl load-test needs {', '.join(missing)}",
            remedy=f"install them: {format_install_command('web')}",
        )
