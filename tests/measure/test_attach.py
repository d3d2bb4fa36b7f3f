"""`lmplan measure --url`: a server that runs already, played by http.server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import pytest

from tests.measure.conftest import MODEL, planned
from tests.measure.test_measure import SCHEMA

MODELS = json.dumps({"object": "list", "data": [{"id": "Qwen/Qwen2.5-0.5B"}]})
METRICS = 'lmdeploy:gpu_cache_usage_perc{model_name="x"} 0.25\nlmdeploy:num_requests_running 0\n'
INFO = json.dumps(json.dumps({"num_gpu_blocks": 8391, "dtype": "bfloat16"}))


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve pages by path; the address."""
    servers = []

    def start(**pages: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = pages.get(self.path.strip("/").replace("/", "_"))
                if text == "reset":
                    return
                body = (text or "").encode()
                self.send_response(200 if text is not None else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_device_as_a_whole(lmplan, gpu, serve, tmp_path):
    (gpu / "0").write_text(str(20 * 2**30))
    done = lmplan("measure", "--url", serve(v1_models=MODELS, metrics=METRICS, distserve_engine_info=INFO) + "/")
    assert done.returncode == 0, done.stderr
    assert "GPU 0 as a whole holds 20.00 GiB, 25.0% of its KV cache in use" in done.stdout
    value = json.loads((tmp_path / "measurement.json").read_text())
    jsonschema.validate(value, SCHEMA)
    assert value["engine_log"] == {"blocks": 8391}
    assert value["model"] == {"name": "Qwen/Qwen2.5-0.5B"}
    assert value["phases"][0]["used_bytes"] == [20 * 2**30]
    assert value["free_before_bytes"] == 150_109_880_320


def test_beside_an_estimate(lmplan, gpu, serve, tmp_path):
    plan = planned()
    (gpu / "0").write_text(str(plan["per_gpu"]["total_bytes"]))
    done = lmplan("measure", "--url", serve(v1_models=MODELS), "--model", MODEL)
    assert done.returncode == 0, done.stderr
    assert "total when serving" in done.stdout and "passed" in done.stdout
    value = json.loads((tmp_path / "measurement.json").read_text())
    jsonschema.validate(value, SCHEMA)
    assert value["model"] == {"name": MODEL, "served_as": "Qwen/Qwen2.5-0.5B"}


def test_a_server_with_other_settings_than_the_estimate(lmplan, gpu, serve, tmp_path):
    (gpu / "0").write_text(str(20 * 2**30))
    done = lmplan("measure", "--url", serve(v1_models=MODELS), "--model", MODEL)
    assert done.returncode == 0, done.stderr
    assert "A server does not tell how it was started" in done.stdout and "--cache-max-entry-count 0.8" in done.stdout
    assert "peak while starting" not in done.stdout


def test_one_process(lmplan, gpu, serve, tmp_path):
    (gpu / str(os.getpid())).write_text(str(5 * 2**30))
    (gpu / "0").write_text(str(3 * 2**30))
    done = lmplan("measure", "--url", serve(v1_models=MODELS), "--pid", str(os.getpid()))
    assert done.returncode == 0, done.stderr
    assert f"process {os.getpid()} holds 5.00 GiB" in done.stdout
    value = json.loads((tmp_path / "measurement.json").read_text())
    assert value["free_before_bytes"] == 150_109_880_320 - 3 * 2**30
    done = lmplan("measure", "--url", serve(v1_models=MODELS), "--pid", "4194301", "--force")
    assert done.returncode == 5
    assert "does not say what process 4194301 holds" in done.stderr


@pytest.mark.parametrize(
    "pages",
    [
        {}, {"v1_models": "[]"}, {"v1_models": "{"}, {"v1_models": "<html>"}, {"v1_models": "reset"},
        {"v1_models": '{"data": []}'}, {"v1_models": "[" * 100_000},
    ],
)  # fmt: skip
def test_a_server_of_another_kind(lmplan, serve, tmp_path, pages):
    done = lmplan("measure", "--url", serve(**pages))
    assert done.returncode == 5, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not (tmp_path / "measurement.json").exists()


def test_side_pages_that_say_nothing_are_left_out(lmplan, gpu, serve, tmp_path):
    for metrics, info in (("x", "{"), ("lmdeploy:gpu_cache_usage_perc nan", "[3]"), ("reset", json.dumps("null"))):
        (tmp_path / "measurement.json").unlink(missing_ok=True)
        done = lmplan("measure", "--url", serve(v1_models=MODELS, metrics=metrics, distserve_engine_info=info))
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "measurement.json").read_text())["engine_log"] == {}


def test_nobody_listens(lmplan, tmp_path: Path):
    done = lmplan("measure", "--url", "http://127.0.0.1:9")
    assert done.returncode == 5
    assert "does not answer" in done.stderr and "Is the server up" in done.stderr
    for url in ("ftp://here", "http://", "http://[", "http://here\n"):
        assert lmplan("measure", "--url", url).returncode in (2, 5)
