"""The options of the backend `tinker`."""

from __future__ import annotations

from dataclasses import dataclass

from promptbake_tinker.datum_layout import DatumLayout


@dataclass(frozen=True)
class Settings:
    """Options as in `tinker_backend`; `key` is their config key, for messages."""

    renderer: str = "auto"
    base_url: str | None = None
    steps_in_flight: int = 2
    calls_in_flight: int = 64
    deadline: float = 1800.0  # seconds
    state_ttl: float = 7 * 86400.0  # seconds
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-12
    max_grad_norm: float = 0.0
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True
    lora_seed: int | None = None  # the run's where it is None
    datum_layout: DatumLayout = "wide"
    prices: dict[str, float] | None = None  # dollars per million tokens
    key: str = "options.backends.tinker"
