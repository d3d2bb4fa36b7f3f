"""pytorch_model.bin is read without torch, and nothing in it runs."""

from __future__ import annotations

import io
import pickle
import zipfile

import pytest

from planner.errors import UsageError
from planner.model.dtypes import DType
from quantize.checkpoint.torch_files import read_bin_folder, read_tensors


def write(path, text, members=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", text)
        for name, data in members:
            archive.writestr(f"archive/data/{name}", data)


def test_what_torch_saved(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    scales = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    shared = torch.zeros(10, dtype=torch.bfloat16)
    torch.save({"a.scales": scales, "b.weight": shared[4:8], "c.qweight": torch.ones(3, 4, dtype=torch.int32)}, path)
    checkpoint = read_bin_folder(tmp_path)
    assert {name: (t.shape, t.dtype) for name, t in checkpoint.tensors.items()} == {
        "a.scales": ((2, 3), DType.F16),
        "b.weight": ((4,), DType.BF16),
        "c.qweight": ((3, 4), DType.I32),
    }
    assert list(read_tensors(path, ".scales")) == [("a.scales", DType.F16, scales.numpy().tobytes())]
    torch.save({"a.scales": scales.t()}, path)
    with pytest.raises(UsageError, match="not stored in order"):
        list(read_tensors(path, ".scales"))


def test_no_bin_files_are_none(tmp_path):
    assert read_bin_folder(tmp_path) is None


class _Evil:
    def __reduce__(self):
        return (eval, ("1/0",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (pickle.dumps(_Evil()), "asks for builtins.eval"),
        (pickle.dumps([1]), "no dictionary"),
        (b"not a pickle", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_other_pickles_are_refused(tmp_path, text, said):
    write(tmp_path / "pytorch_model.bin", text)
    with pytest.raises(UsageError) as caught:
        read_bin_folder(tmp_path)
    assert said in caught.value.message


def test_broken_archives(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"PK")
    with pytest.raises(UsageError, match="truncated"):
        read_bin_folder(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(UsageError, match=r"no data\.pkl"):
        read_bin_folder(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(UsageError, match="has no weight_map"):
        read_bin_folder(tmp_path)


def test_storages_that_are_too_short(tmp_path):
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({"a.scales": torch.zeros(100, dtype=torch.float16)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    write(tmp_path / "pytorch_model.bin", text, [("0", b"\0" * 100)])
    with pytest.raises(UsageError, match="is truncated"):
        read_bin_folder(tmp_path)
