"""What a report shows of a run: figures, curves, segments, attention, a map of items, and examples."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf import run_folder as run_lib
from seqrec_tf.evaluation.intervals import CUTOFFS
from seqrec_tf.report.of_attention import attention_of_one, mean_attention
from seqrec_tf.report.of_items import ItemCards, item_map
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.runs import read_log

if TYPE_CHECKING:
    from seqrec_tf.evaluate import Result
    from seqrec_tf.evaluation.targets import Targets
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

SEGMENT_FIGURE = "ndcg@10"
# Events of a history, and recommendations, that an example shows; histories whose attention is averaged.
_SHOWN_EVENTS, _SHOWN_ITEMS, _ATTENDED = 8, 10, 512
# A target is well known where it has at least so many times the median item's training events.
_WELL_KNOWN = 5


def training_panel(run: RunFolder) -> dict[str, Any]:
    """What was trained, how long it took, and how the epochs went: nothing here needs the model or the dataset."""
    metrics = json.loads((run.path / run_lib.METRICS_FILE).read_text(encoding="utf-8"))
    config = run.config
    changed = changed_options(config)
    settings = [f"{name}={_toml(value)}" for name, value in changed.items()]
    words = ["seqrec", "train", "--dataset", run.dataset_info["path"], "--model", config.model_name]
    words += ["--output", "RUN", *(["--set", *settings] if settings else [])]
    epochs = read_log(run.path / run_lib.LOG_FILE)
    return {
        "name": run.path.name,
        "model": config.model_name,
        "dataset": run.dataset_info["path"],
        "versions": run.dataset_info.get("versions", {}),
        "command": shlex.join(words),
        "changed": {name: _toml(value) for name, value in changed.items()},
        "metrics": metrics,
        "epochs": epochs,
        "sizes": {
            "parameters": metrics.get("parameters"),
            "best model, bytes": (run.path / run_lib.BEST_MODEL_FILE).stat().st_size,
        },
    }


def changed_options(config) -> dict[str, Any]:
    """The options of a configuration that are not their defaults, by name such as "model.dim"."""
    changed = {}
    for section in ("model", "data", "train"):
        values = getattr(config, section)
        for field in dataclasses.fields(values):
            value = getattr(values, field.name)
            if value != field.default:
                changed[f"{section}.{field.name}"] = value
    return changed


def _toml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def quality_panel(results: dict[str, Result]) -> dict[str, Any]:
    """The figures of several models on the same events: name of the model to figure to value, low and high."""
    figures = {
        name: {figure: [part.value, part.low, part.high] for figure, part in result.metrics.items()}
        for name, result in results.items()
    }
    first = next(iter(results.values()))
    return {"figures": figures, "targets": first.num_targets, "impossible": first.num_impossible}


def segments_panel(folder: DatasetFolder, split: str, results: dict[str, Result]) -> list[dict[str, Any]]:
    """NDCG@10 of each model in each segment, with intervals.

    Returns:
        For each kind of segments: `by`, `names`, `counts`, and `figures`: name of the model to (value, low, high) of
        each segment.
    """
    from seqrec_tf.evaluation.paired import paired_differences
    from seqrec_tf.evaluation.targets import segments
    from seqrec_tf.learning import metrics

    first: Any = next(iter(results.values())).targets
    parts = segments(folder, split, first)
    if not parts:
        return []
    figures: dict[str, list] = {}
    for name, result in results.items():
        targets: Any = result.targets
        gain = metrics.ndcg(targets.rank, 10).numpy().astype(np.float64)[:, None]
        groups = [segment.has for segment in parts]
        intervals = paired_differences(gain, targets.owner, groups, rng=np.random.default_rng(0))
        figures[name] = [[part.value, part.low, part.high] for (part,) in intervals]
    panels = []
    for by in dict.fromkeys(segment.by for segment in parts):
        rows = [number for number, segment in enumerate(parts) if segment.by == by]
        panels.append(
            {
                "by": by,
                "names": [parts[row].name for row in rows],
                "counts": [int(parts[row].has.sum()) for row in rows],
                "figures": {name: [values[row] for row in rows] for name, values in figures.items()},
            }
        )
    return panels


def model_panels(
    model: SequenceModel, folder: DatasetFolder, split: str, targets: Targets, cards: ItemCards
) -> dict[str, Any]:
    """The attention, the map of items and the examples of a model."""
    from seqrec_tf import data

    batches = data.evaluation_batches(folder, split, model, batch_size=64, exclude_history=True)
    mean = mean_attention(model, batches.take(_ATTENDED // 64))
    one = None
    if mean is not None:
        inputs = _telling_history(batches)
        one = attention_of_one(model, inputs, cards.name)
    return {
        "attention": None if mean is None else {"mean": mean, "one": one},
        "map": item_map(model, folder, cards),
        "examples": examples(folder, split, targets, cards),
    }


def _telling_history(batches) -> dict[str, Any]:
    """The inputs of one history that is long enough to fill the picture, or the longest of the first batch."""
    import tensorflow as tf

    from seqrec_tf.report.of_attention import NEWEST
    from seqrec_tf.schema import ITEM_IDS

    inputs, _ = next(iter(batches.take(1)))
    lengths = np.count_nonzero(inputs[ITEM_IDS].numpy(), axis=1)
    enough = np.flatnonzero(lengths >= NEWEST)
    row = int(enough[0]) if len(enough) else int(lengths.argmax())
    return tf.nest.map_structure(lambda value: value[row : row + 1], dict(inputs))


def examples(folder: DatasetFolder, split: str, targets: Targets, cards: ItemCards) -> list[dict[str, Any]]:
    """Histories beside what was recommended and what came next, chosen to be telling.

    Hits of rare items, near misses (the item that came is among the first ten, not the first), surprises (a well-known
    item came, and is not among the first twenty), and new items; two of each kind, where there are any. Histories of
    five events or more are preferred.
    """
    from seqrec_tf.evaluation.targets import histories

    if not targets.lists.shape[1]:
        return []
    events = np.array([0, *folder.item_counts])[targets.item]
    median = float(np.median([count for count in folder.item_counts if count] or [0]))
    is_new = events == 0
    kinds = {
        "A hit: the first recommendation came next": (targets.rank == 1) & ~is_new,
        "A near miss: what came next is among the first ten": (targets.rank > 1) & (targets.rank <= 10) & ~is_new,
        "A surprise: a well-known item came that is not among the first twenty": (targets.rank > max(CUTOFFS))
        & (events >= _WELL_KNOWN * median),
        "A new item: no training event holds it": is_new,
    }
    found = []
    for kind, is_kind in kinds.items():
        rows = np.flatnonzero(is_kind)
        is_short = targets.place[rows, 1] < 5
        rare_first = events[rows] if kind.startswith("A hit") else np.zeros(len(rows))
        chosen: list[int] = []
        for row in rows[np.lexsort([rows, rare_first, is_short])]:
            if all(
                targets.owner[row] != targets.owner[other] and targets.item[row] != targets.item[other]
                for other in chosen
            ):
                chosen.append(int(row))
            if len(chosen) == 2:
                break
        for row, history in zip(chosen, histories(folder, split, targets.place[chosen]), strict=True):
            found.append(
                {
                    "kind": kind,
                    "events": len(history),
                    "history": [cards.card(int(item)) for item in history[-_SHOWN_EVENTS:]],
                    "came": cards.card(int(targets.item[row])),
                    "rank": int(targets.rank[row]) if targets.rank[row] <= max(CUTOFFS) else None,
                    "recommended": [cards.card(int(item)) for item in targets.lists[row][:_SHOWN_ITEMS] if item],
                }
            )
    return found
