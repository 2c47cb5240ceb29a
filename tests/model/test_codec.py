"""KV as int8: no number off by more than half a scale, encoded twice is encoded once, and stores that keep it so."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lagkit.__main__ import main
from lagkit.agent.context import KVContextBuilder
from lagkit.logs.encode import Encoder
from lagkit.logs.store import LogStore
from lagkit.model.codec import SCALES, dequantise, pack, quantise, unpack
from lagkit.model.context import Context
from lagkit.model.kv import KVBlock
from lagkit.policy import get_policy
from lagkit.util.errors import ConfigError, DamagedBlock, StoreError, StoreMismatch
from tests.helpers.blocks import block_of, same
from tests.helpers.lms import small_run, tiny_lm
from tests.helpers.stores import content, file_of, fill, header, kv, new_store, trace, vector

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def drawn(seed: int, tokens: int, size: float) -> torch.Tensor:
    """`[2, 3, tokens, 4]`, with channels of very different sizes, one of them all zero."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(2, 3, tokens, 4, generator=generator) * size
    return numbers * torch.tensor([1.0, 1e-3, 30.0, 0.0])


numbers = st.builds(drawn, st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([1e-7, 0.01, 1.0, 300.0]))


@settings(max_examples=60, deadline=None)
@given(numbers=numbers, shared=st.sampled_from([2, 3]), dtype=st.sampled_from(FLOATS))
def test_no_number_is_off_by_more_than_half_a_scale(numbers, shared, dtype):
    numbers = numbers.to(dtype)
    quantised, places = quantise(numbers, shared)
    scale = SCALES[places.int()]
    back = dequantise(quantised, places.squeeze(shared), shared, torch.float32)
    assert ((back - numbers.float()).abs() <= 0.50001 * scale).all()
    # The scale is no larger than it has to be: 9% more than the next smaller one, or the smallest of all.
    largest = numbers.float().abs().amax(shared, keepdim=True)
    assert ((largest > 127.2 * scale / 2**0.126) | (places == 0)).all()
    # In the block's own dtype, rounding to it comes on top.
    rounded = dequantise(quantised, places.squeeze(shared), shared, dtype).float()
    assert ((rounded - back).abs() <= back.abs() * torch.finfo(dtype).eps / 2 + torch.finfo(dtype).tiny).all()


@settings(max_examples=60, deadline=None)
@given(numbers=numbers, shared=st.sampled_from([2, 3]))
def test_to_encode_twice_is_to_encode_once(numbers, shared):
    quantised, places = quantise(numbers, shared)
    again = quantise(dequantise(quantised, places.squeeze(shared), shared, torch.float32), shared)
    assert torch.equal(again[0], quantised)
    told = quantised.ne(0).any(shared, keepdim=True)  # of a channel that is zero by now, nothing is left to tell
    assert torch.equal(again[1][told], places[told])


def test_numbers_and_scales_by_hand():
    """Channel scales for keys, token scales for values; the largest of a channel is at most 127 scales."""
    keys = torch.tensor([[127.0, 127 / 256], [-63.5, 0.25]]).reshape(1, 1, 2, 2)
    values = keys.transpose(2, 3).contiguous()
    packed = pack(keys, values, "int8")
    assert packed["keys"].tolist() == [[[[127, 127], [-64, 64]]]]
    assert torch.equal(SCALES[packed["key_scales"].int()], torch.tensor([[[1.0, 2**-8]]]))
    assert packed["values"].tolist() == [[[[127, -64], [127, 64]]]]
    assert packed["value_scales"].tolist() == packed["key_scales"].tolist() == [[[160, 96]]]
    back = unpack(packed, "int8", "float32")
    assert back[0].tolist() == [[[[127.0, 127 / 256], [-64.0, 0.25]]]]


def test_zeros_and_blocks_of_one_token_or_none_come_back():
    for tokens in (0, 1):
        block = block_of(tokens, dtype=torch.bfloat16)
        back = KVBlock(*unpack(pack(block.keys, block.values, "int8"), "int8", "bfloat16"), block.ids)
        assert back.keys.shape == block.keys.shape
        # One token's channel holds a single number, that is at least 116 scales.
        assert torch.allclose(back.keys, block.keys, rtol=0.5 / 116 + 2**-8, atol=0)
    zeros = torch.zeros(2, 2, 5, 8)
    assert all(torch.equal(t, zeros) for t in unpack(pack(zeros, zeros, "int8"), "int8", "float32"))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 5e5])
