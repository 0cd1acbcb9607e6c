"""The built-in plugins, by the suite that any installed plugin passes."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from promptbake.plugins.registry import GROUP
from promptbake.testing import PluginSuite

NAMES = [p.name for p in entry_points(group=GROUP) if p.dist and p.dist.name == "promptbake"]


class TestBuiltInPlugin(PluginSuite):
    @pytest.fixture(params=NAMES)
    def plugin(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name
