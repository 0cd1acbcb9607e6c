"""Jobs for data providers, of queries with one turn."""

from __future__ import annotations

from typing import Any

from promptbake import GenerationJob, GenerationRequest, Message, Model, NoBudget, Prompt, Query


def no_model() -> Model:
    raise AssertionError("no model is needed")


def requests(*texts: str, temperature: float = 1.0) -> tuple[GenerationRequest, ...]:
    return tuple(
        GenerationRequest(
            f"{text}@{temperature}",
            Query(text, (Message("user", text),), "small talk"),
            temperature,
        )
        for text in texts
    )


def job(wanted: tuple[GenerationRequest, ...] = (), **options: Any) -> GenerationJob:
    defaults: dict[str, Any] = {
        "completed_ids": frozenset(),
        "max_tokens": 32,
        "seed": 0,
        "open_model": no_model,
        "budget": NoBudget(),
    }
    return GenerationJob(Prompt("p", "Say hm."), wanted, **defaults | options)
