"""An interrupt that is swallowed comes again, and one that was heard does not."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from robustbench_local.cli import interrupt, main


@pytest.fixture
def listening(monkeypatch):
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    monkeypatch.setattr(interrupt, "REPEAT_SECONDS", 0.1)
    interrupt.install_signal_handlers()
    yield
    interrupt.cancel_repeat()
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_comes_again_until_it_is_heard(listening, kind):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(kind)
    for _ in range(2):  # as if nobody had heard
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
    interrupt.cancel_repeat()
    time.sleep(0.3)


@pytest.mark.parametrize(("is_interrupted", "code"), [(True, 130), (False, 70)])
def test_an_interrupt_that_compiled_code_turned_into_another_error_is_one(
    listening, monkeypatch, capsys, is_interrupted, code
):
    def convert_arguments(*_arguments, **_options):
        if is_interrupted:
            with contextlib.suppress(KeyboardInterrupt):  # as a binding does that gives up on its arguments
                signal.raise_signal(signal.SIGTERM)
        raise TypeError("incompatible function arguments")

    monkeypatch.setattr(main, "build_app", lambda _arguments: convert_arguments)
    assert main.run_command(["run"]) == code
    assert ("internal error" in capsys.readouterr().err) == (not is_interrupted)
    assert not interrupt.is_interrupt_pending()
