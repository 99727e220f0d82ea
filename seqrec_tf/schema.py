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

Glossary, of words that are used only so:

- **event**: somebody chose an item, at some time: a click, a rating, a purchase.
- **liked**: an event whose label is 1, and any event where there are no labels.
- **history**: the events of a sequence before the one to predict, oldest first: `a b` of `a b c`, when `c` is to come.
- **target**: an event to predict: `c` of `a b c`.
- **seen**: the items of a whole training sequence, its targets included; none of them is a negative.
- **candidate**: an item that is scored as what might come next.
- **position**: where something stands in what the model reads, counted from 0, padding included; of an event in the
  input files, its file and byte.
- **place**: where something stands among its like: an event in its sequence, an item in the vocabulary.

Only the standard library is imported here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

PADDING_ID = 0

# What a record holds of a sequence, and an item record of an item.
USER_ID = "user_id"
SESSION_ID = "session_id"
ITEM_IDS = "item_ids"
ITEM_ID = "item_id"  # of an item record
TIMESTAMPS = "timestamps"
LABELS = "labels"
TARGET_START = "target_start"

# What the inputs of batches hold beside these: all items of a training sequence, of which the model sees the newest,
# for negatives; when the event to predict happens, for models that read times.
SEEN = "seen"
TARGET_TIME = "target_time"

# The labels of a batch of events to predict: the item, items that may not be recommended, the event's label; and, for
# evaluation alone, every item of the sequence, for protocols that draw what it never touched, and which sequence of the
# split it is, with the target's position there.
TARGET, EXCLUDED, TARGET_LABEL = "target", "excluded", "target_label"
TOUCHED, PLACE = "touched", "place"

# The inputs of a saved model, beside USER_ID and the features of users.
HISTORY = "history"
HISTORY_TIMESTAMPS = "history_timestamps"
TIMESTAMP = "timestamp"
HISTORY_LABELS = "history_labels"
CANDIDATES = "candidates"
EXCLUDE, ALLOW, K = "exclude", "allow", "k"
ITEM = "item"

# Its outputs, of which golden requests hold the first two beside the inputs.
ITEMS, SCORES, NUM_UNKNOWN = "items", "scores", "num_unknown"

# The input and the outputs of signatures that take serialized Examples: TF Serving's names for them.
SERIALIZED = "inputs"
CLASSES, OUTPUTS = "classes", "outputs"

# Names that no feature of users may have, as records, inputs or requests hold something else by them.
RESERVED_NAMES = frozenset(
    [
        *(USER_ID, SESSION_ID, ITEM_IDS, TIMESTAMPS, LABELS, TARGET_START),
        *(HISTORY, HISTORY_TIMESTAMPS, HISTORY_LABELS, TIMESTAMP, SEEN, TARGET_TIME),
        *(CANDIDATES, EXCLUDE, ALLOW, K, ITEM),
        *(ITEMS, SCORES, NUM_UNKNOWN),
    ]
)

# `Schema.time_unit`: what the times of events are.
SECONDS, ORDER, NO_TIME = "seconds", "order", ""

# `Schema.repeats`: events of a sequence whose item it has met before. Preparing keeps them, drops those that follow
# upon the same item, or drops all; a server does the same with the histories of requests.
KEEP_REPEATS, DROP_CONSECUTIVE_REPEATS, DROP_ALL_REPEATS = "keep", "consecutive", "all"
REPEATS = (KEEP_REPEATS, DROP_CONSECUTIVE_REPEATS, DROP_ALL_REPEATS)

# `Schema.record_order`: how the training records of a file follow each other, by chance or by their newest events.
RANDOM_ORDER, TIME_ORDER = "random", "time"
RECORD_ORDERS = (RANDOM_ORDER, TIME_ORDER)

# `Schema.id_form`: ids are in the normal form of `seqrec_tf.ids`, or as they came.
NORMAL_IDS, RAW_IDS = ID_FORMS = ("normal", "raw")

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

# The files of a model folder, beside the SavedModel's own.
EXTRA_FOLDER = "assets.extra"
WARM_UP_FILE = "tf_serving_warmup_requests"  # TF Serving's name for it
GOLDEN_FILE = "golden_requests.json"

