"""A graph as data comes back as the same network, and damage is told."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from calibrators.maximum import Maximum
from converter.encodings.poisson import Poisson
from converter.errors import ArtefactError
from converter.importer import load
from converter.passes import apply
from converter.passes.spike import Spike
from converter.rate import RateModel
from converter.schedules import model_of
from converter.store import from_json, kinds, to_json
from tests.models import parse, weight

BODY = """
    c = Conv<pads=[1,1,1,1]>(x, w) a = Clip(c, lo, hi) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
    d = PRelu(p, slope) r = Reshape(d, s) l = Gemm(r, w1) y = Softmax(l)
"""


@pytest.fixture(scope="module")
def model() -> RateModel:
    weights = {
        "w": weight(4, 3, 3, 3),
        "w1": weight(64, 5, seed=1),
        "lo": torch.tensor(0.0),
        "hi": torch.tensor(6.0),
        "slope": torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1),
        "s": torch.tensor([0, -1]),
    }
    graph = Spike()(apply(load(parse(BODY, weights)))[0])
    return RateModel(Maximum()(graph, lambda: [weight(4, 3, 8, 8, seed=2)]), Poisson(peak=1.5), seed=7)


def test_the_way_there_and_back(model: RateModel) -> None:
    text = to_json(model)
    back = from_json(text, model.state_dict())
    assert str(back.graph) == str(model.graph)
    assert (back.seed, back.encoding) == (7, Poisson(1.5))
    assert to_json(back) == text
    x = weight(2, 3, 8, 8, seed=3)
    assert torch.equal(back(x, 6), model(x, 6))


@pytest.mark.parametrize(("schedule", "delay"), [("stream", 3), ("pipelined", 0)])
def test_the_way_the_time_is_shared_comes_back(model: RateModel, schedule: str, delay: int) -> None:
    shared = model_of(model.graph, schedule=schedule, delay=delay)
    back = from_json(to_json(shared), shared.state_dict())
    assert (back.schedule, back.delay) == (schedule, delay)
    x = weight(2, 3, 8, 8, seed=3)
    mine, other = back(x, 6), shared(x, 6)
    assert isinstance(mine, Tensor)
    assert isinstance(other, Tensor)
    assert torch.equal(mine, other)


def test_shapes_read_as_they_print(model: RateModel) -> None:
    nodes = {n["name"]: n for n in json.loads(to_json(model))["nodes"]}
    assert nodes["x"]["shape"] == ["N", 3, 8, 8]
    assert nodes["c"]["tensors"] == {"weight": "c.weight"}


def damage(text: str, **change: object) -> str:
    return json.dumps(json.loads(text) | change)


def test_what_is_not_whole_is_told(model: RateModel) -> None:
    text, tensors = to_json(model), model.state_dict()
    with pytest.raises(ArtefactError, match=r"do not make a network.*\n.*c\.weight"):
        from_json(text, {k: v for k, v in tensors.items() if k != "c.weight"})
    with pytest.raises(ArtefactError, match="has format 99; this version reads 3"):
        from_json(damage(text, format=99), tensors)
    with pytest.raises(ArtefactError, match="do not make a network"):
        from_json(text[: len(text) // 2], tensors)
    with pytest.raises(ArtefactError, match="do not make a network"):
        from_json(text.replace('"Conv"', '"Nonesuch"'), tensors)


@pytest.mark.parametrize("head", ["Sigmoid", "Tanh", "HardSwish", "Gelu", "LogSoftmax"])
def test_ops_of_every_kind_come_back(head: str) -> None:
    weights = {"w": weight(6, 4)}
    graph = Spike()(
        apply(load(parse(f"r = Relu(x) l = Gemm(r, w) y = {head}(l)", weights, inputs="float[N,6] x")))[0]
    )
    x = weight(3, 6, seed=1)
    model = RateModel(Maximum()(graph, lambda: [x]))
    back = from_json(to_json(model), model.state_dict())(x, 4)
    assert isinstance(back, Tensor)
    assert torch.equal(back, model(x, 4))


def test_every_kind_of_op_is_known() -> None:
    assert {"Conv", "Linear", "IntegrateFire", "NegativeSlope", "MaxPool", "Constant"} <= set(kinds())
