"""promptbake: bake a system prompt into a language model's weights, and prove it."""

from promptbake.errors import BakeError

__version__ = "0.1.0"
__all__ = ["BakeError", "__version__"]