SCHEMA_VERSION = 2
DTYPES = ("int64", "float32", "string")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of a record.

    Attributes:
        name: The key in the `tf.train.Example`.
        dtype: "int64", "float32" or "string".
        shape: `()` for one value a record, `(None,)` for one value an event, `(n,)` for a vector.
        doc: What it holds, with its unit.
        kind: One of `features.KINDS` for a side feature, or "vector"; "" for other features.
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

    @property
    def is_list(self) -> bool:
        """Whether records hold as many values as there happen to be."""
        return self.shape == (None,)

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """Shape of the value of one item or user as models take it: of several categories, the first `max_length`.

        () of a number or a category, (5,) of up to 5 categories, (512,) of a vector of 512 floats.
        """
        return (self.max_length,) if self.is_list else tuple(size for size in self.shape if size is not None)

    @property
    def dense_dtype(self) -> str:
        """Its dtype as models take it."""
        return "int32" if self.dtype == "int64" else self.dtype

    @property
    def missing(self) -> float:
        """What stands where there is no value: NaN for a number, else zeros, which no category or vector has."""
        return math.nan if self.dtype == "float32" and self.shape == () else 0

    @property
    def in_requests(self) -> Feature:
        """The same as a request holds it: numbers before they are standardised, categories by their names."""
        return Feature(self.name, "float32" if self.dtype == "float32" else "string", self.shape, self.doc)


USER_ID_FEATURE = Feature(USER_ID, "string", (), "whose events these are")
SESSION_ID_FEATURE = Feature(SESSION_ID, "string", (), "which session of the user")
ITEM_IDS_FEATURE = Feature(ITEM_IDS, "int64", (None,), "item ids in [1, num_items], oldest first")
TIMESTAMPS_FEATURE = Feature(TIMESTAMPS, "int64", (None,), "time of each event, in the schema's time_unit")
LABELS_FEATURE = Feature(LABELS, "int64", (None,), "1 where the event is positive (click, high rating), else 0")
TARGET_START_FEATURE = Feature(TARGET_START, "int64", (), "position of the first event to predict")
ITEM_ID_FEATURE = Feature(ITEM_ID, "string", (), "the item")

# What a request holds of one user, beside USER_ID_FEATURE and the features of users.
HISTORY_INPUT = Feature(HISTORY, "string", (None,), "item ids, oldest first")
HISTORY_TIMESTAMPS_INPUT = Feature(HISTORY_TIMESTAMPS, "int64", (None,), "time of each event of the history, seconds")
TIMESTAMP_INPUT = Feature(TIMESTAMP, "int64", (), "when the answer is for, seconds")
HISTORY_LABELS_INPUT = Feature(HISTORY_LABELS, "int64", (None,), "1 where the event of the history was liked, else 0")
CANDIDATES_INPUT = Feature(CANDIDATES, "string", (None,), "item ids, in any order")
EXCLUDE_INPUT = Feature(EXCLUDE, "string", (None,), "item ids that are not to be shown")
ALLOW_INPUT = Feature(ALLOW, "string", (None,), "the only item ids that may be shown; all where there are none")
K_INPUT = Feature(K, "int64", (), "items wanted; as many as there are places where 0")
ITEM_INPUT = Feature(ITEM, "string", (), "an item id")
SERIALIZED_INPUT = Feature(SERIALIZED, "string", (), "a serialized tf.train.Example of what the other signatures take")

