"""The memory of a retrieval student: search, rows that come and go, files, faults."""

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.memory import KnowledgeBase, knowledge_base

FAISS = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss-cpu (policykd[retrieval])")
INDEXES = ["exact", pytest.param("int8", marks=FAISS), pytest.param("hnsw", marks=FAISS)]


def random(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def filled(rows=200, width=6, classes=3, **options):
    memory = KnowledgeBase(width, classes, "teacher", **options)
    memory.add(random(rows, width), random(rows, classes, seed=1).softmax(1))
    return memory


@pytest.mark.parametrize("index", INDEXES)
def test_search_finds_what_a_plain_product_finds(index):
    memory, queries = filled(index=index), random(9, 6, seed=2)
    found = memory.search(queries, 4)
    cosines = torch.cosine_similarity(queries[:, None], random(200, 6)[None], dim=2)
    expected = cosines.topk(4)
    torch.testing.assert_close(found.similarities, expected.values)
    assert torch.equal(found.rows, expected.indices)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 12), st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_blocks_of_any_size_find_the_same(rows, queries, k, cells):
    k = min(k, rows)
    memory, asked = filled(rows), random(queries, 6, seed=2)
    whole = memory.search(asked, k)
    before = knowledge_base.CELLS, knowledge_base.QUERIES
    knowledge_base.CELLS, knowledge_base.QUERIES = cells, 1 + cells % 7
    try:
        parts = memory.search(asked, k)
    finally:
        knowledge_base.CELLS, knowledge_base.QUERIES = before
    torch.testing.assert_close(parts.similarities, whole.similarities)
    of_rows = torch.cosine_similarity(asked[:, None], memory.keys[parts.rows], dim=2)
    torch.testing.assert_close(of_rows, whole.similarities)


@pytest.mark.parametrize("index", INDEXES)
def test_an_excluded_row_is_never_found(index):
    memory = filled(index=index)
    every = torch.arange(len(memory))
    assert torch.equal(memory.search(memory.keys, 1).rows[:, 0], every)
    others = memory.search(memory.keys, 5, exclude=every)
    assert not (others.rows == every[:, None]).any()
    assert torch.equal(others.rows, memory.search(memory.keys, 6).rows[:, 1:])


@pytest.mark.parametrize("index", INDEXES)
def test_rows_come_and_go(index):
    memory = filled(index=index)
    memory.search(random(1, 6), 1)  # builds the graph
    new, word = random(1, 6, seed=5), torch.tensor([[0.2, 0.3, 0.5]])
    memory.add(3 * new, word)
    found = memory.search(new, 1)
    assert int(found.rows) == 200 and torch.equal(memory.values[200], word[0])
    torch.testing.assert_close(found.similarities, torch.ones(1, 1))
    kept = memory.keys[[1, 2]]
    memory.remove(torch.tensor([0, 200]))
    assert len(memory) == 199 and torch.equal(memory.keys[:2], kept)
    assert float(memory.search(new, 1).similarities) < 0.9999
    assert memory.nbytes == 199 * (6 + 3) * 4


def test_a_file_holds_it_without_pickle_and_is_mapped(tmp_path):
    memory = KnowledgeBase(64, 2, "me")
    memory.add(random(50_000, 64), torch.full((50_000, 2), 0.5))
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    content = path.read_bytes()
    assert b"pickle" not in content[:1000] and memory.nbytes < len(content) < memory.nbytes + 1000
    again = KnowledgeBase.load(path, "me")
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(path) in maps.read_text(encoding="utf-8")
    asked = random(3, 64, seed=2)
    assert torch.equal(again.search(asked, 5).rows, memory.search(asked, 5).rows)
    again.add(random(1, 64), torch.full((1, 2), 0.5))  # grows in memory, not in the file
    assert path.read_bytes() == content


def test_faults_are_one_line(tmp_path):
    memory = filled(10)
    hole = random(4, 6)
    hole[2, 1] = float("nan")
    lines = {
        "k=11 neighbours, but there are 10 rows: choose k from 1 to 10": lambda: memory.search(random(1, 6), 11),
        "k=10 neighbours, but there are 9 rows": lambda: memory.search(random(1, 6), 10, exclude=torch.zeros(1)),
        "k=0": lambda: memory.search(random(1, 6), 0),
        "1 of 4 keys hold NaN": lambda: memory.add(hole, torch.ones(4, 3) / 3),
        "1 of 4 queries hold NaN": lambda: memory.search(hole, 1),
        "values must be probabilities": lambda: memory.add(random(1, 6), torch.full((1, 3), torch.inf)),
        "no NaN, none below 0, rows of sum 1": lambda: memory.add(random(1, 6), torch.tensor([[2.0, -1.0, 0.0]])),
        r"needs keys \(N, 6\) and values \(N, 3\), got \(4, 5\)": lambda: memory.add(
            random(4, 5), torch.ones(4, 3) / 3
        ),
        r"got \(4, 6\) and \(3, 3\)": lambda: memory.add(random(4, 6), torch.ones(3, 3) / 3),
        r"queries must be \(B, 6\)": lambda: memory.search(random(1, 7), 1),
        r"must lie in \[0, 10\)": lambda: memory.remove(torch.tensor([10])),
        "belongs to another teacher": lambda: memory.check_teacher("another"),
        "index='hnws' is unknown": lambda: KnowledgeBase(6, 3, "", index="hnws"),
        "there is no file": lambda: KnowledgeBase.load(tmp_path / "none"),
        "checkpoint: '' is not a path": lambda: memory.save(""),
    }
    for line, cause in lines.items():
        with pytest.raises(PolicyKDError, match=line) as error:
            cause()
        assert "\n" not in str(error.value)
    assert len(memory) == 10


