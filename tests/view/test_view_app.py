"""The pages over HTTP: what they show, what they refuse, and that no name from outside does anything."""

from __future__ import annotations

import html
import re
import shutil
from urllib.parse import quote

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")
from sample_run import HOSTILE_CLASS_NAMES, HOSTILE_MODELS, SampleRun
from starlette.testclient import TestClient
from view_samples import GATE, IDENTITY, PLANS, SAMPLE, build_broken_runs, build_sample

from robustbench_local.store import RunStore
from robustbench_local.view.run_folders import build_run_id
from robustbench_local.view.view_app import create_view

pytestmark = pytest.mark.extra
BASE = "http://127.0.0.1:8765"
HOSTILE_FOLDER = "<img src=x onerror=alert(1)>/نموذج\u202e ' \" & %2e%2e"
LONG = "long" * 50


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("view")
    first = build_sample(root / "nightly/first", environment={"started": "2026-11-01T00:00:00+00:00"})
    gated = SampleRun(models=SAMPLE.models, images=48, failing_cell=None, gates=({**GATE, "min": 0.999},),
                      plans=PLANS, question="Is it ready?")  # fmt: skip
    build_sample(root / "nightly/second", gated, environment={"started": "2026-11-02T00:00:00+00:00"})
    other = build_sample(root / "other data", data={"digest": "cd" * 32})
    hostile = SampleRun(models=HOSTILE_MODELS[:2], class_names=HOSTILE_CLASS_NAMES, images=16, plans=PLANS,
                        question="<script>alert('q')</script>", failing_cell=None)  # fmt: skip
    build_sample(root / HOSTILE_FOLDER, hostile)
    shutil.copytree(other, root / LONG)
    build_broken_runs(root, first)
    return root


@pytest.fixture(scope="module")
def client(root):
    errors = []
    with TestClient(create_view(root, errors.append), base_url=BASE) as client:
        yield client
    assert errors == []


def get_text(client, address, status=200):
    answer = client.get(address)
    assert answer.status_code == status, answer.text[:500]
    return html.unescape(answer.text)


def list_names(client, query=""):
    page = get_text(client, f"/{query}")
    return re.findall(r"data-entry><bdi[^>]*>([^<]*(?:<img src=x[^<]*)?)</bdi>", page)


NIGHTLY = ["nightly/second", "nightly/first"]
SEARCHES = [
    ("?q=NIGHTLY", NIGHTLY),
    ("?q=nightly+ready", ["nightly/second"]),
    ("?q=nightly&order=asc", NIGHTLY[::-1]),
    ("?q=nightly&sort=name&order=asc", NIGHTLY[::-1]),
    ("?verdict=fail", ["nightly/second"]),
    ("?verdict=pass", []),
    ("?from=2026-11-01&to=2026-11-01", ["nightly/first"]),
    ("?from=2026-11-02&to=2026-11-02", ["nightly/second"]),
    ("?model=signs-pgd-at&threat=linf-8&q=nightly", NIGHTLY),
    ("?model=no-such-model", []),
    ("?threat=no-such-threat", []),
    ("?data=signs+test&q=nightly", NIGHTLY),
    ("?data=cifar10", []),
    ("?q=unreadable+malformed", ["damaged"]),
]


@pytest.mark.parametrize(("query", "names"), SEARCHES)
def test_runs_are_searched_filtered_and_sorted(client, query, names):
    assert list_names(client, query) == names


def test_the_list_has_rates_with_interval_and_n_and_every_broken_run(client):
    page = get_text(client, "/")
    assert len(list_names(client)) == 12
    assert re.search(
        r"95\.8%</span> <span class=\"small soft\">85\.7\u2060\u2013\u206099\.5%, n\xa0=\xa048<", page
    )
    assert page.count('class="state fail">unreadable<') == 7
    assert 'class="state fail">FAIL<' in page
    problems = get_text(client, "/?verdict=pas&from=yesterday&sort=nonsense&page=-3")
    assert "There is no verdict 'pas'; did you mean" in problems.replace("Did", "did")
    assert "'yesterday' is no day" in problems


def test_a_long_list_has_pages(client, monkeypatch):
    from robustbench_local.view import run_pages

    monkeypatch.setattr(run_pages, "RUNS_PER_PAGE", 5)
    found = [name for page in (1, 2, 3) for name in list_names(client, f"?sort=name&order=asc&page={page}")]
    assert len(found) == len(set(found)) == 12
    assert list_names(client, "?sort=name&order=asc&page=99") == found[10:]  # the last one


