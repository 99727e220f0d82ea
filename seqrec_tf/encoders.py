"""Encoders of texts and images (TF Hub handles or SavedModel folders), and what they take."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

from seqrec_tf.messages import check_encoder

# An image of more pixels is not decoded: it would take gigabytes.
_MAX_PIXELS = 64_000_000


def load_encoder(handle: str):
    """A function from a batch (numpy) to a tensor of its vectors.

    Raises:
        ValueError: There is no SavedModel.
    """
    with contextlib.suppress(ImportError, tf.errors.NotFoundError):  # not there, or of another TensorFlow
        import tensorflow_text  # noqa: F401  (the tokenizers of many text encoders are its ops)
    check_encoder(handle)
    try:
        model = hub.load(handle)
    except Exception as error:
        if missing := re.search(r"Op type not registered '(\w+)'", str(error)):
            raise ValueError(
                f"The encoder {handle} needs TensorFlow's operation {missing[1]}, which is not there. Those of "
                "tokenizers come with tensorflow-text: pip install 'seqrec_tf[text]'"
            ) from error
        raise ValueError(f"The encoder {handle} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    signature: Any = getattr(model, "signatures", {}).get("serving_default")
    if not callable(model) and signature is None:
        raise ValueError(f"The encoder {handle} is not callable and has no signature `serving_default`.")

    def encode(batch):
        batch = tf.convert_to_tensor(batch)
        if callable(model):
            return model(batch)
        (name,) = signature.structured_input_signature[1]
        return next(iter(signature(**{name: batch}).values()))

    return encode


def identity_of(encoder: str, image_size: int = 0) -> str:
    """What tells one encoder from another: the handle, or a digest of a local folder; with the size of images."""
    identity = encoder
    if "://" not in encoder:
        digest = hashlib.sha256()
        for folder, _, files in sorted(os.walk(encoder)):
            for file in sorted(files):
                path = os.path.join(folder, file)
                digest.update(f"{os.path.relpath(path, encoder)} {os.path.getsize(path)}\n".encode())
                with open(path, "rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
        identity = digest.hexdigest()
    return f"{identity} at {image_size} pixels" if image_size else identity


def image_path(folder: str, path: str) -> str:
    """Where an image is, whose path is relative to a folder where it is relative at all."""
    return path if "://" in path or path.startswith("/") or not folder else f"{folder.rstrip('/')}/{path}"


def decode_image(content: bytes, size: int) -> np.ndarray:
    """An image file (JPEG, PNG, GIF, BMP) as float32 [size, size, 3] in [0, 1].

    Raises:
        ValueError: It is none, is broken, or is too large to decode.
    """
    if not content:
        raise ValueError("the file is empty")
    pixels = _png_pixels(content)
    if pixels > _MAX_PIXELS:
        raise ValueError(f"the image has {pixels:,} pixels, more than {_MAX_PIXELS:,}")
    try:
        if content[:2] == b"\xff\xd8":
            height, width, _ = tf.io.extract_jpeg_shape(content).numpy().tolist()
            if height * width > _MAX_PIXELS:
                raise ValueError(f"the image has {height * width:,} pixels, more than {_MAX_PIXELS:,}")
            # TensorFlow's other decoder fills up what a cut file lacks with grey, without a word.
            image = tf.io.decode_jpeg(content, channels=3, try_recover_truncated=False)
        else:
            image = tf.io.decode_image(content, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", error.message.splitlines()[0])
        raise ValueError(f"no image that can be decoded: {reason}") from None
    return (tf.image.resize(image, [size, size], antialias=True) / 255.0).numpy()


def _png_pixels(content: bytes) -> int:
    """Pixels that the header of a PNG file tells; 0 of other files."""
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        return 0
    width, height = struct.unpack(">II", content[16:24])
    return width * height
