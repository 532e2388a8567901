"""The page and the model card: what they say, that they load nothing, that a name in them stays a name."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors.torch import save_file

from converter.exporters import _words as words
from converter.exporters.card import card
from converter.exporters.html import page
from converter.exporters.torch import source, tensors
from converter.graph import BATCH, Graph, Input, Node
from converter.neurons.integrate_fire import IntegrateFire
from converter.ops._basic import Linear
from converter.rate import RateModel
from converter.report import DataFacts, Layer, ModelFacts, Point, Report, Step, Trial

EVIL = "a<script>alert(1)</script>&\"'|`[x](http://evil.example)*b*_c_\n# d"


def report(name: str = "digits", *, layers: int = 2, labelled: bool = True) -> Report:
    """A small report; with a name that is not harmless, every text in it is so."""
    points = (
        (1, 0.31, 0.3, 0.9, 1.5, 0.2),
        (8, 0.904, 0.91, 0.2, 0.25, 1.5),
        (16, 0.912, 0.96, 0.1, 0.03125, 3.125),
    )
    return Report(
        model=ModelFacts(
            name, f"{name}.onnx", "ab" * 32, 123456, name, 17, 30, 12, 5000, {name: "Nx4"}, {name: "Nx3"}
        ),
        data=DataFacts(
            name, "cd" * 32, labelled, f"64 of {name}", f"100 of {name}", 100, {"mean": [0.5]}, (name, "two")
        ),
        settings={
            "neuron": "integrate-fire",
            "note": name,
            "samples": None,
            "command": f"ann2snn convert {name}",
        },
        steps=(Step("fold-batchnorm", {"note": name}, f"folded {name}"),),
        analog=(f"Softmax '{name}'",),
        pooling=(f"MaxPool '{name}'",),
        ann_accuracy=0.916 if labelled else None,
        curve=tuple(Point(t, a if labelled else None, *others) for t, a, *others in points),
        layers=tuple(
            Layer(
                f"{name}{i}",
                "IntegrateFire",
                "8x4x4",
                128,
                0.5,
                1.0,
                1.5,
                0.125,
                2.0,
                0.01,
                0.02 * i,
                0.04 * i,
            )
            for i in range(layers)
        ),
        metrics={
            "footprint": 20000,
            "activation_sparsity": 0.875,
            "synaptic_operations": {"Effective_ACs": 123456.0, "Effective_MACs": 1000},
            "energy": {"snn_microjoule": 0.1157, "assumption": "45 nm, 0.9 pJ an accumulate"},
        },
        versions={"ann2snn": "0.1.0"},
        warnings=(f"careful with {name}",),
        date="2026-01-01T00:00:00+00:00",
    )


class Reader(HTMLParser):
    """Every tag with its attributes, the visible text, and the tags left open."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


# The result in a sentence


def test_with_labels_the_result_is_an_accuracy() -> None:
    assert words.headline(report()) == "91.2 % after 16 steps of binary spikes, the ANN has 91.6 %"


def test_without_labels_it_is_an_agreement_and_nobody_speaks_of_accuracy() -> None:
    unlabelled = report(labelled=False)
    assert (
        words.headline(unlabelled)
        == "after 16 steps of binary spikes it answers as the ANN does on 96.0 % of the samples"
    )
    assert "accuracy" not in Reader(page(unlabelled)).words.lower()
    assert "accuracy" not in card(unlabelled).lower()
    assert "without labels" in card(unlabelled)


def test_where_outputs_are_no_scores_of_classes_nobody_speaks_of_agreement() -> None:
    curve = tuple(replace(p, agreement=None, divergence=None) for p in report(labelled=False).curve)
    boxes = replace(report(labelled=False), curve=curve)
    assert words.headline(boxes) == "after 16 steps of binary spikes its outputs are 10.0 % from the ANN's"
    for text in (Reader(page(boxes)).words, card(boxes)):
        assert "10.0 %" in text
        assert not re.search("agreement|divergence|KL", text)


def test_settled_is_the_step_after_which_it_never_falls_behind_again() -> None:
    assert words.settled(report()) == 16
    there_and_back = (Point(1, 0.92, 1, 0, 0, 0), Point(2, 0.5, 1, 0, 0, 0), Point(4, 0.9111, 1, 0, 0, 0))
    assert words.settled(replace(report(), curve=there_and_back)) == 4
    assert words.settled(replace(report(), curve=there_and_back[:2])) is None


