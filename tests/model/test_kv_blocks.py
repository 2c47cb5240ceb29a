"""Blocks as values: joined, cut, written and read back; damaged files are named."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lagkit.model.kv import KVBlock
from lagkit.util.errors import DamagedBlock
from tests.helpers.blocks import block_of, same


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    data=st.data(),
)
def test_joining_cutting_and_writing_give_the_blocks_back(
    lengths: list[int], dtype: torch.dtype, data: st.DataObject
) -> None:
    blocks = [block_of(n, seed, dtype) for seed, n in enumerate(lengths)]
    whole = KVBlock.concat(blocks)
    assert len(whole) == sum(lengths)
    assert whole.nbytes == sum(b.nbytes for b in blocks) == 2 * 2 * 2 * 8 * sum(lengths) * dtype.itemsize
    with tempfile.TemporaryDirectory() as folder:
        whole.save(Path(folder) / "whole.safetensors")
        loaded = KVBlock.load(Path(folder) / "whole.safetensors")
        assert same(loaded, whole)
        start = 0
        for number, block in enumerate(blocks):
            cut = loaded.slice(start, start + len(block))
            assert same(cut, block)
            cut.save(Path(folder) / f"{number}.safetensors")
            assert same(KVBlock.load(Path(folder) / f"{number}.safetensors"), block)
            start += len(block)
    index = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)) if len(whole) else []
    assert same(whole.take(index), KVBlock.concat([whole.slice(i, i + 1) for i in index] or [whole.slice(0, 0)]))
    assert same(whole.take(torch.arange(len(whole))), whole)


def test_concat_of_nothing_and_blocks_of_odd_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="concat needs at least one KV block"):
        KVBlock.concat([])
    block = block_of(3)
    with pytest.raises(ValueError, match=r"do not fit together: their shapes are .* \(2,\)"):
        KVBlock(block.keys, block.values, block.ids[:2])
    with pytest.raises(ValueError, match=r"differ in dtype: torch.float32, torch.float16"):
        KVBlock(block.keys, block.values.half(), block.ids)


def test_to_changes_keys_and_values_only() -> None:
    block = block_of(4)
    half = block.to(torch.float16, "cpu")
    assert torch.equal(half.keys, block.keys.half())
    assert torch.equal(half.values, block.values.half())
    assert torch.equal(half.ids, block.ids)
    assert half.ids.dtype == torch.int64


# Files


def test_file_of_a_short_block_is_hardly_larger_than_its_kv(tmp_path: Path) -> None:
    keys, values = (torch.zeros(30, 3, 28, 64, dtype=torch.bfloat16) for _ in range(2))
    KVBlock(keys, values, torch.arange(28)).save(tmp_path / "block.safetensors")
    assert (tmp_path / "block.safetensors").stat().st_size <= 1.02 * 28 * 23_040


def test_a_loaded_block_is_not_changed_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "block.safetensors"
    block_of(50).save(path)
    block = KVBlock.load(path)
    path.write_bytes(b"")
    assert same(block, block_of(50))


def damaged_files(folder: Path) -> dict[str, Path]:
    whole = folder / "whole"
    block_of(20).save(whole)
    content = whole.read_bytes()
    tensors = {"keys": torch.zeros(2, 2, 5, 8), "values": torch.zeros(2, 2, 5, 8), "ids": torch.zeros(5).int()}
    contents = {
        "empty": b"",
        "cut_in_header": content[:60],
        "cut_in_data": content[: len(content) // 2],
        "last_byte_gone": content[:-1],
        "longer": content + b"x",
        "garbage": b"\xff" * 500,
        "text": b"not a block at all, but long enough to hold a header length",
    }
    saved = {
        "foreign": (tensors, None),
        "newer": (tensors, {"format": "lagkit-kv-99"}),
        "no_ids": ({k: v for k, v in tensors.items() if k != "ids"}, {"format": "lagkit-kv-1"}),
        "ids_short": ({**tensors, "ids": torch.zeros(4).int()}, {"format": "lagkit-kv-1"}),
        "values_short": ({**tensors, "values": torch.zeros(2, 2, 4, 8)}, {"format": "lagkit-kv-1"}),
        "flat": ({**tensors, "keys": torch.zeros(160), "values": torch.zeros(160)}, {"format": "lagkit-kv-1"}),
        "dtypes": ({**tensors, "values": torch.zeros(2, 2, 5, 8).half()}, {"format": "lagkit-kv-1"}),
    }
    for name, raw in contents.items():
        (folder / name).write_bytes(raw)
    for name, (parts, metadata) in saved.items():
        save_file(parts, folder / name, metadata=metadata)
    (folder / "folder").mkdir()
    return {name: folder / name for name in ("missing", "folder", *contents, *saved)}


def test_damaged_files_are_named(tmp_path: Path) -> None:
    files = damaged_files(tmp_path)
    assert same(KVBlock.load(tmp_path / "whole"), block_of(20))
    assert len(files) == 16
    for path in files.values():
        with pytest.raises(DamagedBlock) as damage:
            KVBlock.load(path)
        assert str(damage.value).startswith(f"KV block {path} cannot be used (")
        assert str(damage.value).endswith("encode its log again.")
