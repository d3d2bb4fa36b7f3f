"""Reading a fleet file: every error at once, each with its line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from planner.advise.candidates import TP
from planner.api.advice import MAX_USERS
from planner.errors import LmplanError, UsageError
from planner.files.reading import FLEET
from planner.files.yaml_file import Entry, YamlReader, compose, known, line_of
from planner.fleet.described import Fleet, Machines, Shared, Workload
from planner.hardware.gpu import find_gpu
from planner.kinds import EngineName
from planner.lmdeploy import versions
from planner.lmdeploy.versions import LmdeployVersion
from planner.model.find import find_model
from planner.model.source import ModelSource
from planner.model.spec import ModelSpec
from planner.request import DEFAULT_CONTEXT_TOKENS, Load, find_free_bytes

MAX_GPUS: Final = 100_000
TOP_KEYS: Final = ("lmdeploy", "share", "workloads", "machines", "together")
WORKLOAD_KEYS: Final = (
    "name",
    "model",
    "context",
    "concurrency",
    "images",
    "latency_ms",
    "first_token_ms",
    "keep_quality",
    "lmdeploy",
    "engine",
    "gpus",
    "copies",
)
MACHINE_KEYS: Final = ("name", "gpu", "sm", "free", "gpus_each", "count")
TOGETHER_KEYS: Final = ("machines", "start")


def read_fleet(path: Path) -> Fleet:
    """The fleet that a file describes.

    Raises:
        UsageError: with every error of the file and its line.
    """
    reader = _Reader()
    fleet = reader.fleet(compose(path, FLEET))
    reader.raise_problems(path)
    assert fleet is not None
    return fleet


@dataclass(slots=True)
class _Reader(YamlReader):
    """The parts of a fleet."""

    models: dict[str, tuple[ModelSource, ModelSpec]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)

    def fleet(self, node: yaml.Node | None) -> Fleet | None:
        top = self.mapping(node, "the file", TOP_KEYS) if node is not None else None
        if top is None:
            if node is None:
                self.say(1, "the file is empty; expected workloads and machines")
            return None
        lmdeploy = self._version(top)
        share = self.value(top, "share", bool, False)
        machines = self._named(top, "machines", lambda entry: self._machines(entry))
        workloads = self._named(top, "workloads", lambda entry: self._workload(entry, lmdeploy))
        shared = [
            s for entry in self.entries(top, "together", False) if (s := self._shared(entry, workloads, machines))
        ]
        return Fleet(tuple(workloads), tuple(machines), tuple(shared), share)

    def _workload(self, node: yaml.Node, lmdeploy: LmdeployVersion) -> Workload | None:
        entry = self.mapping(node, "a workload", WORKLOAD_KEYS)
        if entry is None:
            return None
        found = self._model(entry)
        name = self.value(entry, "name", str, "") or (found[1].name if found else "")
        context = self.number(entry, "context", 1, 2**28)
        users = self.number(entry, "concurrency", 1, MAX_USERS)
        images = self.number(entry, "images", 0, 10_000)
        copies = self.number(entry, "copies", 1, MAX_GPUS)
        engine = self.value(entry, "engine", str, None)
        if engine is not None and engine not in EngineName.words():
            self.at(entry, "engine", f"engine is {engine!r}; expected {' or '.join(EngineName)}")
        gpus = self._gpu_names(entry)
        load = Load(
            context_tokens=context or DEFAULT_CONTEXT_TOKENS,
            num_users=users or 1,
            num_images=images or 0,
            latency_ms=self.time(entry, "latency_ms"),
            first_token_ms=self.time(entry, "first_token_ms"),
            keep_quality=self.value(entry, "keep_quality", bool, False),
        )
        version = self._version(entry) if "lmdeploy" in entry.values else lmdeploy
        if found is None:
            return None
        source, spec = found
        longest = spec.text.max_position_embeddings
        if context is None:
            load = Load(**{**load._asdict(), "context_tokens": min(DEFAULT_CONTEXT_TOKENS, longest)})
        elif context > longest:
            self.at(entry, "context", f"context is {context}; {spec.name} ends at {longest} tokens")
        if images and spec.vision is None:
            self.at(entry, "images", f"images is {images}; {spec.name} takes none")
        return Workload(name, source, spec, load, version, engine, gpus, copies or 1)

    def _machines(self, node: yaml.Node) -> Machines | None:
        entry = self.mapping(node, "an entry of machines", MACHINE_KEYS)
        if entry is None:
            return None
        text = self.needed(entry, "gpu")
        sm = self.number(entry, "sm", 70, 130)
        each = self.number(entry, "gpus_each", 1, TP[-1])
        count = self.number(entry, "count", 0, MAX_GPUS)
        free = self.value(entry, "free", str, None)
        if text is None:
            return None
        try:
            gpu = find_gpu(text, sm)
        except LmplanError as error:
            self.at(entry, "gpu", _one_line(error))
            return None
        self.kinds.add(gpu.name)
        try:
            free_bytes = find_free_bytes(free, gpu)
        except LmplanError as error:
            self.at(entry, "free", error.message.removeprefix("--"))
            return None
        return Machines(self.value(entry, "name", str, "") or gpu.name, gpu, free_bytes, each or 1, count)

    def _shared(self, node: yaml.Node, workloads: list[Workload], machines: list[Machines]) -> Shared | None:
        entry = self.mapping(node, "an entry of together", TOGETHER_KEYS)
        if entry is None:
            return None
        place = self.needed(entry, "machines")
        names = [m.name for m in machines]
        if place is not None and place not in names:
            self.at(entry, "machines", f"machines is {place!r}, which is none of them. {known(place, names)}")
        start = self.texts(entry, "start")
        if not start:
            self.at(entry, "start", "start names no workload")
        names = [w.name for w in workloads]
        for text, line in start:
            if text not in names:
                self.say(line, f"{text!r} is no workload. {known(text, names)}")
        texts = [text for text, _ in start]
        for text, line in start:
            if texts.count(text) > 1:
                self.say(line, f"{text!r} is started twice")
        return Shared(place, tuple(texts)) if place is not None else None

    def _model(self, entry: Entry) -> tuple[ModelSource, ModelSpec] | None:
        name = self.needed(entry, "model")
        if name is None:
            return None
        if name not in self.models:
            try:
                self.models[name] = find_model(name)
            except LmplanError as error:
                self.at(entry, "model", _one_line(error))
                return None
        return self.models[name]

    def _version(self, entry: Entry) -> LmdeployVersion:
        node = entry.values.get("lmdeploy")
        # 0.10 without quotes is a number to YAML, and 0.1 by then: the text as written counts.
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        if node is not None and text is None:
            self.at(entry, "lmdeploy", "lmdeploy is not a version")
        try:
            return versions.resolve(text)
        except UsageError as error:
            self.at(entry, "lmdeploy", _one_line(error).replace("--lmdeploy", "lmdeploy"))
            return versions.resolve(None)

    def _gpu_names(self, entry: Entry) -> tuple[str, ...]:
        names = []
        for text, line in self.texts(entry, "gpus"):
            try:
                name = find_gpu(text).name
            except LmplanError as error:
                self.say(line, _one_line(error))
                continue
            if name not in self.kinds:
                self.say(line, f"no machines have {text}")
            names.append(name)
        return tuple(names)

    def _named(self, top: Entry, key: str, read: Callable[[yaml.Node], Any]) -> list[Any]:
        """The entries of a list whose names have to differ."""
        found: list[Any] = []
        for node in self.entries(top, key, True):
            value = read(node)
            if value is None:
                continue
            if value.name in [other.name for other in found]:
                self.say(line_of(node), f"the name {value.name!r} is taken; give it another `name`")
            found.append(value)
        return found


def _one_line(error: LmplanError) -> str:
    return f"{error.message}. {error.hint}" if error.hint else error.message
