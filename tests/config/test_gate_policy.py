"""Policy files: what is read, and the one line for each mistake."""

from __future__ import annotations

import pytest

from robustbench_local.config.gate_policy import list_policies, load_policy, read_policy_text
from robustbench_local.errors import ConfigError

GATE = "gates:\n  - {metric: robust_accuracy, threat: linf-8, min: 20%}\n"
WAIVER = "waivers:\n  - {id: x, reason: r, owner: o, expiry: 2026-12-31}\n"


def read(tmp_path, text: str):
    file = tmp_path / "my policy.yaml"
    file.write_text(text, encoding="utf-8")
    return load_policy(str(file))


def test_a_policy_is_read_with_its_lines(tmp_path):
    loaded = read(
        tmp_path, f"# a comment\nschema: 1\n{GATE}\n  - metric: clean_accuracy\n    max_drop: 2 %\n{WAIVER}"
    )
    assert loaded.name == "my policy"
    assert loaded.gate_lines == (4, 6)
    assert [gate.min for gate in loaded.policy.gates] == [0.2, None]
    assert loaded.policy.gates[1].max_drop == 0.02
    assert loaded.policy.waivers[0].expiry.isoformat() == "2026-12-31"


@pytest.mark.parametrize(
    ("limit", "value"),
    [("20%", 0.2), ("0.2", 0.2), ('"1/5"', 0.2), ("12.5 %", 0.125), ("0%", 0.0), ("1", 1.0)],
)
def test_limits_are_shares_fractions_or_percentages(tmp_path, limit, value):
    loaded = read(tmp_path, f"gates:\n  - {{metric: clean_accuracy, min: {limit}}}\n")
    assert loaded.policy.gates[0].min == pytest.approx(value)


MISTAKES = {
    "gatez: []": "unknown key 'gatez'. Did you mean gates?",
    "schema: 2": "schema: input should be 1",
    "name: x": "a policy needs gates, or run_gates: true",
    "gates: []": "a policy needs gates, or run_gates: true",
    "gates: 3": "gates: input should be a valid list",
    "gates: [{metric: clean_accuracy}]": "a gate needs one of min, max and max_drop",
    "gates: [{metric: clean_accuracy, min: 1, max_drop: 1}]": "a gate needs one of min, max and max_drop",
    "gates: [{metric: clean_accuracy, max_dorp: 1}]": "'gates.0.max_dorp'. Did you mean max_drop?",
    "gates: [{metric: clean_accuracy, max_drop: 120%}]": "max_drop is a share between 0 and 1",
    "gates: [{metric: clean_accuracy, min: 120%}]": "a limit is a share between 0 and 1, got 1.2",
    "gates: [{metric: clean_accuracy, min: -1%}]": "greater than or equal to 0",
    "gates: [{metric: clean_accuracy, min: a lot}]": "cannot read the limit",
    "gates: [{metric: clean_accuracy, min: '%'}]": "cannot read the limit",
    "gates: [{metric: clean_accuracy, min: true}]": "a boolean is not a number",
    "gates: [{metric: median_distance, threat: linf-8, min: 3%}]": "a distance is not a percentage",
    "gates: [{metric: attack_success, threat: linf-8, max_drop: 1%}]": "max_drop limits ",
    "gates: [{metric: robust_accuracy, max_drop: 1%}]": "a gate needs a threat",
    "gates: [{metric: robust_accuracy, threat: lynf-8, min: 1%}]": "a threat is written like linf-8",
    "gates: [{metric: robust_accuracy, threat: '* *', min: 1%}]": "a threat is written like linf-8",
    "gates: [{metric: attack_success, threat: '*', max: 1%, per_class: true}]": "per_class goes with",
    "gates: [{metric: clean_accuracy, min: 1%, per_class: true, true_class: 1}]": "true_class or per_class",
    "gates: [{id: a, metric: clean_accuracy, min: 1}, {id: a, metric: clean_accuracy, max: 1}]": "used twice",
    "gates: [{id: '', metric: clean_accuracy, min: 1}]": "a name must not be empty",
    f"{GATE}waivers: [{{id: x, reason: r, expiry: 2026-12-31}}]": "waivers.0.owner: field required",
    f"{GATE}waivers: [{{id: x, reason: r, owner: o}}]": "waivers.0.expiry: field required",
    f"{GATE}waivers: [{{id: x, owner: o, expiry: 2026-12-31}}]": "waivers.0.reason: field required",
    f"{GATE}waivers: [{{id: x, reason: ' ', owner: o, expiry: 2026-12-31}}]": "reason: it must not be empty",
    f"{GATE}waivers: [{{id: x, reason: r, owner: o, expiry: soon}}]": "write a day as YYYY-MM-DD",
    f"{GATE}waivers: [{{id: x, reason: r, owner: o, expiry: 2026-02-30}}]": "write a day as YYYY-MM-DD",
    f"{GATE}waivers: [{{id: x, reason: r, owner: o, expiry: 31.12.2026}}]": "write a day as YYYY-MM-DD",
    f"{GATE}waivers: [{{id: x, reason: r, owner: {'o' * 301}, expiry: 2026-12-31}}]": "most 300 characters",
    f'{GATE}waivers: [{{id: x, reason: "a\\x1b[31m", owner: o, expiry: 2026-12-31}}]': "printable characters",
    "gates: &a [*a]": "not valid YAML in line 1: YAML aliases are not allowed",
    "- a": "the file must hold a mapping",
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.items())
def test_a_mistake_is_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "my policy.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_names_and_files_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gates").write_text(GATE, encoding="utf-8")
    (tmp_path / "release.yaml").write_text(GATE, encoding="utf-8")
    assert load_policy("gates").path is not None
    assert load_policy("release").path is None
    assert str(load_policy("release.yaml").path) == "release.yaml"
    for source, message in (
        ("relase", "there is no policy 'relase'. Did you mean release; a file"),
        ("none.yaml", "none.yaml: cannot be read"),
        ("./strict", "cannot be read"),
        (".", "there is no policy '.'"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_policy(source)
        assert message in str(caught.value), str(caught.value)


def test_ready_made_policies_are_listed_and_shown():
    assert list(list_policies()) == ["release", "strict", "traffic-signs"]
    assert all(list_policies().values())
    assert read_policy_text("strict").startswith("# Every limit")
    with pytest.raises(ConfigError, match="Did you mean strict"):
        read_policy_text("strikt")
