"""The ceiling of the load generator: what it gets from a server of its own that does nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from robustbench_local.errors import StorageError
from robustbench_local.load_test.http_connections import HttpConnections
from robustbench_local.load_test.measured_load import BatchClient, Load, LoadTiming, measure_load
from robustbench_local.load_test.service import Service

_STOP_SECONDS = 5.0


async def measure_ceiling(
    service: Service, client: BatchClient, answer: bytes, *, concurrency: int, seconds: float
) -> float:
    """Measure how many images the generator can send and read per second.

    The same requests go to a process on this machine that answers each with the same bytes at once.

    Args:
        service: The service under test, for its headers.
        client: The batches.
        answer: An answer of the service to one of them.
        concurrency: Clients of the closed loop.
        seconds: Measured time.
    """
    size = len(client.expected[0])
    async with _run_null_server(answer) as port:
        address = replace(
            service.address,
            host="127.0.0.1",
            port=port,
            is_secure=False,
            headers=tuple(one for one in service.address.headers if one[0] != "authorization"),
        )
        async with HttpConnections(address) as connections:
            own = BatchClient(connections, client.wire, client.bodies, client.expected)
            timing = LoadTiming(warmup=seconds / 4, seconds=seconds, timeout=max(10.0, seconds))
            result, _ = await measure_load(Load(size, concurrency), own, timing)
    return result.throughput.value or 0.0


@asynccontextmanager
async def _run_null_server(answer: bytes) -> AsyncIterator[int]:
    """Run the server that does nothing; yields its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "robustbench_local.load_test.null_server",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101 - pipes
        process.stdin.write(answer)
        process.stdin.close()
        line = await process.stdout.readline()
        if not line.strip().isdigit():
            raise StorageError("the server that measures the generator does not start")
        yield int(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
