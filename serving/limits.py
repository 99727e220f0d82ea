"""What one client may cost the server, and the error of a request that is over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.rest_json import invalid_argument


def _limit(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests; each is an option of `seqrec serve`, and its help says what it limits."""

    max_body_bytes: int = _limit(4 * 2**20, "largest body of a request, unpacked; more is answered 413")
    max_json_depth: int = _limit(64, "deepest nesting of lists and objects in a body; more is answered 400")
    max_rows: int = _limit(1024, "most rows of a request; more are answered 400")
    max_history_length: int = _limit(4096, "longest list of a row; more is answered 400")
    max_header_bytes: int = _limit(65536, "largest request line with headers; more is answered 431")
    header_timeout_s: float = _limit(10.0, "seconds in which headers must have come; later it is answered 408")
    body_timeout_s: float = _limit(30.0, "seconds in which a body must have come, or an answer been taken; else 408")
    keep_alive_timeout_s: float = _limit(75.0, "seconds after which a connection without a request is closed")
    max_connections: int = _limit(1024, "most connections; one more is answered 503 and closed")

    def check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Refuse a request of too many rows, or of too long ones.

        Raises:
            StatusError: It is over the limits.
        """
        for name, array in feeds.items():
            if array.ndim > 0 and len(array) > self.max_rows:
                raise invalid_argument(
                    f"Input {name} has {len(array)} rows, a request may have {self.max_rows}: send several requests."
                )
            if max(array.shape[1:], default=0) > self.max_history_length:
                raise invalid_argument(
                    f"Input {name} has rows of {max(array.shape[1:])} values, a row may have "
                    f"{self.max_history_length}: send the newest."
                )
