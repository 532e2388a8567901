"""Where the windows of a convolution or pool lie: kernel, stride, dilation and padding of each spatial axis.

Source: ONNX operator specification, Conv and AveragePool (auto_pad, ceil_mode).
"""

from __future__ import annotations

from dataclasses import dataclass

from converter.errors import Refusal
from converter.graph import Node, batch_axes, show_shape
from converter.view import NodeView


@dataclass(frozen=True)
class Window:
    """All fields have one entry for each spatial axis; `before` and `after` is the padding at either end."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    ceil: bool = False

    @property
    def extent(self) -> tuple[int, ...]:
        """How many inputs a window spans, holes included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def outputs(self) -> tuple[int, ...]:
        """How many windows: with `ceil` one may stick out, but must start before the end padding."""
        counts = []
        for size, extent, stride, before, after in zip(
            self.size, self.extent, self.stride, self.before, self.after, strict=True
        ):
            room = size + before + after - extent
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            if self.ceil and (count - 1) * stride >= size + before:
                count -= 1
            if count < 1:
                raise Refusal(
                    f"a window of {extent} does not fit into {size}, padded by {before} and {after}"
                )
            counts.append(count)
        return tuple(counts)

    @property
    def needed(self) -> tuple[int, ...]:
        """The padding at the end that the last window reaches; negative where it leaves inputs unread."""
        return tuple(
            (count - 1) * stride + extent - size - before
            for count, stride, extent, size, before in zip(
                self.outputs, self.stride, self.extent, self.size, self.before, strict=True
            )
        )

    @property
    def blind(self) -> bool:
        """Whether some window lies wholly in the padding."""
        return any(
            all(not 0 <= output * stride - before + tap * dilation < size for tap in range(kernel))
            for count, stride, before, dilation, size, kernel in zip(
                self.outputs, self.stride, self.before, self.dilation, self.size, self.kernel, strict=True
            )
            for output in range(count)
        )

    @property
    def symmetric(self) -> bool:
        """Whether the padding is the same at both ends."""
        return self.before == self.after


def spatial(x: Node) -> tuple[int, ...]:
    """The sizes of the spatial dimensions of [batch, channel, …]. Raises `Refusal` when the batch is one."""
    if len(x.shape) < 3 or any(axis > 1 for axis in batch_axes(x.shape)):
        raise Refusal(f"its input {show_shape(x.shape)} is not [batch, channel, 1 to 3 spatial dimensions]")
    return x.shape[2:]


def window(view: NodeView, x: Node, kernel: tuple[int, ...] | None = None) -> Window:
    """The windows over x; `kernel` where it is the weight's, else from `kernel_shape`."""
    size = spatial(x)
    rank = len(size)
    told = tuple(view.attribute("kernel_shape", list(kernel or ()))) or tuple(view.required("kernel_shape"))
    if len(told) != rank or (kernel is not None and told != kernel):
        raise Refusal(f"its kernel_shape {told} does not fit {kernel or show_shape(x.shape)}")
    stride = tuple(view.attribute("strides", [1] * rank))
    dilation = tuple(view.attribute("dilations", [1] * rank))
    ceil = bool(view.attribute("ceil_mode", 0))
    before, after = padding(view, size, told, stride, dilation)
    return Window(size, told, stride, dilation, before, after, ceil)


def padding(
    view: NodeView,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before, after) from `pads` or `auto_pad`; SAME keeps ceil(size / stride) windows."""
    rank = len(size)
    pads = tuple(view.attribute("pads", [0] * (2 * rank)))
    mode = view.attribute("auto_pad", "NOTSET")
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    if mode == "NOTSET":
        return pads[:rank], pads[rank:]
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refusal(f"has auto_pad = {mode}, which ONNX does not define")
    total = [
        (-(-n // s) - 1) * s + (k - 1) * d + 1 - n
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    if min(total) < -1:
        raise Refusal(
            f"has auto_pad = {mode} and strides beyond its kernel, where runtimes differ", "use pads"
        )
    total = [max(t, 0) for t in total]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def amounts(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    """The padding as torch's F.pad takes it: (before, after) of the last dimension first."""
    pairs = zip(reversed(before), reversed(after), strict=True)
    return tuple(n for pair in pairs for n in pair)
