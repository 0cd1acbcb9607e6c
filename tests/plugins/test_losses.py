"""The built-in losses under the conformance suite."""

from __future__ import annotations

import math

import pytest

from promptbake import Loss
from promptbake.testing import LossSuite, WorkedExample
from promptbake_losses import cross_entropy, forward_kl, jsd, reverse_kl

P, Q = (0.5, 0.5), (0.25, 0.75)


def kl(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))


class TestForwardKL(LossSuite):
    worked_example = WorkedExample(P, Q, nats=0.5 * math.log(4 / 3))

    @pytest.fixture
    def loss(self) -> Loss:
        return forward_kl()


class TestReverseKL(LossSuite):
    worked_example = WorkedExample(P, Q, nats=0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2))

    @pytest.fixture
    def loss(self) -> Loss:
        return reverse_kl()


class TestJSD(LossSuite):
    mixture = (0.375, 0.625)
    worked_example = WorkedExample(P, Q, nats=0.5 * kl(P, mixture) + 0.5 * kl(Q, mixture))

    @pytest.fixture
    def loss(self) -> Loss:
        return jsd()


class TestJSDWithBeta(LossSuite):
    mixture = (0.3, 0.7)
    worked_example = WorkedExample(P, Q, nats=0.2 * kl(P, mixture) + 0.8 * kl(Q, mixture))

    @pytest.fixture
    def loss(self) -> Loss:
        return jsd(beta=0.2)


class TestCrossEntropy(LossSuite):
    worked_example = WorkedExample(teacher=(1.0,), student=(0.25,), nats=math.log(4))

    @pytest.fixture
    def loss(self) -> Loss:
        return cross_entropy()
