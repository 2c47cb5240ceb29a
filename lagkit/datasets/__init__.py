"""Questions and passages: loaders and splits."""

from lagkit.util.lazy import submodules

__getattr__, __dir__ = submodules(__name__, __path__)
