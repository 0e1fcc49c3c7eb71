"""Downloads from servers that are not trusted: bounded in size and time, and tried again after temporary failures."""

import io
import random
import time
import urllib.parse
from dataclasses import dataclass, field

import requests
from urllib3.exceptions import HTTPError, ProtocolError

from sourcewise.core.errors import SourcewiseError
from sourcewise.records.record import RecordError

ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 6, 0.5, 60.0
"""Attempts after temporary failures, and seconds to wait between them: doubled each time, or as the server asks."""

TIMEOUT, SLOWEST = (10, 60), 1000
"""Seconds for a connection and for the next bytes; bytes a second that must have come after the first minute."""

TEMPORARY = frozenset((408, 429, *range(500, 600)))
"""Statuses of HTTP after which another attempt may succeed."""


class Unreachable(SourcewiseError):  # noqa: N818
    """A server that does not answer, or answers with errors only."""


def _session() -> requests.Session:
    session = requests.Session()
    session.max_redirects = 5
    session.hooks["response"].append(_close_redirection)
    return session


def _close_redirection(answer: requests.Response, **settings: object) -> None:
    """Close a redirection unread, since requests would read all that comes with it."""
    if answer.is_redirect:
        answer.raw.close()
        answer.raw = io.BytesIO()


@dataclass(frozen=True)
class Downloader:
    """Downloads over connections that are kept open; threads may share it."""

    session: requests.Session = field(default_factory=_session)

    def fetch(self, link: str, limit: int) -> bytes:
        """Return the bytes behind a link, at most `limit` of them.

        Raises Unreachable after too many temporary failures, and RecordError when this link will not work, when the
        answer breaks off, or when it is too long.
        """
        reason = ""
        for attempt in range(ATTEMPTS):
            pause = min(20.0, FIRST_PAUSE * 2**attempt) * (1 + random.random())  # noqa: S311
            try:
                # An encoded answer could be much longer than what was sent.
                headers = {"Accept-Encoding": "identity"}
                with self.session.get(link, timeout=TIMEOUT, stream=True, headers=headers) as answer:
                    if answer.ok:
                        return _body(answer, limit)
                    reason = f"status {answer.status_code}"
                    if answer.status_code not in TEMPORARY:
                        raise RecordError(f"its link does not work ({reason})")
                    if (seconds := answer.headers.get("Retry-After", "")).isdecimal():
                        pause = min(float(seconds), LONGEST_PAUSE)
            except ProtocolError as error:
                raise RecordError("its download broke off") from error
            except ValueError as error:
                raise RecordError(f"its link does not work ({type(error).__name__})") from error
            except (requests.RequestException, HTTPError) as error:
                reason = "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
            if attempt + 1 < ATTEMPTS:
                time.sleep(pause)
        raise Unreachable(f"{urllib.parse.urlsplit(link).netloc} does not answer ({reason})")


def _body(answer: requests.Response, limit: int) -> bytes:
    """Return the whole body as it was sent. Raises RecordError when it is longer than the limit."""
    body, begin = bytearray(), time.monotonic()
    while chunk := answer.raw.read1(2**20, decode_content=False):
        body += chunk
        if len(body) > limit:
            raise RecordError(f"it is longer than the {limit:,} bytes that it may have")
        if time.monotonic() - begin > TIMEOUT[1] + len(body) / SLOWEST:
            raise requests.Timeout
    return bytes(body)
