"""The contract between the Beam jobs, training and serving: names, dtypes, shapes, padding.

Conventions, fixed here and relied on everywhere:

- Item ids are strings outside and int64 inside. Id `0` is padding; ids `1..num_items` are real and ordered by how often
  the item occurs in the training split (ties by the string), so a smaller id is never a rarer item.
- Time runs oldest to newest. Timestamps are int64 seconds, UTC (`time_unit == "seconds"`), or any other integer that
  grows with time (`"order"`). A dataset whose events have no time at all has no `timestamps` feature.
- One record is one sequence: a user's events or, where the data has sessions, a session's. `target_start` is the
  position of the first event to predict: 1 in `train` (every event but the first has a past), the held-out event's
  position in `valid` and `test`. Events before it are history only.
- Models take sequences padded on the right with zeros; they accept zeros anywhere.

Only the standard library is imported here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

PADDING_ID = 0

USER_ID = "user_id"
SESSION_ID = "session_id"
ITEM_IDS = "item_ids"
ITEM_ID = "item_id"  # of an item record
TIMESTAMPS = "timestamps"
LABELS = "labels"
WEIGHTS = "weights"
TARGET_START = "target_start"

# What batches hold beside these: all items of a training sequence, of which the model sees the newest, for negatives;
# when the event to predict happens, for models that read times.
SEEN = "seen"
TARGET_TIME = "target_time"

# The inputs of a saved model, beside USER_ID and the features of users.
HISTORY = "history"
HISTORY_TIMESTAMPS = "history_timestamps"
TIMESTAMP = "timestamp"
CANDIDATES = "candidates"

# Its outputs, which golden requests hold beside the inputs.
ITEMS, SCORES, NUM_UNKNOWN = "items", "scores", "num_unknown"

# Names that no feature of users may have, as records, batches or requests hold something else by them.
RESERVED_NAMES = frozenset(
    [
        *(USER_ID, SESSION_ID, ITEM_IDS, TIMESTAMPS, LABELS, WEIGHTS, TARGET_START),
        *(HISTORY, HISTORY_TIMESTAMPS, TIMESTAMP, CANDIDATES, SEEN, TARGET_TIME),
        *(ITEMS, SCORES, NUM_UNKNOWN),
    ]
)

SPLITS = ("train", "valid", "test")

# The files of a dataset folder.
SCHEMA_FILE = "schema.json"
STATS_FILE = "stats.json"
COMPLETED_FILE = "COMPLETED"
VOCABULARIES_FOLDER = "vocabularies"
ITEM_VOCABULARY_FILE = f"{VOCABULARIES_FOLDER}/item_id.txt"  # line k (from 1) is the item with id k
ITEM_COUNTS_FILE = f"{VOCABULARIES_FOLDER}/item_count.txt"  # line k: training events of item k
FEATURES_FILE = f"{VOCABULARIES_FOLDER}/features.json"  # what was learned of the columns of the items file
USER_FEATURES_FILE = f"{VOCABULARIES_FOLDER}/user_features.json"  # and of the users file
VECTORS_FOLDER = "vectors"  # of each embedded column a folder, whose ENCODER_FILE names the files
ENCODER_FILE = "encoder.json"
DIGEST, VECTOR = "digest", "vector"  # in their records, beside the item's id
ITEMS_FOLDER = "items"  # one Example per item, in id order; only where an items file was given
REJECTED_FOLDER = "rejected"

SCHEMA_VERSION = 1
DTYPES = ("int64", "float32", "string")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of a record.

    Attributes:
        name: The key in the `tf.train.Example`.
        dtype: "int64", "float32" or "string".
        shape: `()` for one value a record, `(None,)` for one value an event, `(n,)` for a vector.
        doc: What it holds, with its unit.
        kind: Of a side feature, of `features.KINDS`, or "vector"; "" of others.
        num_values: Ids that a category may have, from 0; 0 where it is none.
        max_length: Categories that an item has at most; 0 where it has one.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    doc: str = ""
    kind: str = ""
    num_values: int = 0
    max_length: int = 0

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"Feature `{self.name}` must have a dtype of {', '.join(DTYPES)}, got {self.dtype!r}.")


USER_ID_FEATURE = Feature(USER_ID, "string", (), "whose events these are")
SESSION_ID_FEATURE = Feature(SESSION_ID, "string", (), "which session of the user")
ITEM_IDS_FEATURE = Feature(ITEM_IDS, "int64", (None,), "item ids in [1, num_items], oldest first")
TIMESTAMPS_FEATURE = Feature(TIMESTAMPS, "int64", (None,), "time of each event, in the schema's time_unit")
LABELS_FEATURE = Feature(LABELS, "int64", (None,), "1 where the event is positive (click, high rating), else 0")
WEIGHTS_FEATURE = Feature(WEIGHTS, "float32", (None,), "weight of each event")
TARGET_START_FEATURE = Feature(TARGET_START, "int64", (), "position of the first event to predict")
ITEM_ID_FEATURE = Feature(ITEM_ID, "string", (), "the item")


@dataclasses.dataclass(frozen=True)
class Schema:
    """What the records of a dataset folder hold.

    Attributes:
        num_items: Size of the item vocabulary, padding not counted.
        features: The features of a sequence record.
        item_features: The features of an item record, empty where no items file was given.
        max_len: Length of the longest sequence, events.
        time_unit: "seconds", "order", or "" where events have no time.
        num_users: Users that have training sequences; 0 where records have no `user_id`.
        user_features: Features of the user of a sequence, in its record; empty where no users file was given.
    """

    num_items: int
    features: tuple[Feature, ...] = (ITEM_IDS_FEATURE, TARGET_START_FEATURE)
    item_features: tuple[Feature, ...] = ()
    max_len: int = 0
    time_unit: str = ""
    num_users: int = 0
    user_features: tuple[Feature, ...] = ()

    def __contains__(self, name: str) -> bool:
        return any(feature.name == name for feature in self.record_features)

    @property
    def record_features(self) -> tuple[Feature, ...]:
        """All that a sequence record holds."""
        return self.features + self.user_features

    def to_dict(self) -> dict[str, Any]:
        """This schema as JSON-serialisable values."""
        return {"version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """This schema as the text of `schema.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schema:
        """The inverse of `to_dict`."""
        values = dict(values)
        version = values.pop("version", None)
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"The schema must have version {SCHEMA_VERSION}, got {version}. Prepare the dataset again with this "
                "version of seqrec_tf."
            )
        try:
            for key in ("features", "item_features", "user_features"):
                given = values.get(key, ())
                values[key] = tuple(Feature(**{**feature, "shape": tuple(feature["shape"])}) for feature in given)
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is not a schema of version {SCHEMA_VERSION}: {error}.") from error

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    def differences(self, other: Schema) -> list[str]:
        """One readable line for each thing in which `other` differs; empty when they are equal."""
        lines = []
        for field in ("num_items", "num_users", "max_len", "time_unit"):
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                lines.append(f"{field}: {ours!r} against {theirs!r}")
        for field in ("features", "item_features", "user_features"):
            ours = {feature.name: feature for feature in getattr(self, field)}
            theirs = {feature.name: feature for feature in getattr(other, field)}
            for name in sorted(ours.keys() | theirs.keys()):
                described = [_describe(features.get(name)) for features in (ours, theirs)]
                if described[0] != described[1]:
                    lines.append(f"{field}.{name}: {described[0]} against {described[1]}")
        return lines


def vector_record(dim: int) -> tuple[Feature, ...]:
    """The features of a record of `vectors/`: the item, a digest of what was encoded, and its vector."""
    return (Feature(ITEM_ID, "string", ()), Feature(DIGEST, "string", ()), Feature(VECTOR, "float32", (dim,)))


def vector_name(column: str) -> str:
    """Name of the feature that holds the vectors of an embedded column."""
    return f"{column}_vector"


def _describe(feature: Feature | None) -> str:
    if feature is None:
        return "absent"
    categories = f" of {feature.num_values} categories" if feature.num_values else ""
    return f"{feature.kind} {feature.dtype} {list(feature.shape)}".lstrip() + categories
