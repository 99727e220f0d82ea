"""What is known of public data sets, so that `seqrec prepare --preset NAME` needs only --input and --output."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Preset:
    """How a public data set is laid out.

    Attributes:
        options: Options that the user need not give.
        files: Option to the file name, where `--input` is a folder.
    """

    options: dict[str, Any]
    files: dict[str, str]


# The items and users files of MovieLens 1M; ages are brackets there.
_ML_1M_SIDES = {
    "items_format": "csv",
    "items_delimiter": "::",
    "items_encoding": "latin-1",
    "items_columns": "item_id,title,genres",
    "item_feature": ("title:text", "genres:categories"),
    "users_format": "csv",
    "users_delimiter": "::",
    "users_columns": "user_id,gender,age,occupation,zip",
    "user_feature": ("gender:category", "age:category", "occupation:category", "zip:text"),
}
_ML_100K_GENRES = (
    "unknown,action,adventure,animation,children,comedy,crime,documentary,drama,fantasy,film_noir,horror,musical,"
    "mystery,romance,sci_fi,thriller,war,western"
)

# A data set may come in several layouts; the one whose input file is there counts, or else the first.
PRESETS: dict[str, tuple[Preset, ...]] = {
    "movielens-100k": (
        Preset(
            {
                "format": "csv",
                "delimiter": "\t",
                "user_column": "0",
                "item_column": "1",
                "time_column": "3",
                "time_format": "s",
                "items_format": "csv",
                "items_delimiter": "|",
                "items_encoding": "latin-1",
                "items_columns": f"item_id,title,release_date,video_release_date,imdb_url,{_ML_100K_GENRES}",
                "item_feature": (
                    "title:text",
                    "release_date:text",
                    "video_release_date:text",
                    "imdb_url:text",
                    *(f"{genre}:number" for genre in _ML_100K_GENRES.split(",")),
                ),
                "users_format": "csv",
                "users_delimiter": "|",
                "users_columns": "user_id,age,gender,occupation,zip",
                "user_feature": ("age:number", "gender:category", "occupation:category", "zip:text"),
            },
            {"input": "u.data", "items": "u.item", "users": "u.user"},
        ),
    ),
    "movielens-1m": (
        Preset(  # as GroupLens publishes it: user, item, rating, seconds
            {
                "format": "csv",
                "delimiter": "::",
                "user_column": "0",
                "item_column": "1",
                "time_column": "3",
                "time_format": "s",
                **_ML_1M_SIDES,
            },
            {"input": "ratings.dat*", "items": "movies.dat", "users": "users.dat"},
        ),
        Preset(  # its order alone
            {
                "format": "csv",
                "delimiter": "\t",
                "user_column": "user_id",
                "item_column": "item_id",
                "time_column": "position",
                "time_format": "order",
                **_ML_1M_SIDES,
            },
            {"input": "events.tsv*", "items": "movies.dat", "users": "users.dat"},
        ),
    ),
    "amazon-beauty": (
        Preset(
            {
                "format": "csv",
                "delimiter": " ",
                "user_column": "0",
                "item_column": "1",
                "time_column": "none",
            },
            {"input": "beauty.txt*"},
        ),
    ),
    "retailrocket": (
        Preset(
            {
                "format": "sequences",
                "delimiter": " ",
                "user_column": "none",
                "time_column": "none",
                "split": "files",
                "record_order": "time",  # lines are; the tests are the sessions that follow
            },
            {"input": "train_sessions.txt*", "test_input": "test_sessions.txt*"},
        ),
    ),
}
