"""What plugins of every kind keep to: they print nothing and show no key."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping

import pytest

from promptbake.errors import BakeError
from promptbake.testing.keys import check_unseen, everything_logged
from promptbake.testing.suite import Suite, only_if


class EtiquetteTests(Suite):
    """The tests that do not depend on the kind. A kind says in `_use` how a plugin is used."""

    def _use(self, request: pytest.FixtureRequest) -> Mapping[str, object]:
        """Get the suite's fixture and use the plugin; what others may read of it, by place."""
        raise NotImplementedError

    def test_it_prints_nothing(
        self, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self._use(request)
        printed = capfd.readouterr().out
        assert not printed, f"{printed[:200]!r} is on stdout, which is the command's: use logging"

    @only_if("keys")
    def test_no_key_is_seen(
        self,
        request: pytest.FixtureRequest,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with everything_logged(caplog):
            places = dict(self._use(request))
        out, err = capfd.readouterr()
        places |= {"a log": caplog.text, "stdout": out, "stderr": err}
        check_unseen(self.keys, {place: str(content) for place, content in places.items()})


class RefusedKeyTests(EtiquetteTests):
    """For plugins of services whose doubles refuse a wrong key."""

    @only_if("keys")
    def test_a_refused_key_is_not_seen(
        self,
        request: pytest.FixtureRequest,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in self.keys:  # begins as the real one does
            monkeypatch.setenv(name, f"{os.environ.get(name, '')[:4]}of-somebody-else-0123456789")
        places = dict[str, object]()
        with everything_logged(caplog):
            error = error_of(lambda: places.update(self._use(request)))
        out, err = capfd.readouterr()
        places |= {"the error": shown(error), "a log": caplog.text, "stdout": out, "stderr": err}
        check_unseen(self.keys, {place: str(content) for place, content in places.items()})


def error_of(work: Callable[[], object]) -> Exception | None:
    """What the work raised, if it raised anything but a failed assertion."""
    try:
        work()
    except AssertionError:
        raise
    except Exception as error:
        return error
    return None


def shown(error: Exception | None) -> str:
    """What a user sees of an error: a BakeError's text, the whole traceback of another."""
    if error is None or isinstance(error, BakeError):
        return str(error or "")
    return "".join(traceback.format_exception(error))
