"""Measures a dense network's task while the network is measured: ANN and spiking network, same code, same
run.

For every sample it decodes the outputs, brings what was found back to the image, and holds it against the
labels.
Without labels it only keeps what was found in the first images, for pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from converter.data import Source
from converter.errors import DataError, Refusal, UsageError
from converter.graph import show_shape
from converter.report import Task, TaskPoint
from converter.sizing import Placement
from converter.tasks.boxes import Boxes, best
from converter.tasks.detection import average_precision, named
from converter.tasks.labels import Labels, Objects, stem
from converter.tasks.segmentation import (
    Mask,
    as_seen,
    check_size,
    confusion,
    in_image,
    named_pixels,
    overlap,
)

ANN = 0
"""The time under which the ANN's answers are kept."""
Found = Boxes | Mask
Picture = tuple[Any, dict[int, Found]]
"""An 8-bit image, and what was found in it at each time."""


@dataclass(frozen=True)
class Question:
    """What is asked: the decoder by name, and which objects count."""

    task: str
    name: str
    decoder: Any
    """A Detector or a Segmenter."""
    labels: Labels | None = None
    min_size: float = 0.0
    foreground: int | None = None

    def options(self) -> dict[str, Any]:
        """What the report says of it."""
        options = asdict(self.decoder) if hasattr(self.decoder, "__dataclass_fields__") else {}
        if self.min_size:
            options["min_size"] = self.min_size
        if self.foreground is not None:
            options["foreground"] = self.foreground
        return options


