"""Webhooks: requests with CloudEvents, signed as Standard Webhooks describe it."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import httpx

from footfall_relay.messages import BATCH_CONTENT_TYPE, CONTENT_TYPE, Message, body_of
from footfall_relay.outlets.attempts import Attempts
from footfall_relay.outlets.kinds import Refused
from footfall_relay.outlets_file import Webhook

_TRY_LATER: Final = {408, 425, 429}
_USER_AGENT: Final = "footfall-relay"


def signatures(keys: Iterable[bytes], message_id: str, at_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each key, of the id, the time and the body."""
    signed = f"{message_id}.{at_s}.".encode() + body
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}" for key in keys)


class WebhookSink:
    """The sink of a webhook. Requests of a visit go out one after the other."""

    holds = False

    def __init__(self, outlet: Webhook) -> None:
        self._outlet = outlet
        self._keys = outlet.keys()
        self._free = asyncio.Semaphore(1 if outlet.batch > 1 else outlet.parallel)
        # Without the proxies of the environment, which might see what is sent; no redirections are followed.
        self._client = httpx.AsyncClient(
            timeout=outlet.timeout_s, follow_redirects=False, trust_env=False, headers={"user-agent": _USER_AGENT}
        )

    async def put(self, messages: Sequence[Message]) -> list[Refused]:
        """Deliver; return what is given up."""
        size = self._outlet.batch
        if size > 1:
            parts = [messages[start : start + size] for start in range(0, len(messages), size)]
            return [refused for part in parts for refused in await self._send(part)]
        by_key = defaultdict(list)
        for message in messages:
            by_key[message.key].append(message)
        found = await asyncio.gather(*map(self._send_each, by_key.values()))
        return [refused for of_key in found for refused in of_key]

    async def flush(self) -> None:
        """Nothing waits."""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send_each(self, messages: Sequence[Message]) -> list[Refused]:
        async with self._free:
            return [refused for message in messages for refused in await self._send([message])]

    async def _send(self, messages: Sequence[Message]) -> list[Refused]:
        """Send messages in one request, until they are taken or given up."""
        outlet = self._outlet
        body = body_of(messages, is_batch=outlet.batch > 1)
        # The same for every attempt, so that a receiver knows a repetition.
        message_id = hashlib.sha256(body).hexdigest()[:32]
        attempts = Attempts(
            outlet.name,
            first_pause_s=outlet.first_pause_s,
            last_pause_s=outlet.last_pause_s,
            give_up_s=outlet.give_up_minutes * 60,
        )
        refusals = 0
        while True:
            reason, retry_after_s, is_refusal = await self._attempt(body, message_id)
            if not reason:
                attempts.worked()
                return []
            refusals += is_refusal
            is_last = refusals >= outlet.attempts
            if not await attempts.failed(reason, retry_after_s=retry_after_s, is_last=is_last):
                return [Refused(message, reason) for message in messages]

    async def _attempt(self, body: bytes, message_id: str) -> tuple[str, float, bool]:
        """Send once. Returns why it failed (empty: it did not), how long to wait, and whether sending it is no use."""
        at_s = int(time.time())
        headers = {
            "content-type": BATCH_CONTENT_TYPE if self._outlet.batch > 1 else CONTENT_TYPE,
            "webhook-id": message_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": signatures(self._keys, message_id, at_s, body),
        }
        try:
            # With a limit for all of it: a receiver may send its answer byte by byte.
            async with asyncio.timeout(self._outlet.timeout_s):
                async with self._client.stream("POST", self._outlet.url, content=body, headers=headers) as answer:
                    status = answer.status_code
                    retry_after = answer.headers.get("retry-after", "")
        except (httpx.HTTPError, TimeoutError) as error:
            return type(error).__name__, 0.0, False
        if 200 <= status < 300:
            return "", 0.0, False
        is_refusal = 400 <= status < 500 and status not in _TRY_LATER
        return str(status), float(retry_after) if retry_after.isdecimal() else 0.0, is_refusal
