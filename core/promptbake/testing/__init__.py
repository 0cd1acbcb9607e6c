"""For plugin authors: a tiny real model that needs no download."""

from __future__ import annotations
