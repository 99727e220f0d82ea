"""Texts and images of items to vectors, with TF Hub encoders and Apache Beam.

Reads the items of a dataset folder, encodes a text column and an image column each with a SavedModel (a TF Hub handle
or a local folder), and writes the vectors to `vectors/` in the dataset folder: models then read them as the features
NAME_vector, where NAME is the column. What was encoded before, by the same encoder from the same text or image, is not
encoded again. An image that is missing or broken, and an empty text, are rejected one by one, with the reason: such
items train with a learned vector.

Encoders: text takes string [batch], images float32 [batch, size, size, 3] in [0, 1]; both give float32 [batch, n]. For
example https://tfhub.dev/google/universal-sentence-encoder/4 and
https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5 (--image-size 224).

Example:
  seqrec embed --dataset shop --text-encoder models/minilm --image-encoder models/vgg16-fc2 --image-folder photos
"""

from __future__ import annotations

import argparse
import os

from beam_jobs.beam_arguments import check_beam_arguments
from beam_jobs.options import flag
from seqrec_tf.messages import check_encoder
from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True
TAKES_BEAM_OPTIONS = True

_IMAGE_SIZE = 224


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--dataset", required=True, metavar="DATASET", help="folder made by `seqrec prepare --items`")
    parser.add_argument("--text-encoder", metavar="HANDLE", help="TF Hub handle or SavedModel folder")
    parser.add_argument("--text-feature", metavar="NAME", help="text column (default: the only one)")
    parser.add_argument("--image-encoder", metavar="HANDLE", help="TF Hub handle or SavedModel folder")
    parser.add_argument("--image-feature", metavar="NAME", help="image-path column (default: the only one)")
    parser.add_argument("--image-folder", metavar="DIR", help="what image paths are relative to")
    parser.add_argument("--image-size", type=int, help=f"pixels of a side (default {_IMAGE_SIZE})")
    parser.add_argument("--overwrite", action="store_true", help="replace the vectors of another encoder")
    parser.epilog = "Other options go to Beam, as for `seqrec prepare`."


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments by themselves, without Beam and TensorFlow."""
    check_beam_arguments(args.beam_options, "embed", vars(args))
    if not args.text_encoder and not args.image_encoder:
        raise ValueError("Give --text-encoder, --image-encoder or both.")
    if args.image_size is not None and args.image_size < 1:
        raise ValueError(f"--image-size must be at least 1, got {args.image_size}.")
    for name, encoder in (
        ("text_feature", "text_encoder"),
        ("image_feature", "image_encoder"),
        ("image_folder", "image_encoder"),
        ("image_size", "image_encoder"),
    ):
        if getattr(args, name) is not None and not getattr(args, encoder):
            raise ValueError(f"{flag(name)} needs {flag(encoder)}.")
    if "://" not in args.dataset:
        folder = DatasetFolder(args.dataset)
        for kind, encoder, name in (
            ("text", args.text_encoder, args.text_feature),
            ("image-path", args.image_encoder, args.image_feature),
        ):
            if encoder:
                feature_of(folder, kind, name)
    for encoder in filter(None, (args.text_encoder, args.image_encoder)):
        check_encoder(encoder)
    if args.image_folder and "://" not in args.image_folder and not os.path.isdir(args.image_folder):
        raise FileNotFoundError(f"--image-folder {args.image_folder}: there is no such folder.")


def feature_of(folder: DatasetFolder, kind: str, name: str | None) -> str:
    """The column to encode: the one that is named or, without a name, the only one of its kind.

    Raises:
        ValueError: There is no such column, or none was named of several.
    """
    names = [feature.name for feature in folder.schema.item_features if feature.kind == kind]
    option = "--text-feature" if kind == "text" else "--image-feature"
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        there = f"there are: {', '.join(names)}" if names else f"prepare it with --item-feature NAME:{kind}"
        raise ValueError(f"{option} must name a column of the kind {kind} of {folder.path}, got {name}; {there}.")
    return name


def run(args: argparse.Namespace) -> None:
    """Embed what is asked for."""
    from beam_jobs import import_beam

    import_beam()
    from beam_jobs import embed_items

    folder = DatasetFolder(args.dataset)
    args.text_feature = feature_of(folder, "text", args.text_feature) if args.text_encoder else None
    args.image_feature = feature_of(folder, "image-path", args.image_feature) if args.image_encoder else None
    args.image_size = args.image_size or _IMAGE_SIZE
    args.image_folder = args.image_folder or ""
    embed_items.run(args)
