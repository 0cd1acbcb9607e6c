"""The conformance suite for data providers."""

from __future__ import annotations

from promptbake.testing.suite import Suite


class DataProviderSuite(Suite):
    """Fixture `provider`."""
