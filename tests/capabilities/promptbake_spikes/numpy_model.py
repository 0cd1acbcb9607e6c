"""A backend that computes in numpy: a bag-of-words language model and a LoRA on its output.

The hidden state is a decaying sum of the embeddings so far; logits are `hidden @ (W + A @ B)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptbake import (
    NO_COST,
    BakeError,
    Budget,
    Checkpoint,
    Completion,
    CostEstimate,
    Example,
    ImmediateResult,
    Message,
    Model,
    Objective,
    Pending,
    Span,
    StreamChunk,
    TeacherLogprobs,
    TokenIds,
    Trainer,
    TrainingState,
    WorkItem,
    no_progress,
    tail_importance_weights,
)

VOCABULARY, WIDTH, DECAY, END = 128, 48, 0.98, 0
BETAS, EPSILON = (0.9, 0.99), 1e-8
Array = np.ndarray[Any, np.dtype[np.float64]]


class Characters:
    """A renderer with a token for each ASCII character; 0 ends a turn."""

    stop_ids = frozenset({END})

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        """The system prompt and the turns, one after the other."""
        turns = [f"{message.role[0]}: {message.content}\n" for message in messages]
        return self._tokens((f"{system}\n" if system else "") + "".join(turns) + "a: ")

    def response(self, text: str, complete: bool) -> TokenIds:
        """The characters, and the end."""
        return (*self._tokens(text), END) if complete else self._tokens(text)

    def text(self, tokens: Sequence[int]) -> str:
        """The characters."""
        return "".join(chr(token) for token in tokens if token != END)

    def _tokens(self, text: str) -> TokenIds:
        return tuple(ord(character) % VOCABULARY for character in text)


class BagOfWords:
    """The base model (`lora` None), or one with a LoRA: A [W, R] and B [R, V]."""

    name, digest, context_tokens = "bag-of-words", "bag-of-words-1", 4096
    warnings: tuple[str, ...] = ()
    full_vocabulary, sample_batch = True, None

    def __init__(self, lora: tuple[Array, Array] | None = None) -> None:
        generator = np.random.default_rng(0)
        self.embeddings: Array = generator.normal(size=(VOCABULARY, WIDTH))
        self._output: Array = generator.normal(size=(WIDTH, VOCABULARY)) / 25
        self.lora = lora
        self.renderer = Characters()

    def hidden(self, tokens: TokenIds, last: int) -> Array:
        """The states [N, W] that predict the last N tokens."""
        states, state = [], np.zeros(WIDTH)
        for token in tokens[:-1]:
            state = DECAY * state + self.embeddings[token]
            states.append(state)
        return np.stack(states[-last:])

    def scores(self, hidden: Array) -> Array:
        """Log-probabilities [N, V]."""
        logits = hidden @ self._output
        if self.lora is not None:
            logits = logits + hidden @ self.lora[0] @ self.lora[1]
        logits = logits - logits.max(axis=1, keepdims=True)
        result: Array = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return result

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        """One response after the other."""
        for index, prompt in enumerate(prompts):
            chunks = self.stream(
                prompt,
                max_tokens=max_tokens,
                temperature=temperatures[index],
                seed=seeds[index],
            )
            *pieces, last = chunks
            tokens = tuple(token for chunk in pieces for token in chunk.tokens)
            yield index, Completion(tokens, last.stop_reason == "stop")
            progress(1.0)

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[StreamChunk]:
        """One character after the other."""
        generator, tokens = np.random.default_rng(seed), prompt
        for _ in range(max_tokens):
            scores = self.scores(self.hidden((*tokens, END), 1))[0]
            weights = np.exp((scores - scores.max()) / max(temperature, 1e-6))
            token = int(generator.choice(VOCABULARY, p=weights / weights.sum()))
            if token == END:
                yield StreamChunk(stop_reason="stop")
                return
            tokens = (*tokens, token)
            yield StreamChunk((token,))
        yield StreamChunk(stop_reason="length")

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """The top K, and draws from the rest."""
        for index, (logprobs, seed) in enumerate(zip(self.logprobs(spans), seeds, strict=True)):
            top = logprobs.topk(k, dim=1)
            tail = logprobs.exp().scatter(1, top.indices, 0.0)
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.multinomial(tail, max(draws, 1), True, generator=generator)[:, :draws]
            values = logprobs.gather(1, drawn)
            weights = tail_importance_weights(top.values, values)
            yield index, TeacherLogprobs(top.indices, top.values, drawn, values, weights)

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Float32 tensors of what numpy computed."""
        for index, span in enumerate(spans):
            scores = self.scores(self.hidden(span.tokens, span.n_response))
            row = torch.from_numpy(scores).float()
            yield row if ids is None else row.gather(1, ids[index])

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        """Nothing."""
        return NO_COST


