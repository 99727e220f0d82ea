"""The server: limits, what clients do wrong, its end, and the health check of TF Serving's container."""

import argparse
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from rest_calls import NUMBERS, SHOP

from serving import server as server_lib
from serving.request_log import RequestLog

# The real server


def test_requests_are_answered_side_by_side(url):
    body = json.dumps({"instances": [["apple"]]}).encode()
    answers = []

    def ask():
        with urllib.request.urlopen(f"{url}{SHOP}:predict", body, timeout=20) as response:
            answers.append(json.loads(response.read())["predictions"][0]["items"])

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [["bread", "cheese", "dates"]] * 16


def test_the_example_command_of_every_model_works(url, store):
    for name, model in store.models.items():
        command = shlex.split(server_lib.example_curl(url, name, model))
        data = command[2].encode() if command[1] == "-d" else None
        if name != "examples":  # its signature takes serialised examples, of which "a" is none
            with urllib.request.urlopen(command[-1], data, timeout=20) as response:
                assert json.loads(response.read())["predictions"]
    assert (
        shlex.split(server_lib.example_curl(url, "shop", store.models["shop"]))[2]
        == '{"instances": [["apple", "bread"]]}'
    )


def test_the_access_log_has_one_short_line_a_request(store, asking):
    lines = []
    with asking(store, log=lines.append) as web:
        web.get(SHOP)
        web.get(f"{SHOP}/{'x' * 2000}")
    line, long = lines
    assert line.split()[1:4] == ["GET", SHOP, "200"]
    assert line.endswith(" ms")
    assert len(long) < 1100


def test_a_port_that_is_taken_is_a_wrong_argument(url):
    with pytest.raises(ValueError, match="Choose another with --port"):
        server_lib.listen("127.0.0.1", int(url.rsplit(":", 1)[1]))
    with pytest.raises(ValueError, match="port must be 0-65535"):
        server_lib.listen("127.0.0.1", 85010)


def test_a_folder_without_models_is_a_wrong_argument(tmp_path):
    def options(*words):
        parser = argparse.ArgumentParser()
        server_lib.add_arguments(parser)
        return parser.parse_args(["--models", str(tmp_path), "--port", "0", *words])

    with pytest.raises(ValueError, match="NAME/VERSION/ SavedModel folders"):
        server_lib.run(options())
    with pytest.raises(FileNotFoundError, match="must name a folder"):
        server_lib.check(options("--models", str(tmp_path / "none")))
    with pytest.raises(ValueError, match="--max-batch-size must be at least 1, got 0"):
        server_lib.check(options("--max-batch-size", "0"))


# The container of TF Serving


def test_the_health_check_of_the_container_tells_a_served_model_from_none(url):
    text = (pathlib.Path(server_lib.__file__).parent / "deploy" / "docker-compose.yml").read_text()
    (line,) = [line for line in text.splitlines() if "/dev/tcp/" in line]
    script = line.split("'", 1)[1].rsplit("'", 1)[0].replace("8501", url.rsplit(":", 1)[1])
    for name, returncode in (("shop", 0), ("none", 1)):
        command = script.replace("/models/shop/", f"/models/{name}/")
        assert subprocess.run(["bash", "-c", command], timeout=20, check=False).returncode == returncode


# What the server tells those who run it


def test_metrics_have_the_names_of_tf_serving(store, asking):
    with asking(store) as web:
        for body, status in ((b'{"instances": [["apple"]]}', 200), (b"{", 400)):
            assert web.post(f"{SHOP}:predict", content=body).status_code == status
        web.post("/v1/models/any:predict", content=b"{}")  # no name that a client invents
        response = web.get("/monitoring/prometheus/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    for line in (
        ':tensorflow:serving:request_count{model_name="shop",status="OK"} 1.0',
        ':tensorflow:serving:request_count{model_name="shop",status="INVALID_ARGUMENT"} 1.0',
        ':tensorflow:serving:request_latency_count{API="predict",entrypoint="REST",model_name="shop"} 2.0',
        ':tensorflow:serving:runtime_latency_count{API="Predict",model_name="shop",runtime="TF1"} 1.0',
        ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="batch_threads"} 1.0',
    ):
        assert line in lines
    assert '"any"' not in response.text


def test_answered_requests_are_logged_as_lines_of_json(store, asking, tmp_path):
    file = tmp_path / "requests.jsonl"
    with asking(store, request_log=RequestLog(str(file))) as web:
        web.post(f"{SHOP}:predict", content=b'{"instances": [["apple", "\xff"], ["eggs", ""]]}')
        web.post(f"{SHOP}:predict", content=b'{"instances": 1}')
        deadline = time.monotonic() + 20
        while not (file.exists() and file.read_bytes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        file.rename(tmp_path / "requests.jsonl.1")  # as logrotate does
        time.sleep(0.2)
        web.post(f"{NUMBERS}:predict", content=b'{"instances": [2], "signature_name": "double"}')
    (first,) = (tmp_path / "requests.jsonl.1").read_bytes().splitlines()
    (second,) = map(json.loads, file.read_text().splitlines())
    first = json.loads(first.decode("utf-8", "replace"))
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {
        "model": "shop",
        "version": 7,
        "signature": "serving_default",
        "inputs": {"history": [["apple", "\N{REPLACEMENT CHARACTER}"], ["eggs", ""]]},
        "outputs": {
            "items": [["bread", "cheese", "dates"], ["apple", "bread", "cheese"]],
            "scores": [[0.5, 0.33333334, 0.25], [1.0, 0.5, 0.33333334]],
        },
    }
    assert (second["signature"], second["inputs"], second["outputs"]) == ("double", {"value": [2.0]}, {})


def test_a_share_of_the_requests_is_logged(tmp_path):
    log = RequestLog(str(tmp_path / "log"), share=0.25)
    for _ in range(2000):
        log.add("m", 1, "", {}, {})
    log.close()
    assert 400 < len((tmp_path / "log").read_text().splitlines()) < 600


@pytest.mark.slow
def test_sigterm_ends_the_command_with_status_0(models, tmp_path):
    command = [sys.executable, "-m", "seqrec_tf.cli", "serve", "--models", str(models), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline().startswith("Serving examples, fixed, numbers, shop at http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
