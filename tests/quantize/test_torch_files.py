"""pytorch_model.bin is read without torch, and nothing in it runs."""

from __future__ import annotations

import io
import pickle
import time
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


def word(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


NESTED = b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(35))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\x80\x02}" + word("a") + NESTED + b"K\x01s.", "names something by what is no text"),
        (b"\x80\x02}" + b"".join((b"K\x01", b"N")) * 3 + b"s.", "names something by what is no text"),
        (
            b"\x80\x02}" + word("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + NESTED + b"Rs.",
            "calls something that no weights need",
        ),
        (b"\x80\x02}" + word("a") + b"ctorch\nHalfStorage\n)Rs.", "calls something that no weights need"),
        (b"\x80\x02cos\nsystem\n" + word("id") + b"\x85R.", "asks for os.system"),
        (b"\x80\x02\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
        (b"\x80\x02]" * 300_000 + b".", "is too long"),
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "cannot be read"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", ""),
        (b"\x80\x02(lp0\n.", "has the instruction LIST"),
        (b"\x80\x02cos\x1b]0;owned\x07\nx\n.", "asks for os\\x1b]0;owned\\x07.x"),
    ],
    ids=range(11),
)
def test_pickles_that_were_made_to_do_harm_end_at_once(tmp_path, text, said):
    write(tmp_path / "pytorch_model.bin", text)
    started = time.process_time()
    try:
        found = read_bin_folder(tmp_path)
    except UsageError as error:
        assert said in error.message and error.message.isprintable()
    else:
        assert said == "" and not found.tensors
    assert time.process_time() - started < 2


def test_archives_that_claim_more_than_they_have(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write(path, b"\x80\x02}.")
    good = path.read_bytes()
    entry = good.index(b"PK\x01\x02")
    sizes = entry + 20  # compressed and whole size in the directory
    path.write_bytes(good[:sizes] + (2**31).to_bytes(4, "little") * 2 + good[sizes + 8 :])
    with pytest.raises(UsageError, match=r"data\.pkl has 2147483648 bytes, too many"):
        read_bin_folder(tmp_path)
    path.write_bytes(good[:sizes] + (2**31).to_bytes(4, "little") + good[sizes + 4 :])
    with pytest.raises(UsageError, match=r"bytes are more than there can be"):
        read_bin_folder(tmp_path)
    end = good.index(b"PK\x05\x06") + 12  # bytes of the directory
    path.write_bytes(good[:end] + (2**31).to_bytes(4, "little") + good[end + 4 :])
    with pytest.raises(UsageError, match="is truncated, or not a checkpoint"):
        read_bin_folder(tmp_path)