class Judge:
    """Sees every answer of a run; `task()` says what was seen. For one run."""

    def __init__(self, question: Question, keep: int = 2) -> None:
        self.question, self.keep = question, keep
        self.pictures: list[Picture] = []
        self._found: dict[int, list[Boxes]] = {}
        self._counts: dict[int, Tensor] = {}
        self._true: list[Objects] = []
        self._samples: list[int] = []
        self._source: Source | None = None
        self._places: list[Placement] = []
        self._masks: list[Mask] = []
        if question.task != question.decoder.task:
            raise UsageError(f"the decoder {question.name} is for --task {question.decoder.task}")
        if (labels := question.labels) is not None:
            has = "segment" if labels.mask is not None else "detect"
            if has != question.task:
                kind = {"detect": "boxes", "segment": "masks"}
                raise UsageError(
                    f"{labels.words} holds {kind[has]}, --task {question.task} needs {kind[question.task]}"
                )

    @property
    def ranks(self) -> bool:
        """Whether the first output scores classes: of pixels, not of boxes."""
        return self.question.task == "segment"

    def measurable(self, data: Source, indices: Sequence[int]) -> tuple[list[int], str | None]:
        """The labelled ones; a warning where some are not. Raises `DataError` when none is."""
        if data.expected is None or len(data.expected) != 4:
            raise DataError("only a network with one image for its input finds boxes or names pixels")
        self._source, self._samples = data, list(indices)
        labels = self.question.labels
        if labels is None:
            return self._samples, None
        if not data.names:
            raise DataError(f"{data.name} holds no image files", hint="labels go by the names of image files")
        self._samples = labels.labelled(data.names, indices)
        if not self._samples:
            raise DataError(f"{labels.words} label none of the {len(indices)} images to measure on")
        without = sum(stem(data.names[i]) not in labels.known for i in indices)
        if not without:
            return self._samples, None
        said = "count as images without objects" if labels.every else "are not measured"
        return self._samples, f"{without} of {len(indices)} images are not in {labels.words} and {said}"

    def ann(self, first: int, outputs: Sequence[Tensor]) -> None:
        """The ANN's outputs for a batch; the images and labels are looked up now."""
        assert self._source is not None
        del self._places[:], self._masks[:]
        for place in range(first, first + len(outputs[0])):
            index = self._samples[place]
            image, where = self._source.picture(index)
            self._places.append(where)
            if len(self.pictures) < self.keep:
                self.pictures.append((image, {}))
            if (labels := self.question.labels) is None:
                continue
            name = stem(self._source.names[index])
            if labels.boxes is not None:
                objects = labels.boxes(name, where.height, where.width)
                assert objects is not None
                self._true.append(objects)
            elif labels.mask is not None:
                mask = labels.mask(name)
                assert mask is not None
                check_size(mask, where, name)
                self._masks.append(as_seen(mask, where))
        self.answer(ANN, first, outputs)

    def answer(self, time: int, first: int, outputs: Sequence[Tensor]) -> None:
        """Outputs for the batch that the ANN has just answered. Raises `DataError` as `decoded` does."""
        read = self.decoded(outputs)
        for offset, where in enumerate(self._places):
            found: Found = (
                best(read[offset], self.question.decoder.overlap).in_image(where)
                if isinstance(read, list)
                else named_pixels(read[offset], where)
            )
            if first + offset < len(self.pictures):
                kept = found if isinstance(found, Boxes) else in_image(found, where)
                self.pictures[first + offset][1][time] = kept
            if self.question.labels is None:
                continue
            if isinstance(found, Boxes):
                self._found.setdefault(time, []).append(found)
            else:
                self._count(time, first + offset, found, self._masks[offset], len(read[offset]))

    def decoded(self, outputs: Sequence[Tensor]) -> list[Boxes] | Tensor:
        """What the decoder reads."""
        assert self._source is not None
        expected, layout = self._source.expected, self._source.preprocessing.layout
        assert expected is not None
        size = expected[2:4] if layout == "nchw" else expected[1:3]
        try:
            read: list[Boxes] | Tensor = self.question.decoder(outputs, (size[0], size[1]))
        except Refusal as refusal:
            shapes = ", ".join(show_shape((1, *o.shape[1:])) for o in outputs)
            raise DataError(
                f"the decoder {self.question.name} does not fit the network's outputs ({shapes})",
                why=refusal.why,
                hint=refusal.hint
                or "ann2snn list decoders; --output cuts the network where the decoder reads",
            ) from refusal
        return read

    def _count(self, time: int, sample: int, said: Mask, true: Mask, classes: int) -> None:
        assert self._source is not None
        counts = confusion(said, true, classes, self._source.names[self._samples[sample]])
        self._counts[time] = self._counts[time] + counts if time in self._counts else counts

    def figures(self, time: int) -> tuple[dict[str, float], dict[str, float]]:
        """The figures at a time, and each class's; nothing without labels."""
        labels = self.question.labels
        if labels is None:
            return {}, {}
        if labels.mask is not None:
            whole, classes = overlap(self._counts[time])
        else:
            whole, classes = average_precision(self._found[time], self._true, self.question.min_size)
        return whole, named(classes, labels.classes)

    def task(self) -> Task:
        """How well both networks did, at every time that was read out."""
        labels = self.question.labels
        times = sorted({*self._found, *self._counts} - {ANN})
        ann, ann_classes = self.figures(ANN)
        return Task(
            task=self.question.task,
            decoder=self.question.name,
            options=self.question.options(),
            labels=labels.words if labels else "",
            words=self.words(),
            ann=ann,
            ann_classes=ann_classes,
            curve=tuple(TaskPoint(t, *self.figures(t)) for t in times),
        )

    def words(self) -> str:
        """What was measured."""
        images = f"{len(self._samples)} image{'s' * (len(self._samples) != 1)}"
        if self.question.labels is None:
            return f"{images} without labels: outputs against the ANN's, no task"
        if self._counts:
            return f"{images}, {int(self._counts[ANN].sum())} pixels"
        count = sum(len(each.classes) for each in self._true)
        empty = sum(len(each.classes) == 0 for each in self._true)
        least = (
            f", those of {self.question.min_size:g} pixels and more counting"
            if self.question.min_size
            else ""
        )
        return f"{images} ({empty} of them without an object), {count} objects{least}"


__all__ = ["ANN", "Found", "Judge", "Picture", "Question"]
