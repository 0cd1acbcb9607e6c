"""A transport of httpx2 whose responses have a bounded size, compressed ones too."""

from __future__ import annotations

import json

import httpx2

MAX_BYTES = 2**27  # of a body; the log-probabilities of a long context take tens of megabytes
DECODED = ("", "identity", "gzip", "deflate")


class BoundedTransport(httpx2.BaseTransport):
    """Reads each response whole, up to MAX_BYTES.

    One that is larger, or compressed in a way that was not asked for, becomes a 502 (a gateway's
    answer to an invalid response), which the openai client does not send again.
    """

    def __init__(self, limits: httpx2.Limits | None = None) -> None:
        self._inner = httpx2.HTTPTransport(limits=limits or httpx2.Limits())

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, and read the response."""
        request.headers["accept-encoding"] = "gzip, deflate"
        response = self._inner.handle_request(request)
        response.request = request
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in DECODED:
            response.close()
            return _refusal(
                f"its answer is compressed as {encoding[:20]!r}, which was not asked for"
            )
        body = bytearray()
        try:
            for part in response.iter_bytes():
                body += part
                if len(body) > MAX_BYTES:
                    return _refusal(f"its answer is larger than {MAX_BYTES / 1e6:.0f} MB")
        finally:
            response.close()
        headers = httpx2.Headers(response.headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            headers.pop(name, None)
        return httpx2.Response(
            response.status_code,
            headers=headers,
            content=bytes(body),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def _refusal(problem: str) -> httpx2.Response:
    body = json.dumps({"error": {"message": problem}}).encode()
    headers = {"content-type": "application/json", "x-should-retry": "false"}
    return httpx2.Response(502, headers=headers, content=body)
