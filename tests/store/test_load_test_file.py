"""load_test.json: one test for each model, and nothing that was changed since."""

from __future__ import annotations

import json

import pytest
from load_records import make_load_test, make_soaked_test

from robustbench_local.errors import DamagedError, RefusedError
from robustbench_local.store.load_test_file import MAX_FILE_BYTES, add_load_test, read_load_tests
from robustbench_local.store.run_folder import LOAD_TEST_NAME, refuse_foreign_folder


def test_a_later_test_of_a_model_replaces_the_earlier(tmp_path):
    assert read_load_tests(tmp_path) == ()
    first, other, again = make_load_test(), make_load_test("other"), make_soaked_test()
    for record in (first, other, again):
        assert add_load_test(tmp_path / "run", record) == tmp_path / "run" / LOAD_TEST_NAME
    assert read_load_tests(tmp_path / "run") == (other, again)
    refuse_foreign_folder(tmp_path / "run")  # a run may begin beside it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"requests": 400', '"requests": 401', 1), "differs from what was written"),
        (lambda text: text.replace('"requests": 400', '"requests": -1', 1), "tests.0.loads.0.requests"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema"),
        (lambda text: text.replace('"seed": 0', '"seed": 0, "extra": 1'), "tests.0.extra"),
        (lambda text: text[:-20], "not JSON"),
        (lambda _text: "[]", "is no file of load tests"),
        (lambda _text: "[" * 100_000, "not JSON"),
        (lambda text: text + " " * MAX_FILE_BYTES, "larger than 16 MiB"),
    ],
)
def test_a_changed_file_is_not_read(tmp_path, change, message):
    path = add_load_test(tmp_path, make_load_test())
    path.write_text(change(path.read_text("utf-8")), "utf-8")
    with pytest.raises(DamagedError, match=message):
        read_load_tests(tmp_path)
    with pytest.raises(DamagedError):
        add_load_test(tmp_path, make_load_test())


def test_links_are_not_followed_and_the_file_is_json(tmp_path):
    (tmp_path / LOAD_TEST_NAME).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RefusedError, match="symbolic link"):
        add_load_test(tmp_path, make_load_test())
    path = add_load_test(tmp_path / "new", make_load_test())
    assert json.loads(path.read_text("utf-8"))["schema"] == 1
