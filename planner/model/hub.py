"""The Hugging Face Hub: config.json and safetensors headers of a repository, from the cache or the network.

`huggingface_hub` is imported where it is used: it takes as long to import as all of planning.
"""

from __future__ import annotations

import inspect
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any, Final, TypeVar

from planner.errors import EnvironmentProblem, LmplanError, UsageError
from planner.files.escape import visible
from planner.files.reading import CONFIG, INDEX
from planner.model.checkpoint import INDEX_NAME, Checkpoint, HeaderTensor, checkpoint_of, declared

_REQUEST_TIMEOUT_S: Final = 10
# Above single requests, because the library repeats failed ones. Headers are one request a shard.
_CONFIG_DEADLINE_S: Final = 25
_HEADERS_DEADLINE_S: Final = 60

# The rules of `huggingface_hub.utils.validate_repo_id`, for the two-part ids that models have.
_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID: Final = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9_][A-Za-z0-9._/-]{{0,254}}))?")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubId:
    """``org/name@revision``; no revision means ``main``."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


@dataclass(frozen=True, slots=True)
class HubFile:
    """A repository's config.json in the local cache, and the commit that it is of."""

    config: Path
    commit: str


def parse_id(text: str) -> HubId | None:
    """The Hugging Face id that `text` is, or None."""
    match = _ID.fullmatch(text)
    if not match or "--" in match["repo"] or ".." in text or match["repo"].endswith(".git"):
        return None
    return HubId(match["repo"], match["revision"])


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def find_cached(hub_id: HubId) -> HubFile | None:
    """config.json from the local cache, or None. Never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id.repo, "config.json", revision=hub_id.revision)
    # Not a text: never downloaded, or known to be missing at that commit.
    return _hub_file(path) if isinstance(path, str) else None


def download(hub_id: HubId) -> HubFile:
    """config.json, and nothing else, downloaded into the local cache.

    Raises:
        UsageError: no such repository or revision, no config.json in it, or no access to it.
        EnvironmentProblem: offline, no network, or no answer in time.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if is_offline():
        raise EnvironmentProblem(
            f"{hub_id} is not in the local Hugging Face cache, and HF_HUB_OFFLINE forbids downloading it",
            "Unset HF_HUB_OFFLINE, or give a folder or a name that `lmplan models` lists",
        )

    def fetch() -> str:
        # Asked first and once: hf_hub_download alone repeats a failed connection for minutes.
        url = hf_hub_url(hub_id.repo, "config.json", revision=hub_id.revision)
        size_bytes = get_hf_file_metadata(url, timeout=_REQUEST_TIMEOUT_S).size
        if size_bytes is not None and size_bytes > CONFIG.max_bytes:
            raise UsageError(f"config.json of {hub_id} has {size_bytes} bytes; expected at most {CONFIG.max_bytes}")
        path: str = hf_hub_download(
            hub_id.repo, "config.json", revision=hub_id.revision, etag_timeout=_REQUEST_TIMEOUT_S
        )
        return path

    return _hub_file(_ask(fetch, hub_id, _CONFIG_DEADLINE_S))


def read_headers(hub_id: HubId) -> Checkpoint | None:
    """The tensors of a repository's safetensors files by their headers alone; None where it has no such files.

    Raises:
        UsageError: no access, or headers that make no sense.
        EnvironmentProblem: no network, or no answer in time.
    """
    import huggingface_hub
    from huggingface_hub.errors import NotASafetensorsRepoError

    arguments: dict[str, Any] = {"revision": hub_id.revision}
    # Before huggingface_hub 1.0 the call has no timeout of its own.
    if "timeout" in inspect.signature(huggingface_hub.get_safetensors_metadata).parameters:
        arguments["timeout"] = _REQUEST_TIMEOUT_S

    def fetch() -> Any:
        _check_index(hub_id)
        try:
            return huggingface_hub.get_safetensors_metadata(hub_id.repo, **arguments)
        except NotASafetensorsRepoError:
            return None

    metadata = _ask(fetch, hub_id, _HEADERS_DEADLINE_S)
    if metadata is None:
        return None
    tensors: dict[str, HeaderTensor] = {}
    for file_name, file in metadata.files_metadata.items():
        for name, info in file.tensors.items():
            tensors[name] = declared(name, info.dtype, list(info.shape), f"{hub_id}/{file_name}")
    return checkpoint_of(tensors, f"Hugging Face Hub, {hub_id}")


