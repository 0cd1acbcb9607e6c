"""A base model as Tinker serves it: its name there, its tokens, its price, the way to it."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import tinker

from promptbake import BakeError, Budget, atomic_folder, cache_folder
from promptbake_tinker.latency import HOSTED, UNKNOWN
from promptbake_tinker.latency import TINY as TINY_PACE
from promptbake_tinker.local import LocalServer
from promptbake_tinker.prices import Prices, prices_of
from promptbake_tinker.renderer import make_renderer
from promptbake_tinker.service import Service, api_key
from promptbake_tinker.settings import Settings

TINY = "tiny"
FREE = Prices(0.0, 0.0, 0.0, source="a server on this machine bills nothing")


class Base:
    """One base model. The service is asked when something is first wanted of it."""

    def __init__(self, name: str, settings: Settings, budget: Budget) -> None:
        self.name, self.settings, self.budget = name, settings, budget
        self.folder = _local_folder(name) if settings.loopback else None
        self.served = name if self.folder is None else str(self.folder)
        self._local: LocalServer | None = None
        if self.folder is not None:  # it starts while this process imports what it needs
            self._local = LocalServer(self.folder, cache_folder() / "loopback" / "state")
        self.tokenizer = _tokenizer(name, self.served)
        self.renderer = make_renderer(settings.renderer, self.tokenizer, name)
        self.prices = prices_of(name, settings.prices)
        if settings.loopback and not settings.prices:
            self.prices = FREE
        if self.prices is None and budget.capped:
            raise BakeError(
                f"budget.max_dollars: the prices of {name} are not known, so give them: "
                "options.backends.tinker.prices={prefill=...,sample=...,train=...}, in dollars "
                "per million tokens"
            )
        self.pace = HOSTED
        if settings.loopback or settings.base_url or os.environ.get("TINKER_BASE_URL"):
            self.pace = TINY_PACE if settings.loopback and name == TINY else UNKNOWN
        self.drawn_by_service = True  # whether prompt_alt_tokens_k can be had: preflight finds out

    @cached_property
    def service(self) -> Service:
        """The session with it."""
        settings = self.settings
        url, key = settings.base_url or os.environ.get("TINKER_BASE_URL"), None
        if self._local is not None:
            url, key = self._local.url, self._local.key
        else:
            key = api_key()
        alive = self._local.check_alive if self._local else lambda: None
        return Service(url, key, settings.deadline, settings.calls_in_flight, alive)

    @cached_property
    def offered(self) -> tinker.types.SupportedModel:
        """What the service says of the model. Raises BakeError where it does not offer it."""
        models = self.service.offered()
        if self.served not in models:
            names = ", ".join(sorted(str(name) for name in models)) or "none"
            raise BakeError(
                f"model.name = {self.name!r}: {self.service.where} does not offer it (models come "
                f"and go); there is: {names}"
            )
        return models[self.served]

    def sampler(self, uri: str | None = None) -> tinker.SamplingClient:
        """A client that samples from the base model, or from the weights at an address."""
        base_model = self.served if uri is None else None
        future = self.service.client.create_sampling_client(uri, base_model)
        client: tinker.SamplingClient = self.service.wait(future, f"opening {uri or self.name}")
        return client


def _local_folder(name: str) -> Path:
    if name != TINY:
        return Path(name)
    import transformers

    from promptbake.testing import save_tiny

    target = cache_folder() / "loopback" / TINY
    if not target.exists():
        transformers.logging.disable_progress_bar()
        with atomic_folder(target) as new:
            save_tiny(new)
    return target


def _tokenizer(name: str, source: str) -> Any:
    from tinker_cookbook.tokenizer_utils import get_tokenizer

    try:
        return get_tokenizer(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BakeError(f"model.name = {name!r}: its tokenizer cannot be had: {reason}") from None