def test_of_many_points_those_at_powers_of_two_and_the_last_are_shown() -> None:
    curve = tuple(Point(t, 0.5, 0.5, 0.5, 0.5, 0.5) for t in range(1, 101))
    assert [p.timesteps for p in words.milestones(curve)] == [1, 2, 4, 8, 16, 32, 64, 100]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.percent(0.91625), "91.6 %"),
        (words.percent(0.0), "0.0 %"),
        (words.percent(0.0001234), "0.012 %"),
        (words.percent(1e-9), "< 0.001 %"),
        (words.percent(float("nan")), "–"),
        (words.number(1234567), "1\u202f234\u202f567"),
        (words.number(0.123456), "0.1235"),
        (words.nats(0.03125), "0.0312"),
        (words.nats(0.0), "0.0000"),
        (words.nats(1e-6), "< 0.0001"),
        (words.nats(float("nan")), "–"),
        (words.size(999), "999 bytes"),
        (words.size(1_234_567), "1.2 MB"),
        (words.label("Effective_ACs"), "effective ACs"),
        (words.value("snn_microjoule", 0.5), "0.5 µJ"),
        (words.value("keep_analog", ["Softmax", "Tanh"]), "Softmax, Tanh"),
        (words.value("flag", True), "yes"),
        (
            words.value("data", {"Mean_1": [0.5, 0.25], "std": [2], "crop": None, "scale": []}),
            "Mean_1 (0.5, 0.25), std 2",
        ),
    ],
)
def test_numbers_and_settings_in_words(said: str, expected: str) -> None:
    assert said == expected


# The page


@pytest.mark.parametrize(
    "shown",
    [
        report(),
        report(labelled=False),
        report(EVIL),
        report(layers=60),
        replace(report(), curve=(), layers=(), metrics={}, steps=(), warnings=()),
    ],
)
def test_the_page_is_well_formed_and_loads_nothing(shown: Report) -> None:
    text = page(shown)
    reader = Reader(text)
    assert reader.open == []
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "img", "iframe", "object", "base"}
    addresses = [
        v
        for _, attrs in reader.tags
        for k, v in attrs.items()
        if k in ("src", "href", "xlink:href", "action")
    ]
    assert all(v is not None and v.startswith("#") for v in addresses)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_identifiers_are_unique_and_what_is_referred_to_is_there() -> None:
    reader = Reader(page(report()))
    names = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(names) == len(set(names))
    used = {attrs["xlink:href"] for _, attrs in reader.tags if "xlink:href" in attrs}
    assert used
    assert used <= {f"#{name}" for name in names}


def test_drawings_take_all_their_colours_from_the_page() -> None:
    drawings = re.findall(r"<svg.*?</svg>", page(report()), re.DOTALL)
    assert len(drawings) == 3
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert not re.search(r"#[0-9a-fA-F]{6}\b", drawing)
        assert "font-family" not in drawing
        assert "var(--main)" in drawing


def searched(name: str = "bayesian") -> Report:
    """A report of a run with two searches in it, one of a single trial that found the ANN itself."""
    values = (0.8, 0.9, 0.2, 0.3)
    trials = tuple(Trial({"scale 1": i / 4}, value, value, 1.0) for i, value in enumerate(values))
    found = (Step(name, {}, "4 trials", trials), Step(name, {}, "1 trial", (Trial({}, 0.0, 0.0, 0.0),)))
    return replace(report(name), steps=found)


def test_a_search_has_a_drawing_of_its_own() -> None:
    text = page(searched())
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 5
    assert ["each trial" in drawing for drawing in drawings] == [False, False, False, True, True]
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert not re.search(r"#[0-9a-fA-F]{6}\b", drawing)
    names = [attrs["id"] for _, attrs in Reader(text).tags if "id" in attrs]
    assert len(names) == len(set(names))
    assert "bayesian, objective on held-out samples" in Reader(text).words
    assert "<script" not in page(searched(EVIL))


def test_the_page_says_what_was_measured() -> None:
    said = Reader(page(report())).words
    for part in (
        "91.2 % after 16 steps of binary spikes, the ANN has 91.6 %.",
        "From step 16 on it stays within half a point of the ANN.",
        "16 91.2 % 96.0 % 10.0 % 0.0312 3.12",
        "divergence from the ANN, nats 0.0312",
        "digits1 8x4x4, thresholds 0.5–1.5 0.125 4.0 % 1.0 % 2.0 %",
        "The largest error is in digits1 : 4.0 %",
        "effective ACs 123 456",
        "45 nm, 0.9 pJ an accumulate",
        "MaxPool 'digits'",
        "Softmax 'digits'",
        "careful with digits",
        "thresholds set on 64 of digits",
        "ann2snn convert digits",
    ):
        assert part in said, part


def test_an_answer_that_takes_longer_than_its_steps_says_so_everywhere() -> None:
    """Windows of T steps through 3 layers: the latency has a column, and its place in every sentence."""
    plain = report()
    curve = tuple(replace(p, latency=4 * p.timesteps) for p in plain.curve)
    timing = ("windows of T steps, 3 layers",)
    late = replace(plain, curve=curve, timing=timing, settings={"schedule": "pipelined"})
    said, text = Reader(page(late)).words, card(late)
    sentence = "91.2 % after 16 steps of binary spikes a layer, 64 from image to answer, the ANN has 91.6 %"
    assert words.headline(late) == sentence
    for part in (
        sentence,
        "With windows of 16 steps or more it stays within half a point of the ANN.",
        "16 64 91.2 % 96.0 % 10.0 % 0.0312 3.12",
        "latency, in steps 64",
        "each row is a run of its own",
        "Time windows of T steps, 3 layers",
    ):
        assert part in said, part
    for part in (
        "| time steps | latency | accuracy |",
        "| 16 | 64 | 91.2 % |",
        "| ANN | | 91.6 % |",
        "answer = network(x, timesteps=16)  # with windows of 16 steps",
        "- windows of T steps, 3 layers",
        "each row is a run of its own",
    ):
        assert part in text, part
    soon = replace(plain, curve=tuple(replace(p, latency=p.timesteps) for p in plain.curve))
    assert page(soon) == page(plain)
    assert card(soon) == card(plain)


