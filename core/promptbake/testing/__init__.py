"""For plugin authors: a conformance suite for each kind, and a tiny real model to try them on.

The suites need pytest; the tiny model does not. The names are listed in `__init__.pyi`, and each is
imported at its first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