def test_a_run_its_report_and_its_comparison(client):
    first, second = (build_run_id(f"nightly/{name}") for name in ("first", "second"))
    page = get_text(client, f"/runs/{second}")
    assert re.search("limits are not met: .*signs-plain.* robust accuracy under", page)
    answer = client.get(f"/runs/{second}/report")
    assert "Is it ready?" in answer.text
    assert f'<a href="/runs/{second}">nightly/second</a>' in answer.text
    policy = answer.headers["content-security-policy"]
    assert "style-src 'sha256-" in policy
    assert policy.endswith("frame-ancestors 'none'")
    assert 'name="baseline"' in get_text(client, f"/compare?run={first}")
    compared = get_text(client, f"/compare?baseline={first}&run={second}")
    assert "not shown to differ for 2 of 2 models" in compared
    other = build_run_id("other data")
    assert "other images" in get_text(client, f"/compare?baseline={first}&run={other}", 422)
    assert "the runs have other images" in get_text(
        client, f"/compare?baseline={first}&run={other}&data=different"
    )
    assert "with itself" in get_text(client, f"/compare?baseline={first}&run={first}", 422)
    assert "not here any more" in get_text(client, f"/compare?baseline={first}&run=0", 422)


def test_a_trend_joins_runs_that_can_be_compared_only(client):
    page = get_text(client, "/trends?model=signs-pgd-at&threat=linf-8")
    assert page.count("<polyline") == 2  # nightly; the other data and their copy
    assert re.findall(r"<tr><td>([A-C])</td><td class=\"nowrap\">([^<]*)</td>", page) == [
        ("A", "2026-11-01"),
        ("A", "2026-11-02"),
        ("B", "2026-11-22"),
        ("B", "2026-11-22"),
    ]
    assert "0.0 percentage points, over 2 runs that can be compared" in page
    assert "No run has robust accuracy" in get_text(client, "/trends?model=nobody&threat=linf-8")


def test_all_images_are_shown_filtered_and_open_one_by_one(client):
    run = build_run_id("nightly/first")
    address, model = f"/runs/{run}/images", "&model=signs-pgd-at"
    counts = {}
    for outcome in ("", "success", "robust", "misclassified", "certified"):
        page = get_text(client, f"{address}?outcome={outcome}{model}")
        counts[outcome] = int(re.search(r"([0-9]+) images?[;<]", page)[1])
    assert counts[""] == 48
    assert counts["success"] + counts["robust"] + counts["misclassified"] == 48
    assert counts["misclassified"] == 2
    one_class = get_text(client, f"{address}?class=3{model}")
    assert re.search(r"([0-9]+) images?[;<]", one_class)[1] == "3"
    attack = re.search(r'<option value="([0-9a-f]{16})">fgsm', one_class)[1]
    fgsm = get_text(client, f"{address}?cell={attack}&outcome=success")
    assert 0 < int(re.search(r"([0-9]+) images?<", fgsm)[1]) < counts["success"]
    link = html.unescape(re.search(r'<a href="(/runs/[^"]*/image[^"]*)" data-entry', fgsm)[1])
    page = get_text(client, link)
    assert f"image 1 of {re.search(r'([0-9]+) images?<', fgsm)[1]}" in page
    assert 'rel="next"' in page
    assert 'rel="prev"' not in page
    for text in ("Prediction, under attack", "Distance", "Margin", "forward pass"):
        assert text in page
    pictures = re.findall(r'<img src="([^"]*)"', page)
    assert {address.rpartition("/")[2] for address in pictures} == {
        "clean.png",
        "attacked.png",
        "difference.png",
    }
    for address in pictures:
        answer = client.get(address)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_images_that_are_not_kept_are_read_from_the_data_if_they_are_the_same(client, root):
    run = build_run_id("nightly/first")
    viewer = client.app.state.viewer
    with viewer.open_run(viewer.catalog.find_run(run)) as opened:
        opened.data.start_loading(wait_seconds=None)
        assert (opened.data.problem, opened.data.is_loading) == ("", False)
    page = get_text(client, f"/runs/{run}/images?data=read&outcome=robust&model=signs-pgd-at")
    assert "the data on this machine do not have this image" in page  # the sample's own pictures
    cell = re.search(r'<option value="([0-9a-f]{16})">', page)[1]
    assert client.get(f"/runs/{run}/pictures/{cell}/47/clean.png?data=read").status_code == 404


