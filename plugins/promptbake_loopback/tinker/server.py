"""The Tinker service as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute

from promptbake_loopback.errors import HttpError
from promptbake_loopback.faults import FaultQueue
from promptbake_loopback.server import LoopbackServer
from promptbake_loopback.tinker.faults import BACKGROUND, KINDS
from promptbake_loopback.tinker.meter import Meter, MeterCounter

if TYPE_CHECKING:
    from promptbake_loopback.tinker.engine import Engine

KEY = "tml-loopback"  # any key that begins with tml- will do


class TinkerLoopback(LoopbackServer):
    """A Tinker service of one model, in threads of this process, for as long as the block lasts.

    `model` is `tiny`, or a Hugging Face folder; clients ask for it by the name given here. What
    is trained survives in the folder `state`. LoRAs are scaled by `alpha` / rank. `clock` gives
    the seconds since the epoch that checkpoints expire by. For faults, see `tinker.faults`.
    """

    def __init__(
        self,
        model: str = "tiny",
        *,
        state: Path | str,
        alpha: float = 32,
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        from promptbake_loopback.tinker.operations import Operations

        super().__init__(FaultQueue(KINDS, BACKGROUND), port)
        self.model = model  # the name that clients ask for it by
        self._state, self._alpha, self._clock = Path(state), alpha, clock
        self._counter = MeterCounter()
        self._operations = Operations(self._counter, self._faults)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._operations.close()

    @property
    def url(self) -> str:
        """The SDK's base_url."""
        return self.origin

    @property
    def meter(self) -> Meter:
        """What has been done so far."""
        return self._counter.snapshot()

    @property
    def outcomes(self) -> list[str]:
        """How each session that is finished ended, in order."""
        return list(self._routes.finished.values())

    def error_body(self, error: HttpError) -> Any:
        """As the SDK expects it."""
        return {"detail": error.detail}

    def routes(self) -> Sequence[BaseRoute]:
        """The service's endpoints, on a model that is loaded now."""
        # torch and the SDK, in seconds.
        from promptbake_loopback.tinker.catalogue import Catalogue
        from promptbake_loopback.tinker.checkpoints import Store
        from promptbake_loopback.tinker.engine import Engine
        from promptbake_loopback.tinker.routes import Routes
        from promptbake_loopback.tinker.sampling import Sampling
        from promptbake_loopback.tinker.training import Training

        engine = Engine(self.model, self._alpha)
        store = Store(self._state, self._clock)
        self._routes = Routes(
            Training(engine, store, self._operations),
            Sampling(engine, store, self._operations),
            Catalogue(engine, store, lambda: self.url, self._tokenizer(engine), self._clock),
            self._operations,
            self._counter,
            self._faults,
        )
        return self._routes.all()

    def _tokenizer(self, engine: Engine) -> str:
        """Where transformers finds it: the tiny model's is nowhere, unless it is saved."""
        if self.model != "tiny":
            return self.model
        folder = self._state / "tokenizer"
        engine.tokenizer.save_pretrained(folder)
        return str(folder)
