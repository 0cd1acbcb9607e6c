"""The conformance suite for backends."""

from __future__ import annotations

from promptbake.testing.suite import Suite


class BackendSuite(Suite):
    """Fixture `backend`."""