def test_damaged_images_are_not_shown(client, root, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(root / "nightly/first", run)
    for file in run.glob("adversarial/*/*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 0x40
        file.write_bytes(content)
    with TestClient(create_view(tmp_path), base_url=BASE) as own:
        page = get_text(own, f"/runs/{build_run_id('run')}/images?outcome=success")
        assert "is not the one of its outcome" in page
        shutil.rmtree(run / "adversarial")
        (run / "adversarial").symlink_to(root / "nightly/first/adversarial")
        (run / "load_test.json").write_text("[]")  # the run has changed
        page = get_text(own, f"/runs/{build_run_id('run')}/images?outcome=success")
        assert "leads out of the run directory" in page


def test_hostile_names_are_text(client):
    pages = ["/", "/trends", "/compare", "/?q=%3Cscript%3Ealert(1)%3C/script%3E&model=%00%0a"]
    run = build_run_id(HOSTILE_FOLDER)
    pages += [f"/runs/{run}{page}" for page in ("", "/images", "/report", "/image?id=test/00003.png")]
    pages += [f"/trends?model={quote(HOSTILE_MODELS[0])}&threat=linf-8", f"/runs/{build_run_id(LONG)}"]
    for address in pages:
        text = client.get(address).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "\u202e" not in text
        assert "onerror=alert(1)>" not in text.replace("&gt;", "")
    assert html.escape(HOSTILE_MODELS[0]) in client.get(pages[-2]).text


NOWHERE = [
    "/nothing", "/runs/", "/runs/0000000000000000", "/runs/..%2f..%2fetc%2fpasswd", "/runs/%00", "/runs/%0a",
    "/runs/{run}/", "/runs/{run}/image", "/runs/{run}/image?id=../../etc/passwd", "/runs/{run}/image?id=%00",
    "/runs/{run}/pictures/{cell}/0/..%2fclean.png", "/runs/{run}/pictures/{cell}/0/other.png",
    "/runs/{run}/pictures/{cell}/-1/clean.png", "/runs/{run}/pictures/{cell}/99999999999999999999/clean.png",
    "/runs/{run}/pictures/{cell}/4711/clean.png", "/runs/{run}/pictures/nothing/0/clean.png",
    "/runs/{run}/run.db", "/static/..%2f..%2fview_app.py",
]  # fmt: skip


@pytest.mark.parametrize("address", NOWHERE)
def test_what_is_not_there_is_not_found(client, address):
    filled = address.format(run=build_run_id("nightly/first"), cell=f"00{'c' * 14}")
    answer = client.get(filled)
    assert answer.status_code == 404
    assert "Not found" in answer.text


def test_a_run_that_cannot_be_read_says_so_everywhere(client):
    run = build_run_id("damaged")
    assert "malformed" in get_text(client, f"/runs/{run}")
    for page in ("report", "images", "image?id=1"):
        assert "malformed" in get_text(client, f"/runs/{run}/{page}", 422)


REFUSED = [
    ({"host": "evil.example"}, 421), ({"host": "192.168.1.7:8765"}, 421), ({"host": ""}, 421),
    ({"host": "127.0.0.1.evil.example"}, 421), ({"origin": "http://evil.example"}, 403),
    ({"origin": "null"}, 403), ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
    ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
    ({"origin": BASE}, 200), ({"host": "localhost:1"}, 200), ({"host": "[::1]:8765"}, 200),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "status"), REFUSED)
def test_other_hosts_and_other_sites_are_refused(client, headers, status):
    answer = client.get("/icon.svg", headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-frame-options"] == "DENY"


def test_nothing_but_reading_is_allowed(client):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = client.request(method, "/")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    head = client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert client.get(f"/?q={'x' * 8188}").status_code == 200
    assert client.get(f"/?q={'x' * 8191}").status_code == 414


def test_an_internal_error_is_a_page_without_details(root, monkeypatch):
    from robustbench_local.view import run_pages

    errors = []
    monkeypatch.setattr(run_pages, "list_choices", lambda runs: 1 / 0)
    with TestClient(create_view(root, errors.append), base_url=BASE, raise_server_exceptions=False) as client:
        answer = client.get("/")
    assert (answer.status_code, len(errors)) == (500, 1)
    assert "ZeroDivisionError" not in answer.text
    assert answer.headers["x-frame-options"] == "DENY"


def test_content_of_another_kind_fails_its_own_pages_only(tmp_path):
    folder = build_sample(tmp_path / "odd")
    build_sample(tmp_path / "sound")
    with RunStore.create_or_open(folder, resolved_yaml="schema: 1\n", identity=IDENTITY) as store:
        changes = {"labels": {"attacks": 3}, "data": [1], "environment": {"started": 7, "code": {"a": 1}}}
        store.update_meta(changes)
        summary = {**store.read_meta("summary"), "of": store.compute_fingerprint()}
        summary["rows"][0] |= {"label": ["<b>"], "threat": 3}
        store.set_meta("summary", summary)
    with TestClient(create_view(tmp_path), base_url=BASE) as client:
        assert list_names(client, "?sort=model") == ["sound", "odd"]
        assert "&lt;b&gt;" in client.get("/trends").text
        run = build_run_id("odd")
        assert client.get(f"/runs/{run}").status_code == 200
        for page in ("images", "report"):
            assert "not as expected" in get_text(client, f"/runs/{run}/{page}", 422)