@pytest.mark.parametrize("where", ["keys", "values"])
def test_what_int8_cannot_hold_is_refused_and_nothing_is_stored(tmp_path, wrong, where):
    keys, values, ids = (t.clone() for t in (kv(1).keys, kv(1).values, kv(1).ids))
    (keys if where == "keys" else values)[1, 0, 2, 3] = wrong
    with new_store(tmp_path / "store", codec="int8") as store:
        fill(store, [2])
        with pytest.raises(
            StoreError, match=r"Block 'k' of log \S+ cannot be kept as int8 \(its largest number is .*\)"
        ):
            store.add(trace(1), vector(1), {"k": KVBlock(keys, values, ids)})
        assert (len(store), store.verify().empty) == (1, True)
    with new_store(tmp_path / "plain") as store:
        store.add(trace(1), vector(1), {"k": KVBlock(keys, values, ids)})


def test_a_file_of_28_tokens_takes_052_of_bf16(tmp_path):
    """The shape of SmolLM2-135M, whose tokens take 23,040 bytes in bf16."""
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(30, 3, 28, 64, generator=generator).bfloat16() for _ in range(2))
    block = KVBlock(keys, values, torch.arange(28))
    for codec, most in (("none", 1.01), ("int8", 0.515)):
        block.save(tmp_path / codec, codec)
        packed = sum(t.nbytes for t in pack(keys, values, codec).values())
        assert packed < (tmp_path / codec).stat().st_size <= most * 28 * 23_040


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_block_comes_back_from_its_file_in_its_dtype(tmp_path, dtype):
    block = block_of(30, dtype=dtype)
    block.save(tmp_path / "block", "int8")
    back = KVBlock.load(tmp_path / "block", "int8")
    assert (back.keys.dtype, back.values.dtype) == (dtype, dtype)
    assert torch.equal(back.ids, block.ids)
    for found, expected in ((back.keys, block.keys), (back.values, block.values)):
        error = (found.float() - expected.float()).norm() / expected.float().norm()
        assert 1e-4 < error < 0.008
    with pytest.raises(DamagedBlock, match="its format is lagkit-kv-int8-1, not lagkit-kv-1"):
        KVBlock.load(tmp_path / "block")
    block.save(tmp_path / "plain")
    with pytest.raises(DamagedBlock, match="its format is lagkit-kv-1, not lagkit-kv-int8-1"):
        KVBlock.load(tmp_path / "plain", "int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"key_scales": torch.zeros(2, 2, 7, dtype=torch.uint8)},
            r"its scales are torch.uint8 \[2, 2, 7\] for torch.int8",
        ),
        ({"key_scales": torch.zeros(2, 2, 8)}, "its scales are torch.float32"),
        ({"value_scales": torch.zeros(2, 2, 8, dtype=torch.uint8)}, r"\[2, 2, 8\] for torch.int8 \[2, 2, 20, 8\]"),
        ({"value_scales": None}, "value_scales"),
        ({"values": torch.zeros(2, 2, 20, 8)}, "for torch.float32"),
        ({"ids": torch.zeros(19, dtype=torch.int32)}, "do not fit together"),
        ({"dtype": "/int8"}, "its dtype is int8"),
        ({"dtype": "/nonsense"}, "its dtype is nonsense"),
        ({"dtype": ""}, "its dtype is not told"),
    ],
)
def test_damaged_scales_are_named(tmp_path, change, message):
    path = tmp_path / "block"
    block_of(20).save(path, "int8")
    changed = {**load_file(path), **change}
    dtype = changed.pop("dtype", "/float32")
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    save_file(kept, path, metadata={"format": f"lagkit-kv-int8-1{dtype}"})
    with pytest.raises(DamagedBlock, match=message) as damage:
        KVBlock.load(path, "int8")
    assert str(damage.value).startswith(f"KV block {path} cannot be used (")


# Stores


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "store", codec="int8") as store:
        yield store


def long(i: int) -> KVBlock:
    return block_of(40, seed=i)


def test_a_store_gives_back_what_its_files_hold(store):
    [log] = store.add_many([(trace(1), vector(1), {"last": long(1)})])
    expected = KVBlock(*unpack(pack(long(1).keys, long(1).values, "int8"), "int8", "float32"), long(1).ids)
    assert same(store.block(log, "last"), expected)
    assert store.summary().loc["last", "bytes"] == file_of(store, log).stat().st_size < 0.40 * long(1).nbytes
    assert store.codec == "int8"
    assert "<th>codec</th><td>int8</td>" in store._repr_html_()
    before = file_of(store, log).read_bytes()
    store.put_block(log, "again", store.block(log, "last"))
    assert file_of(store, log, "again") == file_of(store, log)  # the same content: float32 is encoded once for all
    assert file_of(store, log).read_bytes() == before


