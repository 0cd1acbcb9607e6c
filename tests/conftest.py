"""Settings for every test: one thread, since the models are tiny, and no network."""

from __future__ import annotations

import os

# Before anything imports torch.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["COLUMNS"] = "200"

from hypothesis import settings

settings.register_profile("promptbake", deadline=None)
settings.load_profile("promptbake")