def test_a_name_with_markup_stays_a_name_on_the_page() -> None:
    text = page(report(EVIL))
    assert "<script" not in text
    assert "<h1>a&lt;script&gt;" in text


def test_the_same_report_gives_the_same_page_in_another_process() -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]; import test_pages as t; print(t.page(t.report()), end='')"
    )
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *folders], capture_output=True, text=True, check=True
    )
    assert done.stdout == page(report())


def test_values_that_are_not_numbers_do_not_break_the_page() -> None:
    """A layer whose ANN is silent has no relative error."""
    odd = replace(report().layers[0], error=float("nan"), firing_rate=float("inf"))
    text = page(replace(report(), layers=(odd,)))
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", Reader(text).text.lower())
    assert "–" in text


# The model card


def tokens(text: str) -> Iterator[Any]:
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        yield token
        yield from token.children or ()


def test_the_card_has_every_section_and_its_table_is_a_table() -> None:
    text = card(report())
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "How to run it",
        "What it is",
        "Results",
        "Operations and energy",
        "How it was made",
        "Limits",
        "Citation",
    ]
    assert "| 16 | 91.2 % | 96.0 % | 10.0 % | 0.0312 | 3.12 |" in text
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert '<td style="text-align:right">91.6 %</td>' in rendered
    assert "Thresholds were set on 64 of digits; measured was 100 of digits." in rendered


def test_a_name_with_markup_stays_a_name_on_the_card() -> None:
    harmless, evil = card(report()), card(report(EVIL))
    kinds = [t.type for t in tokens(harmless) if t.type not in ("text", "text_special", "softbreak")]
    assert [t.type for t in tokens(evil) if t.type not in ("text", "text_special", "softbreak")] == kinds
    links = [t.attrs["href"] for t in tokens(evil) if t.type == "link_open"]
    assert links == ["report.html", "report.json"]


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_any_text_is_one_plain_paragraph(text: str) -> None:
    kinds = {t.type for t in tokens(words.markdown(f"{text}.")) if t.type != "text_special"}
    assert kinds <= {"paragraph_open", "inline", "text", "paragraph_close"}


@settings(max_examples=200)
@given(st.text(alphabet="*_`[]()<>!#-+1. |&;:~$\\/hwt\n=", max_size=20))
def test_any_mix_of_signs_is_one_plain_paragraph_that_says_the_same(text: str) -> None:
    found = list(tokens(words.markdown(f"a{text}")))
    assert {t.type for t in found} <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    assert "".join(t.content for t in found if t.type in ("text", "text_special")) == " ".join(
        f"a{text}".split()
    )


def test_the_snippet_on_the_card_runs_in_the_directory_of_the_artefact(tmp_path: Path) -> None:
    x = Node(Input(), (), "digits", (BATCH, 4))
    hidden = Node.of(Linear(torch.randn(5, 4), torch.randn(5)), x, name="hidden")
    fired = Node.of(IntegrateFire(torch.tensor(1.0)), hidden, name="relu")
    graph = Graph((x,), (Node.of(Linear(torch.randn(3, 5), torch.randn(3)), fired, name="scores"),), "digits")
    model = RateModel(graph)
    (tmp_path / "model.py").write_text(source(model, report()))
    save_file(tensors(model), tmp_path / "weights.safetensors")
    snippet = re.search(r"```python\n(.*?)```", card(report()), re.DOTALL)
    assert snippet
    (tmp_path / "snippet.py").write_text(snippet[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "snippet.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"tensor([{model(torch.zeros(1, 4), 16)[-1].argmax(1).item()}])\n", done.stderr


def test_energy_under_models_is_a_table() -> None:
    """One row a model, in the page and in the card; what each assumes stands with its name below."""
    costs = {
        f"{part}_microjoule": 0.5 for part in ("arithmetic", "weights", "membranes", "updates", "spikes")
    }
    model = {
        **costs,
        "snn_microjoule": 2.5,
        "ann_microjoule": 2.0,
        "snn_to_ann_ratio": 1.25,
        "assumption": "so",
    }
    plain = report()
    energy = {**plain.metrics.get("energy", {}), "models": {"mine": model}}
    dear = replace(plain, metrics={**plain.metrics, "energy": energy})
    assert "| mine | 0.5 | 0.5 | 0.5 | 0.5 | 0.5 | 2.5 | 2 | 1.25 |" in card(dear)
    assert "- mine: so" in card(dear)
    text = page(dear)
    assert '<tr><th scope="row">mine</th><td>0.5</td>' in text
    assert "<td>1.25</td></tr>" in text
    assert "mine: so" in text
