"""The conformance suite for trackers."""

from __future__ import annotations

from promptbake.testing.suite import Suite


class TrackerSuite(Suite):
    """Fixture `make_tracker`."""