def test_a_file_is_named_as_agents_name_theirs(tmp_path):
    filled(10).save(tmp_path / "memory")
    assert [file.name for file in tmp_path.iterdir()] == ["memory.safetensors"]
    assert len(KnowledgeBase.load(tmp_path / "memory")) == 10


def test_files_of_others_are_refused(tmp_path):
    memory = filled(10)
    memory.save(tmp_path / "memory")
    with pytest.raises(PolicyKDError, match="another teacher"):
        KnowledgeBase.load(tmp_path / "memory", "another")
    good = {"keys": memory.keys, "values": memory.values, "teacher": "teacher"}
    damaged = (
        {"keys": torch.ones(2)},
        {**good, "keys": torch.ones(10)},
        {**good, "values": torch.ones(9, 3)},
        {**good, "keys": memory.keys.half()},
        {**good, "teacher": None},
        [1, 2],
    )
    for content in damaged:
        checkpoint.save(tmp_path / "other", content)
        with pytest.raises(PolicyKDError, match=r"is not a knowledge base, or damaged|has no state"):
            KnowledgeBase.load(tmp_path / "other", "teacher")


def test_the_memory_keeps_its_own_copy():
    keys, values = random(3, 6), torch.full((3, 3), 1 / 3)
    memory = KnowledgeBase(6, 3, "")
    memory.add(keys, values)
    keys.zero_(), values.zero_()
    assert memory.keys.norm(dim=1).allclose(torch.ones(3)) and memory.values.allclose(torch.full((3, 3), 1 / 3))


@pytest.mark.parametrize("index", INDEXES)
def test_no_queries_find_nothing(index):
    assert filled(index=index).search(torch.empty(0, 6), 2).rows.shape == (0, 2)


def test_search_ranks_in_float32_under_autocast():
    memory, queries = filled(3000), random(50, 6, seed=2)
    expected = memory.search(queries, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memory.search(queries, 5).rows, expected.rows)


@pytest.mark.parametrize("index", ["int8", "hnsw"])
def test_faiss_is_an_extra(monkeypatch, index):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(PolicyKDError, match=r'pip install "policykd\[retrieval\]"'):
        KnowledgeBase(2, 2, "", index=index)


@FAISS
@pytest.mark.parametrize("noise", [1e-3, 0.03, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 10, 4000])
def test_eight_bits_find_what_exact_search_finds(noise, classes):
    """Or others as near, however close together a class lies: stage 1 draws it into a point."""
    centres = random(classes, 64, seed=7)
    keys = centres[torch.arange(4000) % classes] + noise * random(4000, 64, seed=8)
    queries = centres[torch.arange(100) % classes] + noise * random(100, 64, seed=9)
    exact, scan = (KnowledgeBase(64, 1, "", index=index) for index in ("exact", "int8"))
    for memory in (exact, scan):
        memory.add(keys, torch.ones(len(keys), 1))
    expected, found = (memory.search(queries, 10).similarities for memory in (exact, scan))
    assert (expected - found).max() < 0.005 and (expected - found).mean() < 0.001
    if classes == 4000:  # nothing lies close together
        torch.testing.assert_close(expected, found)


@FAISS
def test_more_effort_misses_less():
    keys, queries = random(5_000, 64), random(100, 64, seed=1)
    exact, little, much = (
        KnowledgeBase(64, 1, "", **options)
        for options in ({}, {"index": "hnsw", "effort": 10}, {"index": "hnsw", "effort": 1000})
    )
    for memory in (exact, little, much):
        memory.add(keys, torch.ones(len(keys), 1))
    assert recall(exact, little, queries) < 0.9 < 0.98 < recall(exact, much, queries)


def recall(exact, other, queries):
    expected, found = (memory.search(queries, 10).rows for memory in (exact, other))
    return (expected[:, :, None] == found[:, None]).any(2).float().mean()


@pytest.mark.nightly
@FAISS
def test_hnsw_finds_what_exact_search_finds_among_100_000():
    centres = random(200, 128, seed=7)  # classes, as embeddings have them
    keys = centres[torch.arange(100_000) % 200] + 0.7 * random(100_000, 128, seed=8)
    queries = centres[torch.arange(500) % 200] + 0.7 * random(500, 128, seed=9)
    exact, hnsw = (KnowledgeBase(128, 1, "", index=index) for index in ("exact", "hnsw"))
    for memory in (exact, hnsw):
        memory.add(keys, torch.ones(len(keys), 1))
    assert recall(exact, hnsw, queries) >= 0.98
