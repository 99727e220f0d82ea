"""When a served answer is the one that was expected: the same items and scores, but for sums in another order.

Pure Python, for export, which compares before it publishes, and for clients, which compare what runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# float32 sums in another order: what the same scores may differ by.
TOLERANCE = 1e-4


def are_close(scores: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether these are the same scores."""
    return len(scores) == len(expected) and all(
        math.isclose(score, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for score, wanted in zip(scores, expected, strict=True)
    )


def difference(
    items: Sequence[str], scores: Sequence[float], expected_items: Sequence[str], expected_scores: Sequence[float]
) -> str:
    """In what a list differs from the expected one; "" in nothing.

    Args:
        items: Item ids, best first; those that are "" say that there are no more.
        scores: Their scores.
        expected_items: The ids that are expected, none of them "".
        expected_scores: Their scores.
    """
    pairs = [(item, score) for item, score in zip(items, scores, strict=True) if item]
    if not are_close([score for _, score in pairs], expected_scores):
        return "the scores differ"
    score_of = dict(zip(expected_items, expected_scores, strict=True))
    for (item, score), expected in zip(pairs, expected_items, strict=True):
        # Items of nearly equal scores may change places, among each other or with those that are just not listed.
        if item != expected and abs(score - score_of.get(item, expected_scores[-1])) > TOLERANCE:
            return "the items differ"
    return ""
