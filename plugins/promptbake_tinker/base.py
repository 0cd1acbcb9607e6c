"""A base model as Tinker serves it: its name there, tokenizer, prices and connection."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import tinker

from promptbake import BakeError, Budget, BudgetError, Usage, excerpt
from promptbake_tinker.connection import Connection, connect
from promptbake_tinker.prices import prices_of
from promptbake_tinker.renderer import make_renderer
from promptbake_tinker.service import Service
from promptbake_tinker.settings import Settings


class Base:
    """One base model. The session with the service opens at its first use."""

    def __init__(
        self, name: str, settings: Settings, budget: Budget, connection: Connection | None = None
    ) -> None:
        self.name, self.settings, self.budget = name, settings, budget
        self._connection = connection or connect(name, settings)
        self.served, self.latency = self._connection.served, self._connection.latency
        self.tokenizer = _tokenizer(name, self.served)
        self.renderer = make_renderer(
            settings.renderer, self.tokenizer, name, f"{settings.key}.renderer"
        )
        self.prices = self._connection.prices
        if settings.prices is not None:
            self.prices = prices_of(name, settings.prices, f"{settings.key}.prices")
        if self.prices is None and budget.capped:
            raise BakeError(
                f"budget.max_dollars: the prices of {name} are not known; set "
                f"{settings.key}.prices={{prefill=...,sample=...,train=...}}, in dollars "
                "per million tokens"
            )
        # What the service accepts of target_prompt_logprobs: see `scoring`.
        self.scores_by_forward = False
        self.accepted_cost, self.most_cost = 0, inf

    @cached_property
    def service(self) -> Service:
        """The session with it."""
        connection = self._connection
        return Service(connection.url(), connection.key(), self.settings, connection.check_alive)

    @cached_property
    def supported_model(self) -> tinker.types.SupportedModel:
        """The service's record of the model. Raises BakeError if it does not offer it."""
        models = self.service.supported_models()
        if self.served not in models:
            names = ", ".join(sorted(str(name) for name in models)) or "none"
            raise BakeError(
                f"model.name = {self.name!r}: {self.service.where} does not offer it at present; "
                f"available: {names}"
            )
        return models[self.served]

    @cached_property
    def tied_embeddings(self) -> bool:
        """Whether the unembedding is the embedding; False where its config does not load."""
        import transformers

        try:
            config = transformers.AutoConfig.from_pretrained(
                self.served.partition(":")[0], trust_remote_code=False
            )
        except (OSError, ValueError):
            return False
        configs = config, config.get_text_config()
        return any(getattr(each, "tie_word_embeddings", False) for each in configs)

    def priced(self, usage: Usage) -> Usage:
        """The same usage with its dollars, or with its calls counted as of unknown price."""
        if self.prices is None:
            return replace(usage, unpriced_calls=usage.calls)
        return self.prices.priced(usage)

    @cached_property
    def fresh(self) -> tinker.TrainingClient:
        """A LoRA that changes nothing: the base model, for forward passes."""
        client: tinker.TrainingClient = self.service.create(
            lambda service: service.create_lora_training_client(base_model=self.served, seed=0),
            f"a LoRA on {self.name}, for forward passes",
        )
        return client

    def from_state(self, state: str) -> tinker.TrainingClient:
        """The weights of a training state, for forward passes."""
        client: tinker.TrainingClient = self.service.create(
            lambda service: service.create_training_client_from_state(state),
            f"a LoRA from {state}",
        )
        return client

    def note_failure(self, error: BaseException) -> None:
        """The session, if there is one, ends as failed, or interrupted by Ctrl-C or the budget."""
        if "service" in vars(self):
            stopped = isinstance(error, KeyboardInterrupt | BudgetError)
            self.service.outcome = "interrupted" if stopped else "errored"

    def sampler(self, uri: str | None = None) -> tinker.SamplingClient:
        """A client that samples from the base model, or from the weights at an address."""
        base_model = self.served if uri is None else None
        client: tinker.SamplingClient = self.service.create(
            lambda service: service.create_sampling_client(uri, base_model),
            f"opening {uri or self.name}",
        )
        return client


def _tokenizer(name: str, source: str) -> Any:
    from tinker_cookbook.tokenizer_utils import get_tokenizer

    try:
        if Path(source).is_dir():  # whose code the cookbook would run
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        return get_tokenizer(source)
    except (OSError, ValueError) as error:
        reason = excerpt(str(error))
        raise BakeError(f"model.name = {name!r}: could not load its tokenizer: {reason}") from None
