"Group normalization: `group_norm` and `GroupNorm`, and the modules that the book derives. Names load when first used."
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_public = dict(group_norm="ops", GroupNorm="layers", convert_batch_norm="convert", accelerate="convert",
               to_torch="convert", moments="distributed", merge="distributed", apply="distributed")
_modules = ("testing", "shapes", "reference", "cpu", "cuda", "ops", "layers", "convert", "distributed")
__all__ = [*_public]

if TYPE_CHECKING:                    # what tools that do not run this read
    from .convert import accelerate as accelerate
    from .convert import convert_batch_norm as convert_batch_norm
    from .convert import to_torch as to_torch
    from .distributed import apply as apply
    from .distributed import merge as merge
    from .distributed import moments as moments
    from .layers import GroupNorm as GroupNorm
    from .ops import group_norm as group_norm


def __getattr__(name):
    if name in _public:
        globals()[name] = found = getattr(import_module(f".{_public[name]}", __name__), name)     # asked for once
        return found
    if name in _modules: return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__(): return sorted({*globals(), *_public, *_modules})
