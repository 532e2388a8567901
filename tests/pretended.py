"""A GPU that is not there: tensors that say they are on it, compute on the CPU, and mix with nothing else.

An operator on tensors of two devices fails as it does on a GPU, and so does `.numpy()`; what is read or moved
to the CPU is counted. So every line that a GPU would run is run, with the right numbers, but for libraries
that ask for real memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
READ = (aten._local_scalar_dense.default, aten.equal.default)


class There(Tensor):
    """A tensor on the pretended GPU."""

    here: Tensor
    """Its values."""

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            here.stride(),
            here.storage_offset(),
            dtype=here.dtype,
            requires_grad=here.requires_grad,
        )
        made.here = here.detach()
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"There({self.here!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operator of tensors, some of which are there."""
    if func is aten.copy_.default:
        func(here(args[0]), here(args[1]), *args[2:])
        return args[0]
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    apart = [t for t in tensors if not isinstance(t, There) and t.dim()]
    if apart and not indexes(func, args, apart):
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {func}, {[t.device for t in tensors]}"
        )
    written = {id(t.here): t for t in tensors if isinstance(t, There)}
    result = func(*tree_map(here, args), **tree_map(here, kwargs))
    return (
        result
        if func in READ
        else tree_map(lambda t: written.get(id(t)) if id(t) in written else there(t), result)
    )


def indexes(func: Any, args: tuple[Any, ...], apart: list[Tensor]) -> bool:
    """Whether these only say which places of a tensor there are meant, which may lie on the CPU."""
    return func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and all(
        any(t is i for i in args[1]) for t in apart
    )


def here(value: Any) -> Any:
    return value.here if isinstance(value, There) else value


def there(value: Any) -> Any:
    return There(value) if isinstance(value, Tensor) and not isinstance(value, There) else value


def asked_for(value: Any) -> bool:
    """Whether this names the GPU."""
    if isinstance(value, There):
        return True
    return isinstance(value, str | torch.device) and torch.device(value).type == "cuda"


class Pretending(TorchFunctionMode):
    """Makes tensors on the pretended GPU where one is asked for."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__ and isinstance(args[0], There):  # type: ignore[attr-defined]
            return GPU
        if func is Tensor.to:
            return sent(args, kwargs)
        if func is Tensor.cpu:
            return args[0].here.clone() if isinstance(args[0], There) else args[0]
        if func is Tensor.tolist:
            return here(args[0]).tolist()
        if func is Tensor.numpy and isinstance(args[0], There):
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if asked_for(kwargs.get("device")):
            return there(func(*args, **{**kwargs, "device": torch.device("cpu")}))
        return func(*args, **kwargs)


def sent(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Tensor.to"""
    x, *rest = args
    wanted = [*rest, *kwargs.values()]
    places = [w for w in wanted if isinstance(w, Tensor | str | torch.device)]
    to_gpu = asked_for(places[0]) if places else isinstance(x, There)
    types = [w.dtype if isinstance(w, Tensor) else w for w in wanted if isinstance(w, Tensor | torch.dtype)]
    layout = {k: v for k, v in kwargs.items() if k in ("memory_format", "copy")}
    plain = here(x)
    if places and not to_gpu:
        result = plain.to(*rest, **kwargs)
        return result.clone() if result is plain and plain is not x else result
    result = plain.to(types[0], **layout) if types else plain.to(plain.dtype, **layout)
    if result is plain and to_gpu == isinstance(x, There):
        return x
    if result is plain:
        result = plain.clone()
    return there(result) if to_gpu else result


class Draws(torch.Generator):
    """A generator that may be asked for on any device, and draws on the CPU."""

    def __new__(cls, device: object = "cpu") -> Draws:
        return super().__new__(cls, "cpu")


@contextmanager
def gpu(patch: Any) -> Iterator[None]:
    """There is a GPU, as far as what runs inside can see. `patch` is pytest's MonkeyPatch."""
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a pretended GPU")
    patch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    patch.setattr(torch, "Generator", Draws)
    with Pretending():
        yield