def test_verify_and_prune_know_damaged_scales(store):
    one, two = store.add_many((trace(i), vector(i), {"last": long(i)}) for i in (1, 2))
    path = file_of(store, one)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with LogStore.open(store.path) as reader:
        with pytest.raises(DamagedBlock, match="its content is not what was stored"):
            reader.block(one, "last")
        assert reader.verify()["log"].tolist() == [one]
        assert len(reader.block(two, "last")) == 40
    assert store.prune()["log"].tolist() == [one]
    assert (store.verify().empty, store.block_keys(one), store.block_keys(two)) == (True, [], ["last"])


def test_archives_keep_the_codec(store, tmp_path, capsys):
    store.add_many((trace(i), vector(i), {"last": long(i)}) for i in (1, 2))
    store.export(tmp_path / "logs.tar")
    with new_store(tmp_path / "copy", codec="int8") as copy:
        copy.import_archive(tmp_path / "logs.tar")
        assert content(copy) == content(store)
        assert copy.verify().empty
    made = str(tmp_path / "made")
    assert main(["store", "import", made, str(tmp_path / "logs.tar")]) == 0
    assert main(["store", "summary", made]) == 0
    assert "float32, codec int8, embedder mini" in capsys.readouterr().out
    with new_store(tmp_path / "plain") as plain:
        with pytest.raises(
            StoreMismatch, match='was built with codec "int8", but "none" was asked for: use the same codec'
        ):
            plain.import_archive(tmp_path / "logs.tar")
        assert len(plain) == 0


def test_another_codec_than_the_stores_is_refused(tmp_path):
    new_store(tmp_path / "plain").close()
    message = re.escape('was built with codec "none", but "int8" was asked for: use the same codec, or another store.')
    with pytest.raises(StoreMismatch, match=message):
        LogStore.open(tmp_path / "plain", codec="int8")
    with pytest.raises(StoreMismatch, match=message):
        LogStore.new(tmp_path / "plain", header(codec="int8"), exist_ok=True)
    with pytest.raises(StoreError, match="'int4' is no codec of KV blocks; give one of none, int8"):
        new_store(tmp_path / "other", codec="int4")
    assert not (tmp_path / "other" / "store.json").exists()


def test_an_int8_run_gives_the_answers_of_an_uncompressed_one(tmp_path):
    """A tiny random model in float32: the same greedy words, and logits within 2% in norm."""
    asked = {"policies": ("no_logs", "kv_last_round"), "splits": ("unseen",)}
    runs = {codec: small_run(tmp_path / codec, tiny_lm(), codec=codec, **asked) for codec in ("none", "int8")}
    said, logits, sizes = {}, {}, {}
    for codec, run in runs.items():
        run.run()
        traces = run._traces("kv_last_round", "unseen", run._digests())
        said[codec] = {id: [round_.response for round_ in trace.rounds] for id, trace in traces.items()}
        policy = get_policy("kv_last_round")
        with run.store() as store:
            block = store.block(store.ids[0], Encoder(run.lm, run.prompt).key(policy))
            sizes[codec] = store.summary()["bytes"].sum()

        logits[codec] = run.lm.logits(Context(tuple(range(10, 30)), (block,)))
    assert len(said["none"]) == 3
    assert said["int8"] == said["none"]
    assert 0 < (logits["int8"] - logits["none"]).norm() < 0.02 * logits["none"].norm()
    assert sizes["int8"] < 0.55 * sizes["none"]  # of float32; of so few tokens, scales and ids are a good part
    with pytest.raises(StoreMismatch, match="was built with codec"):
        runs["int8"].store(folder=tmp_path / "none" / "store")


def test_a_log_that_is_encoded_when_it_is_asked_for_is_used_as_it_will_be_read(tmp_path):
    run, policy = small_run(tmp_path, tiny_lm(), codec="int8"), get_policy("kv_last_round")
    run.build()
    with run.store(write=True) as store:
        [log, *_] = store.ids
        builder = KVContextBuilder(run.lm, run.prompt, policy, store)
        first, second = (builder.block(log, run.log_questions[0]) for _ in range(2))
        assert same(first, second)
        assert not torch.equal(first.keys, builder.encoder.encode(store.get(log), policy).keys)


def test_a_run_holds_to_its_codec(tmp_path):

    small_run(tmp_path, tiny_lm(), policies=("no_logs",)).run()
    with pytest.raises(ConfigError, match="codec was 'none' and is 'int8'"):
        small_run(tmp_path, tiny_lm(), policies=("no_logs",), codec="int8")
    with pytest.raises(ConfigError, match="codec: Input should be 'none' or 'int8'"):
        small_run(tmp_path / "new", tiny_lm(), codec="int4")
