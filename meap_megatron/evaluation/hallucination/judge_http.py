"""A judge behind an OpenAI-compatible endpoint: `POST URL/chat/completions`, temperature 0, with patience.

Asked again, with growing pauses: status 408, 409, 425, 429 and 5xx (`Retry-After` is honoured), time-outs, connections
that break, answers that are not chat completions. Anything else is final. The API key comes from the environment, goes into
one header and nowhere else; redirects are refused, since they could carry it to another host.
"""

import email.utils
import json
import os
import random
import ssl
import threading
import time
import urllib.parse

from meap_megatron.errors import RunError, UserError

KEY_VARIABLES = ("MEAP_JUDGE_API_KEY", "OPENAI_API_KEY")
TIMEOUT = 120.0  # seconds
TRIES = 7
FIRST_PAUSE = 1.0  # seconds; doubles
LONGEST_PAUSE = 60.0  # seconds; a longer Retry-After is waited for up to ten minutes
LONGEST_ASKED_PAUSE = 600.0
PASSING = (408, 409, 425, 429)
MAX_TOKENS = 1024


def check_url(url: str) -> str:
    """Return the address of an endpoint without a slash at its end.

    Raises:
        UserError: it is not an http(s) address, or holds a password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is not a number, an unclosed bracket
        known = False
    if not known:
        raise UserError(f"judge endpoint {url!r} is not an address", fix="give one such as https://api.openai.com/v1")
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"the address of judge endpoint {parts.hostname} holds a user, password or query",
            fix=f"put the key into the environment variable {KEY_VARIABLES[0]}",
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    return urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def find_key(url: str, variable: str | None) -> str | None:
    """Return the API key from the environment; None for an endpoint on this machine without one.

    Raises:
        UserError: there is none, or a header cannot hold it.
    """
    names = (variable,) if variable else KEY_VARIABLES
    found = next((value for name in names if (value := os.environ.get(name, "").strip())), None)
    if found is None and (variable or not is_loopback(url)):
        raise UserError(
            f"judge endpoint {url} needs an API key",
            fix=f"set the environment variable {' or '.join(names)} (any text if the endpoint asks for none)",
        )
    if found and not (found.isascii() and found.isprintable()):
        raise UserError(
            f"the API key in the environment has a character that a header cannot hold ({' or '.join(names)})",
            fix=f"correct {' or '.join(names)}",
        )
    return found


class HttpJudge:
    """An OpenAI-compatible endpoint."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key_variable: str | None = None,
        concurrency: int = 4,
        timeout: float = TIMEOUT,
        first_pause: float = FIRST_PAUSE,
        tries: int = TRIES,
    ) -> None:
        """Take the address and the name of the model there.

        Raises:
            UserError: the key is missing, or a proxy of the environment cannot be used.
        """
        import httpx

        self.url, self.model, self.concurrency = url, model, concurrency
        self.first_pause, self.tries = first_pause, tries
        self._key = find_key(url, key_variable)
        try:
            self._client = httpx.Client(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx.Timeout(timeout, pool=None),
                verify=ssl.create_default_context(),  # the system's certificates, to which a site adds its own
                trust_env=not is_loopback(url),  # proxies
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise UserError(f"a proxy of the environment cannot be used for judge endpoint {url}: {error}") from None

    def ask(self, text: str, stop: threading.Event) -> str:
        """Return the answer to one message.

        Raises:
            UserError: key, address or model are refused.
            RunError: no answer after all tries, or `stop` was set while waiting.
        """
        import httpx

        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        for attempt in range(self.tries):
            asked = None
            try:
                answer = self._client.post(f"{self.url}/chat/completions", json=body)
                if answer.is_success:
                    return read_answer(answer.content)
                problem = self._hide(f"status {answer.status_code} {answer.reason_phrase} {answer.text[:2000]}")
                if answer.status_code not in PASSING and answer.status_code < 500:
                    raise self._final(answer.status_code, problem)
                asked = retry_after(answer.headers.get("Retry-After"))
            except (httpx.HTTPError, _Malformed) as error:
                problem = self._hide(str(error) or type(error).__name__)
            if attempt + 1 < self.tries and stop.wait(self._pause(attempt, asked)):
                break
        raise RunError(
            f"judge {self.model} at {self.url} gives no answer after {attempt + 1} tries: {problem}; judgements so far "
            "are kept",
            fix="continue with the same command",
        )

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Return seconds to wait: what the server asked for, else doubling with chance, so that threads spread."""
        if asked is not None:
            return min(asked, LONGEST_ASKED_PAUSE)
        return min(self.first_pause * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)

    def _hide(self, text: str) -> str:
        """Return a server's text without the key, on one short line."""
        return " ".join((text.replace(self._key, "***") if self._key else text).split())[:200]

    def _final(self, code: int, problem: str) -> UserError:
        advice = {
            401: "check the API key in the environment",
            403: "check the API key in the environment",
            404: "check address and model name of --judge; the address ends before /chat/completions",
        }.get(code, "check --judge; redirects are not followed" if code < 400 else "check --judge")
        return UserError(f"judge {self.model} at {self.url} refuses: {problem}", fix=advice)


class _Malformed(ValueError):
    """An answer that is not a chat completion."""


def read_answer(body: bytes) -> str:
    """Return the text of a chat completion; "" where the model gave none.

    Raises:
        ValueError: it is not one.
    """
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise _Malformed(f"the answer is not a chat completion: {body[:100]!r}") from None
    if not isinstance(content, str | None):
        raise _Malformed(f"the answer's content is not a text: {body[:100]!r}")
    return content or ""


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, which holds seconds or a date; None if it says nothing."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
