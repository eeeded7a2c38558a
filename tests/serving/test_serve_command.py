"""``rbl serve`` as a user runs it: many requests at once, signals in the middle, kills, taken ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

for library in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(library, reason="needs the extra web")
import httpx
from serving_process import ServerProcess, run_serve
from serving_samples import RED, encode_image

from robustbench_local.cli.main import run_command
from robustbench_local.serving.serving_options import ServingOptions

pytestmark = [pytest.mark.extra, pytest.mark.slow]
SIGN = encode_image((200, 30, 30))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    with run_serve(
        folder, "zoo:signs-plain", "--compare", "zoo:signs-ibp", "--port", "0", "--rate", "0"
    ) as one:
        yield one


def test_two_hundred_requests_at_once_are_all_answered(server):
    async def send_all():
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
            return await asyncio.gather(*(client.post("predict", files={"image": SIGN}) for _ in range(200)))

    responses = asyncio.run(send_all())
    assert {response.status_code for response in responses} == {200}
    probabilities = {response.json()["images"][0]["prediction"]["probability"] for response in responses}
    assert max(probabilities) - min(probabilities) < 1e-4  # the same image in batches of any size
    metrics = httpx.get(f"{server.url}metrics").text
    batches = next(line for line in metrics.splitlines() if line.startswith("rbl_batch_images_count"))
    assert float(batches.rpartition(" ")[2]) < 150  # several requests shared a pass


def test_predictions_go_on_while_an_attack_runs(server):
    answers = []

    def attack():
        response = httpx.post(
            f"{server.url}attack",
            files={"image": SIGN},
            params={"attack": "square", "steps": "100", "eps": "0.0005"},
            timeout=120,
        )
        answers.append(response.json())

    thread = threading.Thread(target=attack)
    thread.start()
    predicted = 0
    while thread.is_alive() and predicted < 20:
        assert httpx.post(f"{server.url}predict", files={"image": SIGN}, timeout=60).status_code == 200
        predicted += 1
    thread.join(120)
    assert [result["model"] for result in answers[0]["results"]] == ["zoo:signs-plain", "zoo:signs-ibp"]
    assert predicted > 0


def test_sigterm_finishes_requests_and_ends_with_success(tmp_path):
    with run_serve(
        tmp_path, "zoo:signs-plain", "--port", "0", "--no-attacks", "--max-wait", "1500"
    ) as server:
        responses = []
        thread = threading.Thread(
            target=lambda: responses.append(
                httpx.post(f"{server.url}predict", files={"image": SIGN}, timeout=60)
            )
        )
        thread.start()
        wait_for_waiting_image(server)
        assert server.stop(signal.SIGTERM) == 0
        thread.join(60)
        assert responses[0].status_code == 200
        events = [line["event"] for line in server.read_log()]
        assert (events[0], events[-1]) == ("start", "stop")


def wait_for_waiting_image(server: ServerProcess) -> None:
    for _ in range(200):
        if 'rbl_queue_images{model="zoo:signs-plain"} 1.0' in httpx.get(f"{server.url}metrics").text:
            return
        time.sleep(0.005)
    raise AssertionError("no image waits")


def test_a_killed_server_leaves_nothing_behind_and_starts_again(tmp_path):
    server = ServerProcess(tmp_path, "zoo:signs-plain", "--port", "0")
    attack = {"files": {"image": SIGN}, "params": {"attack": "fgsm"}, "timeout": 120}
    assert httpx.post(f"{server.url}attack", **attack).status_code == 200
    children = find_children(server.process.pid)
    assert children
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    for _ in range(100):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    with run_serve(tmp_path, "zoo:signs-plain", "--port", str(server.port), "--no-attacks") as again:
        assert httpx.post(f"{again.url}predict", files={"image": RED}).status_code == 200


def find_children(parent: int) -> list[int]:
    """Processes of a parent, and of its children."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[1]) == parent:
            found += [int(entry.name), *find_children(int(entry.name))]
    return found


def test_an_attack_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path):
    with run_serve(
        tmp_path, "zoo:signs-plain", "--port", "0", "--attack-seconds", "0.2", "--max-attack-steps", "5000"
    ) as server:
        form = {"attack": "square", "steps": "5000", "eps": "0.0005"}
        slow = httpx.post(f"{server.url}attack", files={"image": SIGN}, params=form, timeout=120)
        assert slow.status_code == 503
        assert "took longer than 0.2 s" in slow.json()["detail"]
        assert httpx.post(f"{server.url}predict", files={"image": SIGN}).status_code == 200
        zero = httpx.post(
            f"{server.url}attack", files={"image": SIGN}, params={"attack": "fgsm", "label": "3"}, timeout=120
        )
        assert zero.status_code in {200, 503}
        assert server.stop() == 0


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_what_cannot_be_served_is_one_line(taken_port, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("import torch\nnetwork = torch.nn.Identity()\n")
    cases = [
        (["zoo:signs-plain", "--port", str(taken_port)], 2, f"cannot listen on 127.0.0.1, port {taken_port}"),
        (["zoo:signs-plian"], 2, "Did you mean signs-plain?"),
        (["zoo:signs-plain", "--model", "a"], 2, "--model names an entry of a grid file"),
        (["zoo:signs-plain", "--compare", "zoo:signs-plain"], 2, "--compare names the same model"),
        (["zoo:signs-plain", "--size", "big"], 2, "--size: cannot read 'big'"),
        (["zoo:signs-plain", "--certificate", "certify-ibp-linf-9"], 2, "certify-ibp-linf-9"),
        (["python:net.py:network"], 5, "--allow-code"),
        (["torchvision:resnet18"], 2, "such as --size 224"),
        (["nothing.safetensors"], 3, "there is no such file"),
    ]
    for arguments, code, text in cases:
        port = [] if "--port" in arguments else ["--port", "0"]
        assert run_command(["serve", *arguments, *port]) == code, arguments
        lines = capfd.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert text in lines[0]


def test_a_grid_file_serves_one_of_its_models(tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "data: {source: signs}\nmodels:\n  - {id: plain, source: 'zoo:signs-plain'}\n"
        "  - {id: robust, source: 'zoo:signs-pgd-at', input_size: 32}\nattacks: [fgsm-linf-8]\n"
    )
    arguments = ["grid.yaml", "--model", "robust", "--compare", "plain", "--compare-defense", "jpeg-75"]
    with run_serve(
        tmp_path, *arguments, "--port", "0", "--no-attacks", "--reference", "signs", "--drift-window", "20"
    ) as server:
        card = httpx.get(f"{server.url}model").json()
        assert (card["model"]["name"], card["comparison"]["name"]) == ("robust", "plain + jpeg-75")
        for _ in range(2):
            files = [("image", ("a.png", SIGN))] * 10
            image = httpx.post(f"{server.url}predict?compare=true", files=files).json()["images"][0]
        assert "sharpness" in image["input"]["out_of_range"]
        drift = httpx.get(f"{server.url}model").json()["drift"]
        assert (drift["windows"], drift["alarms"], drift["latest"]["alarm"]) == (1, 1, True)
        assert any(line["event"] == "drift" for line in server.read_log())


def test_the_defaults_of_the_command_are_those_of_the_options(monkeypatch):
    from robustbench_local.cli import serving_run

    received = []
    monkeypatch.setattr(serving_run, "serve_models", lambda arguments: received.append(arguments) or 0)
    monkeypatch.delenv("RBL_DEVICE", raising=False)
    assert run_command(["serve", "zoo:signs-plain"]) == 0
    assert serving_run._build_options(received[0]) == ServingOptions()
    assert os.environ.get("RBL_DEBUG") is None