class BagOfWordsTrainer:
    """Adam on A and B, with gradients by hand behind `Objective.loss_and_gradient`."""

    steps_in_flight = 1

    def __init__(self, rank: int, seed: int, start: tuple[Array, Array] | None) -> None:
        generator = np.random.default_rng(seed)
        fresh = (generator.normal(size=(WIDTH, rank)) / 7, np.zeros((rank, VOCABULARY)))
        self.parameters: list[Array] = [part.copy() for part in start or fresh]
        self._gradients: list[Array] = [np.zeros_like(part) for part in self.parameters]
        self._moments = [[np.zeros_like(part) for part in self.parameters] for _ in range(2)]
        self._steps = 0

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Nothing can fail."""
        return ()

    def snapshot(self) -> Pending[Model]:
        """A model with the weights as they stand."""
        first, second = (part.copy() for part in self.parameters)
        return ImmediateResult(BagOfWords((first, second)))

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Back from the log-probabilities' gradient to A and B, by the chain rule."""
        first, second = self.parameters
        model = BagOfWords((first, second))
        tokens = sum(example.datum.n_response for example in batch)
        total = 0.0
        for example in batch:
            hidden = model.hidden(example.datum.student_ids, example.datum.n_response)
            scores, ids = model.scores(hidden), example.support.ids.numpy()
            on_support = np.take_along_axis(scores, ids, axis=1)
            student = torch.from_numpy(on_support).float()
            nats, gradient = objective.loss_and_gradient(student, example.support)
            total += float(nats.sum())
            weights = gradient.double().numpy() / tokens  # dL / d log q, [N, C]
            logits = -np.exp(scores) * weights.sum(axis=1, keepdims=True)
            rows = np.arange(len(ids))[:, None]
            np.add.at(logits, (rows, ids), weights)  # dL / d logits, [N, V]
            self._gradients[0] += hidden.T @ (logits @ second.T)
            self._gradients[1] += (hidden @ first).T @ logits
        return ImmediateResult(total / tokens)

    def optim_step(self, lr: float) -> Pending[None]:
        """Adam."""
        self._steps += 1
        for index, gradient in enumerate(self._gradients):
            scaled = []
            for moment, beta, power in zip(self._moments, BETAS, (1, 2), strict=True):
                moment[index] = beta * moment[index] + (1 - beta) * gradient**power
                scaled.append(moment[index] / (1 - beta**self._steps))
            step = lr * scaled[0] / (np.sqrt(scaled[1]) + EPSILON)
            self.parameters[index] = self.parameters[index] - step
            self._gradients[index] = np.zeros_like(gradient)
        return ImmediateResult(None)

    def save_state(self, step: int) -> Pending[TrainingState]:
        """All arrays, as JSON."""
        arrays = [self.parameters, *self._moments]
        state = {"steps": self._steps, "arrays": [[a.tolist() for a in row] for row in arrays]}
        return ImmediateResult({"state.json": json.dumps(state).encode()})

    def load_state(self, folder: Path) -> None:
        """All arrays."""
        state = json.loads((folder / "state.json").read_bytes())
        self._steps = state["steps"]
        rows = [[np.array(array) for array in row] for row in state["arrays"]]
        self.parameters, *self._moments = rows

    def save_adapter(self, folder: Path) -> Checkpoint:
        """A and B."""
        np.savez(folder / "lora.npz", *self.parameters)
        return Checkpoint("bag_of_words", BagOfWords.name, BagOfWords.digest, uri="")


class BagOfWordsBackend:
    """One model, whatever it is called."""

    name = "bag_of_words"

    def open_model(self, name: str, budget: Budget) -> Model:
        """The one."""
        return BagOfWords()

    def new_lora(
        self, base: Model, *, rank: int, seed: int, start: Checkpoint | None = None
    ) -> Trainer:
        """A fresh one, or an earlier bake's."""
        return BagOfWordsTrainer(rank, seed, _read(start) if start else None)

    def load_adapter(self, base: Model, checkpoint: Checkpoint, *, strength: float = 1.0) -> Model:
        """The base with A and B, scaled."""
        first, second = _read(checkpoint)
        return BagOfWords((first, strength * second))

    def export(
        self, base: Model, checkpoint: Checkpoint, folder: Path, *, strength: float = 1.0
    ) -> None:
        """There is no PEFT adapter of such a model."""
        raise BakeError("bag_of_words: is no model that PEFT knows")


def _read(checkpoint: Checkpoint) -> tuple[Array, Array]:
    with np.load(Path(checkpoint.uri) / "lora.npz") as arrays:
        return arrays["arr_0"], arrays["arr_1"]
