"""Tables in LaTeX: they hold the run's numbers, and no name can run anything in them."""

from __future__ import annotations

import re

import pytest

from robustbench_local.reports.exports.latex_table import LatexEntry, LatexTable, render_latex_table
from robustbench_local.reports.exports.latex_tables import write_latex_tables
from robustbench_local.reports.exports.latex_text import escape_latex, needs_unicode_engine
from robustbench_local.statistics import compute_clopper_pearson


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50% of $x_1 & #2", r"50\% of \$x\_1 \& \#2"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a--b''c", "a-{}-b'{}'c"),
        ("[2pt]", "{[}2pt{]}"),
        ("*", "{*}"),
        (
            '~^|<>"`',
            r"\textasciitilde{}\textasciicircum{}\textbar{}\textless{}\textgreater{}\textquotedbl{}\textasciigrave{}",
        ),
        ("one\n\n two\tthree", "one two three"),
        ("L\N{INFINITY} \N{LESS-THAN OR EQUAL TO} 8/255, 1\N{EN DASH}2", r"L$\infty$ $\leq$ 8/255, 1--2"),
        ("a\x1bb", "a\N{REPLACEMENT CHARACTER}b"),
    ],
)
def test_a_text_is_typeset_as_it_is(text, expected):
    assert escape_latex(text) == expected


def test_letters_beyond_latin_are_told_to_whoever_compiles():
    assert not needs_unicode_engine(escape_latex("Fußgänger, élève, žluť \N{INFINITY}"))
    assert needs_unicode_engine(escape_latex("限速五十"))
    assert needs_unicode_engine("\N{COPYRIGHT SIGN}")


def test_a_column_of_equal_n_has_it_in_its_head_and_any_other_below_each_share():
    half, third = compute_clopper_pearson(5, 10), compute_clopper_pearson(4, 12)
    unknown = compute_clopper_pearson(0, 0)
    table = LatexTable(
        label="x",
        caption="100% & more",
        row_title="Model",
        columns=("FGSM", f"A very long name of an attack {'x' * 200}"),
        rows=(
            ("[a]", (LatexEntry(estimate=half), LatexEntry(estimate=half, is_bold=True, mark="\N{DAGGER}"))),
            ("b", (LatexEntry(estimate=unknown, status_text="not run"), LatexEntry(estimate=third))),
        ),
    )
    text = render_latex_table(table)
    assert r"\caption{100\% \& more}" in text
    assert r" & {\scriptsize n = 10} &  \\" in text
    assert r"{[}a{]} & 50.0 & \textbf{50.0}$^\dagger$ \\" in text
    assert r" & {\scriptsize 18.7--81.3} & {\scriptsize 18.7--81.3} \\" in text
    assert r" &  & {\scriptsize n = 10} \\[2pt]" in text
    assert "b & not run & 33.3" in text
    assert r"\begin{table}[t]" in text
    assert r"\shortstack[r]{A very long\\name of an\\attack\\" + "x" * 29 + r"\ldots{}" + "x" * 10 in text
    widened = LatexTable(label="x", caption="", row_title="", columns=("a",) * 4, rows=())
    assert r"\begin{table*}[t]" in render_latex_table(widened)


def test_the_tables_hold_the_numbers_of_the_run(content):
    tables = write_latex_tables(content.evidence)
    assert list(tables)[:1] == ["robust-accuracy.tex"]
    robust = tables["robust-accuracy.tex"]
    for worst in content.evidence.worst_cases:
        assert f"\\label{{tab:robust-{worst.threat.name.replace('.', '-')}}}" in robust
        if worst.robust_accuracy.is_known:
            assert f"{100 * worst.robust_accuracy.value:.1f}" in robust
    assert robust.startswith("% Needs \\usepackage{booktabs}.\n")
    assert "Bold: the highest worst case" in robust
    assert str(content.evidence.data["digest"]) in robust


def test_a_missing_attack_is_marked_at_the_worst_case(build_evidence):
    evidence = build_evidence()
    text = write_latex_tables(evidence)["robust-accuracy.tex"]
    assert re.search(r"\$\^\\ddagger\$signs-plain: without ", text)
    assert "so it may be too high" in text


@pytest.mark.parametrize("name", ["sample", "hostile", "transfer_sample"])
def test_braces_and_columns_are_balanced_whatever_the_names(request, name, read_content):
    content = read_content(request.getfixturevalue(name).run_dir)
    for text in write_latex_tables(content.evidence).values():
        body = re.sub(r"(?m)^%.*$", "", text)
        assert not re.search(r"(?<!\\)[#~]|(?<![\\])%", body)
        bare = re.sub(r"\\[{}&_%$#]", "", body)
        depth = 0
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
        assert depth == 0
        for table in re.findall(r"\\begin\{tabular\}\{(lr*)\}(.*?)\\end\{tabular\}", bare, flags=re.DOTALL):
            rows = [row for row in re.split(r"\\\\(?:\[2pt\])?\n", table[1]) if "&" in row]
            assert {row.count("&") for row in rows} == {len(table[0]) - 1}


def test_corruptions_and_transfers_have_tables(read_content, transfer_sample):
    tables = write_latex_tables(read_content(transfer_sample.run_dir).evidence)
    assert {"corruptions.tex", "transfer-attacks.tex"} <= tables.keys()
    assert "average case" in tables["corruptions.tex"]


def test_a_run_without_results_has_no_tables(build_evidence):
    assert write_latex_tables(build_evidence(plans=())) == {}
