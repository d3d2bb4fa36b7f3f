"""``--model``: from a folder, a file, a name of the catalog or a Hugging Face id to a config and its checkpoint."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from planner.errors import EnvironmentProblem, LmplanError, UsageError, perhaps
from planner.files import reading
from planner.files.escape import shown, visible
from planner.model import catalog
from planner.model.catalog import CatalogEntry

if TYPE_CHECKING:
    # Imported by those who need them: a name of the catalog needs neither the Hub nor a checkpoint.
    from planner.model.checkpoint import Checkpoint
    from planner.model.hub import HubFile, HubId

CONFIG_NAME: Final = "config.json"
MODELOPT_NAME: Final = "hf_quant_config.json"
SYNTHETIC_MARK: Final = "LMPLAN_SYNTHETIC"
"""The file beside weights that lmplan made, sparse or drawn."""
_KINDS: Final = "a folder, a config.json, a name that `lmplan models` lists, or a Hugging Face id e.g. org/name@main"

Origin = Literal["folder", "file", "catalog", "cache", "hub"]


class ModelSource(NamedTuple):
    """A model as found.

    Attributes:
        name: what reports call it: the folder's name, the catalog's name or the Hugging Face id.
        config: the parsed config.json, not yet looked into.
        origin: where `config` was read; ``cache`` and ``hub`` are Hugging Face's.
        revision: the commit, for a Hugging Face id.
        folder: the folder with the weights, where they are on this machine.
        checkpoint: the headers of the safetensors files, where there are any to read.
        notes: what the user should know, a sentence each.
        hf_id: the Hugging Face repository, where it is known.
    """

    name: str
    config: dict[str, Any]
    origin: Origin
    revision: str | None = None
    folder: Path | None = None
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()
    hf_id: str | None = None


def resolve(model: str) -> ModelSource:
    """Find the model that ``--model`` means.

    The order: an existing folder, an existing .json file, the catalog, the Hugging Face Hub (its local cache first).
    Where the Hub cannot give a model that the catalog has too, the shipped config stands in and a note says so.

    Raises:
        UsageError: nothing is called that, or what is called that has no usable config.json.
        EnvironmentProblem: only the network could tell, and there is none.
    """
    text = model.strip()
    if not text:
        raise UsageError("--model is empty", f"Give {_KINDS}")
    path = _expanded(text)
    mode = _mode(path)
    is_json = path.suffix.lower() == ".json"
    if stat.S_ISDIR(mode):
        return _from_folder(path)
    if is_json and mode:
        return _from_file(path)
    if is_json or text.startswith((".", "/", "~")) or text.partition("@")[0].count("/") > 1:
        problem = "is neither a folder nor a .json file" if mode else "does not exist"
        raise UsageError(f"'{shown(text)}' {problem}", f"Give {_KINDS}")
    return _from_name(text)


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        # No home folder to put in place of ~.
        return Path(text)


def _mode(path: Path) -> int:
    """What stands at `path`, as st_mode; 0 for nothing, or for what no file can be called.

    Raises:
        UsageError: it may not be looked at.
    """
    try:
        return path.stat().st_mode
    except PermissionError as error:
        raise UsageError(f"cannot look at {shown(path)}: {error.strerror}") from None
    except (OSError, ValueError):
        return 0


def _from_name(text: str) -> ModelSource:
    plain, at, revision = text.partition("@")
    entry = catalog.load(plain)
    if entry is not None and "/" not in plain:
        if not at:
            return _from_catalog(entry)
        text = f"{entry.hf_id}@{revision}"
    elif entry is not None:
        # The Hub's spelling, which the user's may differ from in case.
        text = f"{entry.hf_id}{at}{revision}"
    from planner.model import hub

    hub_id = hub.parse_id(text)
    if hub_id is None:
        raise _unknown(text)
    try:
        return _from_hub(hub_id)
    except LmplanError as error:
        if entry is None or at:
            raise _with_nearest(error, hub_id) from None
        note = f"{error.message}; planned from the config.json of {entry.hf_id} shipped with lmplan"
        return _from_catalog(entry, note)


def _from_folder(folder: Path) -> ModelSource:
    from planner.model.checkpoint import read_folder

    path = folder / CONFIG_NAME
    if not _mode(path):
        hint = f"Give {_KINDS}"
        if catalog.load(str(folder)) is not None:
            hint = f"To plan the catalog's {folder}, run lmplan in another folder"
        raise UsageError(f"the folder {shown(folder)} has no {CONFIG_NAME}", hint)
    config = read_config(path)
    _refuse_modelopt(folder, config)
    checkpoint = read_folder(folder)
    return ModelSource(
        name=_folder_name(folder),
        config=config,
        origin="folder",
        folder=folder,
        checkpoint=checkpoint,
        notes=_synthetic(folder) if checkpoint else _no_safetensors(folder),
    )


def _refuse_modelopt(folder: Path, config: Mapping[str, Any]) -> None:
    """ModelOpt says beside the config how it quantized, and older releases of it say it nowhere else.

    Raises:
        UnsupportedModelError: it did.
    """
    from planner.model.arch.quantization import refuse_modelopt
    from planner.model.rewrite import quantization_section

    beside = folder / MODELOPT_NAME
    if quantization_section(config) or not beside.is_file():
        return
    section = read_config(beside).get("quantization")
    algorithm = section.get("quant_algo") if isinstance(section, dict) else None
    if algorithm is not None:
        refuse_modelopt(str(algorithm)[:40])


def _folder_name(folder: Path) -> str:
    whole = folder.absolute().resolve()
    name = whole.name or str(whole)
    # A snapshot of the Hugging Face cache: models--org--name/snapshots/<commit>.
    if whole.parent.name == "snapshots" and whole.parent.parent.name.startswith("models--"):
        name = whole.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return visible(name)


def _synthetic(folder: Path) -> tuple[str, ...]:
    if reading.is_file(folder / SYNTHETIC_MARK):
        return (f"lmplan made the weights of {shown(folder)} from their shapes: measure with them, never serve them",)
    return ()


def _no_safetensors(folder: Path) -> tuple[str, ...]:
    from planner.model.checkpoint import INDEX_NAME

    if reading.is_file(folder / INDEX_NAME):
        return (
            f"{shown(folder)} has none of the files that {INDEX_NAME} names: their bytes are computed from config.json",
        )
    if any(folder.glob("*.bin")):
        return (f"the weights of {shown(folder)} are not safetensors: their bytes are computed from config.json",)
    return ()


def _from_file(path: Path) -> ModelSource:
    name = _folder_name(path.parent) if path.name.lower() == CONFIG_NAME else visible(path.stem)
    return ModelSource(name=name, config=read_config(path), origin="file")


def _from_catalog(entry: CatalogEntry, *notes: str) -> ModelSource:
    return ModelSource(name=entry.name, config=entry.config, origin="catalog", notes=notes, hf_id=entry.hf_id)


def _from_hub(hub_id: HubId) -> ModelSource:
    from planner.model import hub

    cached = hub.find_cached(hub_id)
    file = cached or hub.download(hub_id)
    config = read_config(file.config, f"{CONFIG_NAME} of {hub_id}")
    folder, checkpoint, notes = _hub_weights(hub.HubId(hub_id.repo, file.commit), file)
    return ModelSource(
        name=hub_id.repo,
        config=config,
        origin="cache" if cached else "hub",
        revision=file.commit,
        folder=folder,
        checkpoint=checkpoint,
        notes=notes,
        hf_id=hub_id.repo,
    )


def _hub_weights(commit_id: HubId, file: HubFile) -> tuple[Path | None, Checkpoint | None, tuple[str, ...]]:
    """The checkpoint of a Hugging Face id: from its snapshot folder, or the headers that the Hub sends."""
    from planner.model import hub
    from planner.model.checkpoint import read_folder

    folder = file.config.parent
    notes: tuple[str, ...] = ()
    try:
        checkpoint = read_folder(folder)
    except UsageError as error:
        # A download that stopped half way is no reason not to plan.
        notes = (f"the weights in the local cache are incomplete ({error.message})",)
    else:
        if checkpoint is not None:
            return folder, checkpoint, ()
    if hub.is_offline():
        return None, None, (*notes, "HF_HUB_OFFLINE is set: the bytes of the weights are computed from config.json")
    try:
        checkpoint = hub.read_headers(commit_id)
    except EnvironmentProblem as error:
        return None, None, (*notes, f"{error.message}; the bytes of the weights are computed from config.json")
    if checkpoint is None:
        notes = (*notes, f"{commit_id.repo} has no safetensors: the bytes of the weights are computed from config.json")
    return None, checkpoint, notes


def read_config(path: Path, label: str = "") -> dict[str, Any]:
    """The JSON object of a config.json; `label` is what messages call the file.

    Raises:
        UsageError: as `planner.files.reading.read_object`.
    """
    return reading.read_object(path, reading.CONFIG, label)


def _known_names() -> list[str]:
    return [name for entry in catalog.entries() for name in (entry.name, entry.hf_id, *entry.aliases)]


def _unknown(text: str) -> UsageError:
    return UsageError(f"unknown model '{shown(text)}'", perhaps(text[:120], _known_names()) or f"Give {_KINDS}")


def _with_nearest(error: LmplanError, hub_id: HubId) -> LmplanError:
    """The same error, whose hint also names the catalog's models that are spelled alike."""
    close = perhaps(hub_id.repo, _known_names())
    if close and isinstance(error, (UsageError, EnvironmentProblem)):
        return type(error)(error.message, f"{error.hint}. {close}" if error.hint else close)
    return error
