"""The items that sampled protocols rank a target against: drawn uniformly or by popularity, never touched before."""

from __future__ import annotations

import numpy as np

from seqrec_tf.records import DatasetFolder

UNIFORM_PROTOCOL, POPULAR_PROTOCOL = "uniform-100", "popular-100"
NUM_NEGATIVES = 100

# Rounds of draws before what is left is drawn exactly.
_ROUNDS = 20


class NegativeSampler:
    """Draws the items that a target is ranked against, none of which the user ever touched.

    Args:
        folder: The dataset.
        protocol: UNIFORM_PROTOCOL, where all items are alike, or POPULAR_PROTOCOL, which goes by their training events.
    """

    def __init__(self, folder: DatasetFolder, protocol: str):
        counts = np.asarray(folder.item_counts, np.float64)
        self.weights = counts if protocol == POPULAR_PROTOCOL else np.ones(len(counts))
        self.cumulative = np.cumsum(self.weights) / self.weights.sum()
        self.num_drawable = int(np.sum(self.weights > 0))

    def __call__(self, touched: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Distinct ids: int32 [100], filled with 0 where fewer are left.

        Drawing one by one and passing over what was drawn before is sampling without replacement.
        """
        touched = np.unique(touched[touched > 0])
        is_drawable = self.weights[touched - 1] > 0
        wanted = min(NUM_NEGATIVES, self.num_drawable - int(is_drawable.sum()))
        chosen: dict[int, None] = {}
        blocked = set(touched.tolist())
        for _ in range(_ROUNDS):
            if len(chosen) >= wanted:
                break
            for item in (np.searchsorted(self.cumulative, rng.random(2 * NUM_NEGATIVES), side="right") + 1).tolist():
                if item not in blocked and item <= len(self.weights):
                    chosen[item] = None
        ids = list(chosen)[:wanted]
        if len(ids) < wanted:  # what is left is rare: the same draws by the first to come of exponential times
            left = np.setdiff1d(np.flatnonzero(self.weights) + 1, [*blocked, *ids])
            times = rng.exponential(size=len(left)) / self.weights[left - 1]
            ids += left[np.argsort(times)][: wanted - len(ids)].tolist()
        return np.array(ids + [0] * (NUM_NEGATIVES - wanted), np.int32)