def _check_index(hub_id: HubId) -> None:
    """Refuse an index that would take all memory; of headers the library itself refuses more than 25 MB."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    try:
        url = hf_hub_url(hub_id.repo, INDEX_NAME, revision=hub_id.revision)
        size_bytes = get_hf_file_metadata(url, timeout=_REQUEST_TIMEOUT_S).size
    except EntryNotFoundError:
        return
    if size_bytes is not None and size_bytes > INDEX.max_bytes:
        raise UsageError(f"{INDEX_NAME} of {hub_id} has {size_bytes} bytes; expected at most {INDEX.max_bytes}")


def _hub_file(path: str) -> HubFile:
    # The cache keeps a snapshot folder per commit: .../snapshots/<commit>/config.json.
    config = Path(path)
    return HubFile(config, config.parent.name)


def _ask(fetch: Callable[[], T], hub_id: HubId, deadline_s: float) -> T:
    """Run `fetch` for `deadline_s` seconds at most, quietly, and turn what goes wrong into one line."""
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((fetch(), None))
        except Exception as error:
            answers.put((None, error))

    with _quiet():
        # A thread that hangs in a system call must not keep the process: hence a daemon.
        threading.Thread(target=work, name="lmplan-hub", daemon=True).start()
        try:
            answer, error = answers.get(timeout=deadline_s)
        except queue.Empty:
            raise _unreachable(hub_id, f"no answer within {deadline_s:g} s") from None
    if error is not None:
        raise _explain(error, hub_id) from error
    return answer  # type: ignore[return-value]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and warnings: the one line that lmplan prints says it all."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    verbosity, no_bars = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity(CRITICAL)
    if not no_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not no_bars:
            enable_progress_bars()


def _unreachable(hub_id: HubId, reason: str) -> EnvironmentProblem:
    from huggingface_hub import constants

    return EnvironmentProblem(
        f"cannot ask {constants.ENDPOINT} for {hub_id}: {reason}",
        "Check the network, or give a folder, a config.json or a name that `lmplan models` lists",
    )


def _explain(error: Exception, hub_id: HubId) -> LmplanError:
    """What a failed request means for the user. Every release of the library shares these classes."""
    from huggingface_hub import errors

    repo = hub_id.repo
    if isinstance(error, LmplanError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return _no_access(repo)
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(
            f"{repo} is not on the Hugging Face Hub, or it is private",
            "Check the spelling; for a private repository set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{repo} has no revision {hub_id.revision or 'main'}", "Give a branch, a tag or a commit")
    # LocalEntryNotFoundError, a subclass, only says that the network failed.
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return UsageError(f"{hub_id} has no config.json", "lmplan plans from a model's config.json")
    if isinstance(error, errors.SafetensorsParsingError):
        return UsageError(f"{hub_id} has a safetensors file that cannot be read: {_first_line(error)}")
    if isinstance(error, errors.HfHubHTTPError):
        return _http_problem(error, hub_id)
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.filename):
        return EnvironmentProblem(
            f"cannot store {hub_id} in the Hugging Face cache: {_first_line(error)}",
            "Set HF_HOME to a writable folder",
        )
    if "Timeout" in type(error).__name__:
        return _unreachable(hub_id, "no answer in time")
    # Connection errors are classes of requests, httpx or httpx2, by the library's release.
    return _unreachable(hub_id, _first_line(error))


def _http_problem(error: Any, hub_id: HubId) -> LmplanError:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return UsageError(f"the Hugging Face Hub refuses the token for {hub_id.repo}", "Check HF_TOKEN, or unset it")
    if status == 403:
        return _no_access(hub_id.repo)
    return _unreachable(hub_id, f"HTTP status {status}" if status else _first_line(error))


def _no_access(repo: str) -> UsageError:
    return UsageError(
        f"{repo} is gated: its owner grants access",
        f"Ask for access at https://huggingface.co/{repo}, then set HF_TOKEN",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return visible(lines[0][:160]).rstrip(".") if lines else type(error).__name__
