"""Containers: a compose file and a Kubernetes Deployment with its Service."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from planner.artefacts.commands import api_server
from planner.artefacts.deployed import Deployed, server_host, server_port
from planner.data import read_toml
from planner.lmdeploy.versions import band, holds
from planner.units import MIB, ceil_div

_MODEL_PATH = "/models"
_CACHE_PATH = "/huggingface"
"""Where the container keeps what it downloads, whoever it runs as: HF_HOME says so to huggingface_hub."""
_PROBE_SECONDS = 10
_READ_BYTES_PER_S = 100 * MIB
"""A slow network disk: what a start has to be waited for is the reading of the checkpoint at this rate, at least."""
_START_SECONDS = 300
"""Imports, tuning and warm-up on top; the measured starts of this project stay below two minutes."""


def image(deployed: Deployed) -> str:
    """The published container image of the plan's version."""
    data = read_toml("artefacts.toml")["images"]
    lmdeploy = deployed.settings.lmdeploy
    tag = band(data["tags"], lmdeploy.rules)["tag"].format(version=lmdeploy.version)
    return f"{data['image']}:{tag}"


def compose(deployed: Deployed) -> str:
    """A compose file; GPUs by count, the host's shared memory for what the ranks exchange."""
    port = server_port()
    service: dict[str, Any] = {
        "image": image(deployed),
        "command": _words(deployed),
        "ports": [f"{port}:{port}"],
        "ipc": "host",
        "volumes": [_mount(deployed)],
        "environment": {"HF_HOME": _CACHE_PATH, "HF_TOKEN": "${HF_TOKEN:-}"},
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "curl", "--fail", "--silent", f"http://localhost:{port}{_live_path(deployed)}"],
            "interval": f"{_PROBE_SECONDS}s",
            "start_period": f"{_start_seconds(deployed)}s",
        },
        "deploy": {
            "resources": {
                "reservations": {
                    "devices": [{"driver": "nvidia", "count": deployed.settings.tp, "capabilities": ["gpu"]}]
                }
            }
        },
    }
    return _dump({"services": {deployed.name: service}})


def kubernetes(deployed: Deployed) -> str:
    """A Deployment and a Service."""
    port, name, gpus = server_port(), deployed.name, deployed.settings.tp
    probes = {
        kind: {"httpGet": {"path": path, "port": "http"}, "periodSeconds": _PROBE_SECONDS}
        for kind, path in (
            ("startupProbe", "/v1/models"),
            ("livenessProbe", _live_path(deployed)),
            ("readinessProbe", "/v1/models"),
        )
    }
    probes["startupProbe"]["failureThreshold"] = ceil_div(_start_seconds(deployed), _PROBE_SECONDS)
    container = {
        "name": "lmdeploy",
        "image": image(deployed),
        "command": _words(deployed),
        "ports": [{"name": "http", "containerPort": port}],
        "env": [
            {"name": "HF_HOME", "value": _CACHE_PATH},
            {
                "name": "HF_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}},
            },
        ],
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
        **probes,
        "volumeMounts": [
            {"name": "models", "mountPath": _MODEL_PATH if deployed.is_folder else _CACHE_PATH},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    labels = {"app": name}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            # Two copies do not fit on one GPU: the old one has to go first.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [container],
                    "volumes": [
                        {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
                        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                    ],
                },
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": port, "targetPort": "http"}]},
    }
    return _dump(manifest) + "---\n" + _dump(service)


def _words(deployed: Deployed) -> list[str]:
    """The server's command with the model where the container sees it."""
    words = shlex.split(api_server(deployed))
    if deployed.is_folder:
        words[3] = f"{_MODEL_PATH}/{deployed.served.rstrip('/').rpartition('/')[2]}"
    return [*words, "--server-name", server_host(), "--server-port", str(server_port())]


def _mount(deployed: Deployed) -> str:
    if not deployed.is_folder:
        return f"~/.cache/huggingface:{_CACHE_PATH}"
    parent = deployed.served.rstrip("/").rpartition("/")[0]
    return f"{parent or '.'}:{_MODEL_PATH}:ro"


def _live_path(deployed: Deployed) -> str:
    versions = read_toml("artefacts.toml")["health"]["versions"]
    return "/health" if holds(versions, deployed.settings.lmdeploy.rules) else "/v1/models"


def _start_seconds(deployed: Deployed) -> int:
    return _START_SECONDS + ceil_div(deployed.memory.checkpoint_bytes, _READ_BYTES_PER_S)


class _Plain(yaml.SafeDumper):
    """Spells repeated parts out instead of pointing at them."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True


def _dump(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Plain, sort_keys=False, width=1000))
