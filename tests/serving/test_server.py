"""The server: limits, what clients do wrong, its end, and the configuration of TF Serving."""

import argparse
import inspect
import json
import pathlib
import re
import shlex
import subprocess
import threading
import urllib.request

import pytest
from google.protobuf import text_format
from rest_calls import SHOP
from tensorflow_serving.config import model_server_config_pb2

from serving import server as server_lib
from serving.client import Client

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
        server_lib.run(options("--models", str(tmp_path / "none")))
    with pytest.raises(ValueError, match="--max-batch-size must be at least 1, got 0"):
        server_lib.run(options("--max-batch-size", "0"))


# TF Serving's own configuration


def test_the_model_configuration_of_tf_serving_is_valid():
    text = (pathlib.Path(server_lib.__file__).parent / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert model.model_platform == "tensorflow"
    assert model.base_path == f"/models/{model.name}"


def test_the_client_never_sends_more_rows_than_tf_serving_may_batch():
    text = (pathlib.Path(server_lib.__file__).parent / "batching.config").read_text()
    largest = int(re.search(r"max_batch_size { value: (\d+) }", text)[1])
    assert int(re.findall(r"allowed_batch_sizes: (\d+)", text)[-1]) == largest
    assert inspect.signature(Client.recommend).parameters["batch_size"].default <= largest


def test_the_health_check_of_the_container_tells_a_served_model_from_none(url):
    text = (pathlib.Path(server_lib.__file__).parent / "docker-compose.yml").read_text()
    (line,) = [line for line in text.splitlines() if "/dev/tcp/" in line]
    script = line.split("'", 1)[1].rsplit("'", 1)[0].replace("8501", url.rsplit(":", 1)[1])
    for name, returncode in (("shop", 0), ("none", 1)):
        command = script.replace("/models/shop/", f"/models/{name}/")
        assert subprocess.run(["bash", "-c", command], timeout=20, check=False).returncode == returncode
