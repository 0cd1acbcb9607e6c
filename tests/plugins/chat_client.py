"""Clients of a chat endpoint: the real `openai` one, and plain HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletion

from promptbake_loopback.openai import KEY, ChatEndpoint

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def plain(endpoint: ChatEndpoint) -> httpx.Client:
    # Without the system's certificates, which take longer to read than all requests.
    return httpx.Client(
        base_url=endpoint.url, headers={"Authorization": f"Bearer {KEY}"}, verify=False
    )


def ask(client: openai.OpenAI, text: str = "Hello", **options: Any) -> ChatCompletion:
    return client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": text}], **options
    )


def said(completion: ChatCompletion) -> str | None:
    return completion.choices[0].message.content