# The inputs of a request that hold one value of each event of its history.
OF_HISTORY = (HISTORY, HISTORY_TIMESTAMPS, HISTORY_LABELS)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One question that a saved model answers; `serving_module` computes each, `serving.client` asks any.

    Attributes:
        name: In the saved model and in requests.
        outputs: What it gives; and all but those that take Examples give `num_unknown`, how many ids of the history, or
            items asked about, the model does not know.
        inputs: What it takes beside the history.
        takes_history: Whether it takes the history and what the model reads of the user.
        method: TF Serving's word for who may ask: "predict", or "classify" or "regress", whose requests are Examples.
    """

    name: str
    outputs: tuple[str, ...]
    inputs: tuple[Feature, ...] = ()
    takes_history: bool = True
    method: str = "predict"


RECOMMEND = Signature("serving_default", (ITEMS, SCORES))
RECOMMEND_AMONG = Signature("recommend", (ITEMS, SCORES), (EXCLUDE_INPUT, ALLOW_INPUT, K_INPUT))
RANK = Signature("rank", (SCORES,), (CANDIDATES_INPUT,))
EMBED = Signature("embed", (VECTOR,))
SIMILAR = Signature("similar", (ITEMS, SCORES), (ITEM_INPUT,), takes_history=False)
EXAMPLES = Signature("examples", (CLASSES, SCORES), (SERIALIZED_INPUT,), takes_history=False, method="classify")
REGRESS = Signature("regress", (OUTPUTS,), (SERIALIZED_INPUT,), takes_history=False, method="regress")
# EMBED and SIMILAR are those of models whose scores are dot products (SIMILAR also of ItemKNN); all have the others.
SIGNATURES = (RECOMMEND, RECOMMEND_AMONG, RANK, EMBED, SIMILAR, EXAMPLES, REGRESS)


@dataclasses.dataclass(frozen=True)
class Schema:
    """What the records of a dataset folder hold.

    Attributes:
        num_items: Size of the item vocabulary, padding not counted.
        features: The features of a sequence record.
        item_features: The features of an item record, empty where no items file was given.
        max_len: Length of the longest sequence, events.
        time_unit: SECONDS, ORDER, or NO_TIME where events have none.
        num_users: Users that have training sequences; 0 where records have no `user_id`.
        user_features: Features of the user of a sequence, in its record; empty where no users file was given.
        repeats: One of REPEATS: which repeats of an item the sequences have lost, and histories of requests lose.
        record_order: One of RECORD_ORDERS; training keeps TIME_ORDER, and shuffles records in RANDOM_ORDER.
        items_are_quoted: Whether double quotes enclose fields of the items file, and of a file of new items.
        id_form: One of ID_FORMS: whether ids, of new items and of requests too, are in the form of `seqrec_tf.ids`.
        numeric_ids: Which of "item", "user" and "session" have ids that are numbers, all of them.
    """

    num_items: int
    features: tuple[Feature, ...] = (ITEM_IDS_FEATURE, TARGET_START_FEATURE)
    item_features: tuple[Feature, ...] = ()
    max_len: int = 0
    time_unit: str = ""
    num_users: int = 0
    user_features: tuple[Feature, ...] = ()
    repeats: str = KEEP_REPEATS
    record_order: str = RANDOM_ORDER
    items_are_quoted: bool = True
    id_form: str = NORMAL_IDS
    numeric_ids: tuple[str, ...] = ()

    def __post_init__(self):
        for name, values in (
            ("time_unit", (SECONDS, ORDER, NO_TIME)),
            ("repeats", REPEATS),
            ("record_order", RECORD_ORDERS),
            ("items_are_quoted", (True, False)),
            ("id_form", ID_FORMS),
        ):
            if getattr(self, name) not in values:
                expected = ", ".join(map(repr, values))
                raise ValueError(f"`{name}` of a schema must be one of {expected}, got {getattr(self, name)!r}.")

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
    def from_dict(cls, values: Mapping[str, Any], *, called: str = "The schema") -> Schema:
        """The inverse of `to_dict`.

        Args:
            values: What `to_dict` gave.
            called: What to call the schema in errors.

        Raises:
            ValueError: It is of another version, or not whole: what is not there is never guessed.
        """
        values = dict(values)
        version = values.pop("version", None)
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{called} must have version {SCHEMA_VERSION}, got {version}. Prepare the dataset again with this "
                "version of seqrec_tf, and train on it again."
            )
        if missing := sorted({field.name for field in dataclasses.fields(cls)} - values.keys()):
            raise ValueError(
                f"{called} must say what its version {SCHEMA_VERSION} does, and lacks {', '.join(missing)}. Prepare "
                "the dataset again."
            )
        try:
            for key in ("features", "item_features", "user_features"):
                given = values[key]
                values[key] = tuple(Feature(**{**feature, "shape": tuple(feature["shape"])}) for feature in given)
            values["numeric_ids"] = tuple(values["numeric_ids"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{called} is not one of version {SCHEMA_VERSION}: {error}.") from error

    @classmethod
    def from_json(cls, text: str, *, called: str = "The schema") -> Schema:
        """The inverse of `to_json`; `called` as in `from_dict`."""
        return cls.from_dict(json.loads(text), called=called)

    def differences(self, other: Schema) -> list[str]:
        """One readable line for each thing in which `other` differs; empty when they are equal."""
        lines = []
        of_features = ("features", "item_features", "user_features")
        for field in [field.name for field in dataclasses.fields(self) if field.name not in of_features]:
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                lines.append(f"{field}: {ours!r} against {theirs!r}")
        for field in of_features:
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
