"""What a Reshape means for a free batch: each sample by itself gets the shape it has at batch 1."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.errors import Refusal
from converter.graph import Graph, Input
from converter.ops._batch import resolve_target
from tests.lowering import N, all_nodes, lower, random


@pytest.mark.parametrize(
    ("source", "literal", "target"),
    [
        ((N, 4, 4, 4), (1, 64), (N, 64)),
        ((N, 4, 4, 4), (1, -1), (N, 64)),
        ((N, 4, 4, 4), (-1, 64), (N, 64)),
        ((N, 4, 4, 4), (0, -1), (N, 64)),
        ((N, 14), (-1, 7), (2 * N, 7)),
        ((N, 4, 4, 4), (64,), (64 * N,)),
        ((N, 4, 4, 4), (N, 64), (N, 64)),
        ((N, 4, 4, 4), (N, -1), (N, 64)),
        ((N, 96, 22, 22), (48, 2, 484), (48 * N, 2, 484)),
        ((2, 48 * N, 484), (2, -1, 48, 22, 22), (2, N, 48, 22, 22)),
        ((3, N, 8), (3, 1, 2, 4), (3, N, 2, 4)),
        ((1, N, 8), (1, 1, 8), (1, N, 8)),
        ((2, 3, 4), (0, -1), (2, 12)),
        ((17, N, 16), (17, 16), (17 * N, 16)),
        ((17, N, 16), (17 * N, 16), (17 * N, 16)),
        ((17 * N, 16), (17, 1, 16), (17, N, 16)),
        ((17, N, 16), (17, 2, 8), (17, 2 * N, 8)),
        ((17, 2 * N, 8), (17, 16), (17 * N, 16)),
        ((2, N), (2,), (2 * N,)),
    ],
)
def test_the_batch_finds_its_place(
    source: tuple[int, ...], literal: tuple[int, ...], target: tuple[int, ...]
) -> None:
    assert resolve_target(source, literal) == target


@pytest.mark.parametrize(
    ("source", "literal", "reason"),
    [
        ((N,), (), "no place"),
        ((N, 4), (4, N), "mix the samples"),
        ((N, 5), (1, 6), "cannot take the shape"),
        ((N, 5), (-1, -1), "cannot take the shape"),
        ((N,), (1, 0), "copies a dimension"),
        ((N, N), (1, 1), "twice"),
    ],
)
def test_a_shape_with_no_place_for_the_batch_is_refused(
    source: tuple[int, ...], literal: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(Refusal, match=reason):
        resolve_target(source, literal)


@given(
    data=st.data(),
    sizes=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
    batch=st.integers(2, 4),
)
@settings(max_examples=200, deadline=None)
def test_a_batch_is_reshaped_sample_by_sample(data: st.DataObject, sizes: list[int], batch: int) -> None:
    """Wherever the batch is and goes: each sample by itself, at batch 1, gets the literal shape."""
    at = data.draw(st.integers(0, len(sizes) - 1))
    literal = tuple(data.draw(st.permutations([*sizes, 1])))
    source = tuple(N * d if i == at else d for i, d in enumerate(sizes))
    node = lower("Reshape", source, torch.tensor(literal))
    to = next(i for i, d in enumerate(node.shape) if d % N == 0)
    samples = [random(*sizes, seed=i) for i in range(batch)]
    whole = torch.cat(samples, at)
    start = next(n for n in all_nodes((node,)) if isinstance(n.op, Input))
    value = {start: whole}
    for step in Graph((start,), (node,)):
        value.setdefault(step, step.op(*(value[i] for i in step.inputs)) if step.inputs else whole)
    assert torch.equal(value[node], torch.cat([s.reshape(literal) for s in samples], to))
