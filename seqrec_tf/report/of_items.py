"""What a report shows of items: their names, pictures and groups, and a map of their vectors."""

from __future__ import annotations

import base64
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf import features
from seqrec_tf.records import DatasetFolder

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel

# Items on the map, the most popular ones; groups with a colour of their own; pixels of a picture's longer side.
_MAPPED = 1500
_GROUPS = 8
_THUMBNAIL = 96
_NAMES = ("title", "name", "item_name", "product_name")


class ItemCards:
    """How items are shown to people: by name, group and picture where the items file has them, else by id.

    Args:
        folder: The dataset.
        image_folder: What image paths are relative to; empty for no pictures.
    """

    def __init__(self, folder: DatasetFolder, image_folder: str = ""):
        self._folder = folder
        self._image_folder = image_folder
        by_kind: dict[str, list[str]] = {}
        for feature in folder.schema.item_features:
            by_kind.setdefault(feature.kind, []).append(feature.name)
        texts = by_kind.get("text", [])
        self.name_feature = next((name for name in _NAMES if name in texts), texts[0] if texts else "")
        groups = by_kind.get("category", []) + by_kind.get("categories", [])
        self.group_feature = next((name for name in groups if "categor" in name or "genre" in name), "")
        self.group_feature = self.group_feature or (groups[0] if groups else "")
        self._image_feature = by_kind.get("image-path", [""])[0] if image_folder else ""
        wanted = [name for name in (self.name_feature, self.group_feature, self._image_feature) if name]
        self._values = folder.item_values(wanted) if wanted else {}

    def name(self, item: int) -> str:
        """The name of an item."""
        text = self._text(self.name_feature, item)
        return text or self._folder.item_ids[item - 1]

    def group(self, item: int) -> str:
        """The category of an item, the first where it has several; empty where it has none."""
        if not self.group_feature:
            return ""
        value = np.atleast_1d(self._values[self.group_feature][item])[0]
        values = self._folder.learned_of_items[self.group_feature]["values"]
        return values[value - features.UNKNOWN - 1] if value > features.UNKNOWN else ""

    def card(self, item: int) -> dict[str, Any]:
        """An item as JSON-serialisable values: its id, name, group, training events and picture, if any."""
        return {
            "id": self._folder.item_ids[item - 1],
            "name": self.name(item),
            "group": self.group(item),
            "events": self._folder.item_counts[item - 1],
            "picture": self._picture(item),
        }

    def _text(self, feature: str, item: int) -> str:
        if not feature:
            return ""
        value = self._values[feature][item]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")

    def _picture(self, item: int) -> str:
        """A small JPEG as a data URL; empty where there is none that can be read."""
        import tensorflow as tf

        path = self._text(self._image_feature, item)
        if not path:
            return ""
        try:
            data = (pathlib.Path(self._image_folder) / path).read_bytes()
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
        except (OSError, tf.errors.InvalidArgumentError):
            return ""
        small = tf.image.resize(image, [_THUMBNAIL, _THUMBNAIL], preserve_aspect_ratio=True, antialias=True)
        jpeg = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(small, 0, 255), tf.uint8), quality=80).numpy()
        return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def item_map(model: SequenceModel, folder: DatasetFolder, cards: ItemCards) -> dict[str, Any] | None:
    """The most popular items in the plane of the first two principal components of their vectors.

    Returns:
        `points`: [x, y, name, group, training events] of each; `groups`, the names in the order of their colours;
        `by`, what groups are; `explained`, the share of the variance that the plane holds. None for a model that has
        no vectors of items.
    """
    try:
        table = np.asarray(model.item_table(), np.float32)
    except NotImplementedError:
        return None
    if table.shape[1] < 3:  # such as popularity, whose only number says no more than a list
        return None
    number = min(_MAPPED, folder.num_items)
    places, explained = principal_plane(table[1 : number + 1])
    groups = [cards.group(item) for item in range(1, number + 1)]
    if any(groups):
        by = cards.group_feature
        names, counts = np.unique([group for group in groups if group], return_counts=True)
        largest = [str(name) for name in names[np.argsort(-counts, kind="stable")][:_GROUPS]]
        groups = [group if group in largest else "other" for group in groups]
        order = [*largest, *(["other"] if "other" in groups else [])]
    else:
        by = "popularity"
        order = ["the most popular third", "the middle third", "the least popular third"]
        groups = [order[3 * rank // number] for rank in range(number)]
    points = [
        [round(float(x), 4), round(float(y), 4), cards.name(item), group, folder.item_counts[item - 1]]
        for item, ((x, y), group) in enumerate(zip(places, groups, strict=True), start=1)
    ]
    return {"points": points, "groups": order, "by": by, "explained": explained, "of": folder.num_items}


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components of some vectors, and the share of their variance that these hold.

    Args:
        vectors: float [N, D], D at least 2.

    Returns:
        float [N, 2], and a number from 0 to 1. Each component's largest weight is positive, so that the same vectors
        give the same picture.
    """
    centred = vectors - vectors.mean(axis=0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    directions = (
        directions[:2]
        * np.sign(directions[:2][np.arange(len(directions[:2])), np.abs(directions[:2]).argmax(axis=1)])[:, None]
    )
    places = centred @ directions.T
    total = float((scales**2).sum())
    return places, float((scales[:2] ** 2).sum() / total) if total else 0.0
