"""promptbake: bake a system prompt into a language model's weights, and measure the result.

The names in `__all__` are the public ones: what a program, a notebook or a plugin may rely on. They
are listed in `__init__.pyi`, and each is imported at its first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
