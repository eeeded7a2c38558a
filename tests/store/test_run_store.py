"""The run directory: what goes in comes out, once, and another grid's run is left alone."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import IDENTITY, KEY, OTHER_KEY, RESOLVED, make_cell, make_outcome

from robustbench_local.errors import ConfigError, InvariantError, LockedError
from robustbench_local.store import EventRecord, RunStore


def reopen(directory: Path, **changes: Any) -> RunStore:
    return RunStore.create_or_open(directory, **{"resolved_yaml": RESOLVED, "identity": IDENTITY, **changes})


def test_outcomes_come_back_equal(store: RunStore) -> None:
    rows = [
        make_outcome(2, status="rejected", error="outside the ball by 0.2"),
        make_outcome(0, clean_prediction=None, adversarial_prediction=None, margin=None, broken_8bit=False),
        make_outcome(1, certified=True, radius=0.25, broken=False),
        make_outcome(3, certified=False, radius=None, clean_prediction=None, abstained=True),
    ]
    assert store.add_outcomes(KEY, rows) == 4
    assert store.read_outcomes(KEY) == sorted(rows, key=lambda row: row.position)
    assert store.read_outcomes(OTHER_KEY) == []
    assert store.read_done_positions(KEY) == {0, 1, 2, 3}


def test_read_outcomes_have_python_types(store: RunStore) -> None:
    written = make_outcome(
        0,
        label=np.int64(3),
        margin=np.float32(0.5),
        broken=np.bool_(True),
        linf=np.float64(0.25),
        certified=np.bool_(True),
        radius=np.float64(0.5),
    )
    store.add_outcomes(KEY, [written])
    (read,) = store.read_outcomes(KEY)
    types = {name: type(value) for name, value in vars(read).items()}
    assert types["label"] is int
    assert types["margin"] is float
    assert types["broken"] is types["clean_correct"] is types["fragile"] is types["moved_elsewhere"] is bool
    assert types["broken_8bit"] is types["certified"] is types["abstained"] is bool
    assert types["radius"] is float
    assert (read.label, read.margin, read.broken, read.linf) == (3, 0.5, True, 0.25)


@pytest.mark.parametrize("margin", [math.nan, math.inf, -math.inf])
def test_a_margin_that_is_no_number_is_null(store: RunStore, directory: Path, margin: float) -> None:
    store.add_outcomes(
        KEY, [make_outcome(0, margin=margin, l2=math.nan, status="non-finite", error="NaN logits")]
    )
    (read,) = store.read_outcomes(KEY)
    assert read.margin is None
    assert math.isnan(read.l2)
    with sqlite3.connect(directory / "run.db") as raw:
        assert raw.execute("SELECT margin, l2, error FROM outcomes").fetchone() == (None, None, "NaN logits")
    raw.close()


def test_the_first_outcome_of_an_image_stays(store: RunStore) -> None:
    first = make_outcome(4, broken=False)
    store.add_outcomes(KEY, [first])
    assert store.add_outcomes(KEY, [make_outcome(4, broken=True), make_outcome(5)]) == 1
    assert store.read_outcomes(KEY) == [first, make_outcome(5)]


def test_a_bad_outcome_takes_its_chunk_with_it(store: RunStore) -> None:
    with pytest.raises(InvariantError, match="CHECK"):
        store.add_outcomes(KEY, [make_outcome(0), make_outcome(-1)])
    with pytest.raises(InvariantError, match="given to cell"):
        store.add_outcomes(KEY, [make_outcome(0), make_outcome(1, OTHER_KEY)])
    assert store.read_outcomes(KEY) == []


def test_outcomes_need_their_cell(store: RunStore) -> None:
    with pytest.raises(InvariantError, match="FOREIGN KEY"):
        store.add_outcomes("beef", [make_outcome(0, "beef")])


def test_cells_come_back_equal_in_the_order_of_the_grid(store: RunStore) -> None:
    transferred = {"knowledge": "transfer", "surrogate": "signs-pgd-at", "measure": "distance"}
    store.put_cell(make_cell("11", position=-1, targets=(), note="<script>", error=None))
    store.put_cell(make_cell("12", position=2, **transferred))
    assert store.read_cells() == [
        make_cell("11", position=-1, targets=(), note="<script>"),
        make_cell(),
        make_cell(OTHER_KEY, position=1),
        make_cell("12", position=2, **transferred),
    ]


def test_put_cell_again_keeps_status_and_outcomes(store: RunStore) -> None:
    store.set_status(KEY, "error", "out of memory with one image")
    store.add_outcomes(KEY, [make_outcome(0)])
    store.put_cell(make_cell(note="said anew", status="pending"))
    assert store.read_cells()[0] == make_cell(
        note="said anew", status="error", error="out of memory with one image"
    )
    assert store.read_outcomes(KEY) == [make_outcome(0)]
    store.set_status(KEY, "done")
    assert (store.read_cells()[0].status, store.read_cells()[0].error) == ("done", None)


def test_a_status_needs_its_cell(store: RunStore) -> None:
    with pytest.raises(InvariantError, match="no cell 'beef'"):
        store.set_status("beef", "done")


def test_events_keep_their_order(store: RunStore) -> None:
    event = EventRecord(time="2031-01-02T03:04:05+00:00", level="error", message="bad \udcff", cell=KEY)
    store.add_event(event)
    later = EventRecord(time="2031-01-02T03:04:04+00:00", level="info", message="batch halved to 32")
    store.add_event(later)
    first, second = store.read_events()
    assert first.message == "bad \\udcff"
    assert (first.time, first.level, first.cell) == (event.time, event.level, event.cell)
    assert second == later


def test_meta_is_strict_json(store: RunStore, directory: Path) -> None:
    value = {
        "accuracy": math.nan,
        "worst": [-math.inf, 1.5],
        "shape": (3, 32, 32),
        3: "限速 🛑 إيقاف",
        "file": Path("a") / "b",
        "n": np.int64(7),
        "half": np.float32(0.5),
        "lost": "\udcff",
        "yes": True,
        "none": None,
    }
    store.set_meta("environment", "old")
    store.set_meta("environment", value)
    assert store.read_meta("environment") == {
        "accuracy": None,
        "worst": [None, 1.5],
        "shape": [3, 32, 32],
        "3": "限速 🛑 إيقاف",
        "file": str(Path("a") / "b"),
        "n": 7,
        "half": 0.5,
        "lost": "\\udcff",
        "yes": True,
        "none": None,
    }
    with sqlite3.connect(directory / "run.db") as raw:
        (text,) = raw.execute("SELECT value FROM meta").fetchone()
    raw.close()
    assert json.loads(text, parse_constant=pytest.fail)["accuracy"] is None


def test_meta_is_updated_in_one_step(store: RunStore) -> None:
    store.update_meta({"seed": 0, "question": "safe?"})
    with pytest.raises(InvariantError):
        store.update_meta({"seed": 1, "models": [object()]})
    store.update_meta({"question": "how safe?", "gates": []})
    assert [store.read_meta(key) for key in ("seed", "question", "gates")] == [0, "how safe?", []]


def test_meta_that_is_absent(store: RunStore) -> None:
    assert store.read_meta("gates") is None
    assert store.read_meta("gates", []) == []


def test_meta_that_json_cannot_say(store: RunStore) -> None:
    with pytest.raises(InvariantError, match="object cannot be represented in JSON"):
        store.set_meta("models", [object()])


def test_resume_finds_everything(directory: Path) -> None:
    with reopen(directory) as store:
        assert not store.resumed
        store.put_cell(make_cell())
        store.add_outcomes(KEY, [make_outcome(0)])
        store.set_meta("seed", 5)
    with reopen(directory) as store:
        assert store.resumed
        assert store.read_outcomes(KEY) == [make_outcome(0)]
        assert store.read_cells() == [make_cell()]
        assert store.read_meta("seed") == 5
        assert store.read_identity() == IDENTITY
        assert store.read_events() == []


def test_resolved_grid_is_written_as_given(directory: Path) -> None:
    reopen(directory, resolved_yaml="name: 限速\r\n").close()
    assert (directory / "run.yaml").read_bytes() == "name: 限速\r\n".encode()
    reopen(directory, resolved_yaml="name: other gates\n").close()
    assert (directory / "run.yaml").read_text() == "name: other gates\n"


def test_a_closed_run_is_one_database_file(store: RunStore, directory: Path) -> None:
    store.add_outcomes(KEY, [make_outcome(0)])
    assert {file.name for file in directory.iterdir()} >= {"run.db", "run.db-wal", "run.lock", "run.yaml"}
    store.close()
    store.close()
    assert {file.name for file in directory.iterdir()} == {"run.db", "run.yaml"}


def test_another_grid_is_refused_by_the_key_that_differs(directory: Path) -> None:
    with reopen(directory) as store:
        store.put_cell(make_cell())
        store.add_outcomes(KEY, [make_outcome(0)])
    with pytest.raises(ConfigError, match=r"data\.seed: 0 there, 1 here") as caught:
        reopen(directory, identity={**IDENTITY, "data.seed": "1"}, resolved_yaml="another\n")
    assert str(directory) in str(caught.value)
    assert caught.value.exit_code == 2
    assert (directory / "run.yaml").read_text() == RESOLVED
    with reopen(directory) as store:
        assert store.read_outcomes(KEY) == [make_outcome(0)]
        assert store.read_identity() == IDENTITY


def test_long_hashes_and_long_lists_of_differences_are_shortened(directory: Path) -> None:
    reopen(directory, identity={"model": "ab" * 32, "gone": "1", "a": "1", "b": "1"}).close()
    with pytest.raises(ConfigError) as caught:
        reopen(directory, identity={"model": "cd" * 32, "a": "2", "b": "2"})
    assert "a: 1 there, 2 here; b: 1 there, 2 here; gone: 1 there, absent here and 1 more" in str(
        caught.value
    )
    with pytest.raises(ConfigError, match=r"model: abababababab\.\.\. there, cdcdcdcdcdcd\.\.\. here"):
        reopen(directory, identity={"model": "cd" * 32, "gone": "1", "a": "1", "b": "1"})


def test_a_folder_with_other_things_is_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not empty and contains no run \(it has 'thesis.tex'\)"):
        reopen(directory)
    assert [file.name for file in directory.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_with_hidden_files_will_do(directory: Path) -> None:
    directory.mkdir()
    (directory / ".DS_Store").touch()
    reopen(directory).close()
    assert (directory / "run.db").is_file()


@pytest.mark.parametrize("content", [b"not a database at all" * 99, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_left_alone(directory: Path, content: bytes) -> None:
    directory.mkdir()
    (directory / "run.db").write_bytes(content)
    with pytest.raises(ConfigError, match="not a readable database"):
        reopen(directory)
    with pytest.raises(ConfigError, match="not a readable database"):
        RunStore.open_readonly(directory)
    assert (directory / "run.db").read_bytes() == content


def test_another_programs_database_is_left_alone(directory: Path) -> None:
    directory.mkdir()
    with sqlite3.connect(directory / "run.db") as other:
        other.execute("CREATE TABLE runs (day TEXT)")
    other.close()
    for opening in (reopen, RunStore.open_readonly):
        with pytest.raises(ConfigError, match="belongs to another program"):
            opening(directory)


def test_a_damaged_database_is_told_at_once(store: RunStore, directory: Path) -> None:
    store.add_outcomes(KEY, [make_outcome(position) for position in range(500)])
    store.close()
    content = bytearray((directory / "run.db").read_bytes())
    for page in range(3 * 4096, len(content), 4096):
        content[page : page + 64] = b"\xa5" * 64
    (directory / "run.db").write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.db: .*(damaged|malformed)"):
        reopen(directory)


def test_half_started_run_is_started_again(directory: Path) -> None:
    directory.mkdir()
    (directory / "run.db").touch()
    (directory / "run.lock").touch()
    with reopen(directory) as store:
        assert not store.resumed
        assert store.read_identity() == IDENTITY


def test_two_writers_in_one_process(store: RunStore, directory: Path) -> None:
    with pytest.raises(LockedError):
        reopen(directory)


def test_reading_only_means_it(store: RunStore, directory: Path) -> None:
    with RunStore.open_readonly(directory) as reader:
        for write in (
            lambda: reader.put_cell(make_cell()),
            lambda: reader.set_meta("seed", 1),
            lambda: reader.save_arrays(KEY, 0, {"positions": np.arange(2)}),
        ):
            with pytest.raises(InvariantError, match="opened read-only"):
                write()
        assert reader.read_cells() == store.read_cells()


def test_threads_share_a_store(store: RunStore) -> None:
    def add(key: str) -> None:
        for position in range(40):
            store.add_outcomes(key, [make_outcome(position, key)])
            store.read_outcomes(key)

    threads = [threading.Thread(target=add, args=(key,)) for key in (KEY, OTHER_KEY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store.read_outcomes(key)) for key in (KEY, OTHER_KEY)] == [40, 40]


def test_a_thousand_outcomes_are_soon_added_and_read(store: RunStore) -> None:
    """Real figures are some 25 ms and 12 ms; the limits leave room for a busy machine."""
    rows = [make_outcome(position) for position in range(1000)]
    start = time.perf_counter()
    store.add_outcomes(KEY, rows)
    added = time.perf_counter()
    assert len(store.read_outcomes(KEY)) == 1000
    assert added - start < 0.5
    assert time.perf_counter() - added < 0.5
