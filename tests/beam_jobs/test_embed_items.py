"""`seqrec embed`: texts and images to vectors, one by one, again only where they are new."""

import json
import shutil
import struct
import types
import zlib

import numpy as np
import pytest
import tensorflow as tf
from small_folders import seal

from beam_jobs import embed_items
from seqrec_tf import cli, encoders
from seqrec_tf.records import DatasetFolder

EVENTS = [f"u{user},i{item},{item}" for user in range(8) for item in range(user % 3, 8)]
SIZE = 8


class TextEncoder(tf.Module):
    """The length of a text and its number of words, times a factor."""

    def __init__(self, factor, dim=2):
        super().__init__()
        self.factor = tf.Variable(tf.fill([dim], factor))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        words = tf.cast(tf.strings.split(texts).row_lengths(), tf.float32)
        features = tf.stack([tf.cast(tf.strings.length(texts), tf.float32), words], axis=1)
        return tf.matmul(features, tf.ones([2, 1])) * self.factor


class ImageEncoder(tf.Module):
    """The mean colour."""

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)])
    def encode(self, images):
        return {"vectors": tf.reduce_mean(images, axis=[1, 2])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of encoders."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, factor, dim in (("text", 1.0, 2), ("other", 2.0, 2), ("wide", 1.0, 3), ("nan", float("nan"), 2)):
        tf.saved_model.save(TextEncoder(factor, dim), str(folder / name))
    images = ImageEncoder()
    tf.saved_model.save(images, str(folder / "image"), signatures={"serving_default": images.encode})
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A function that prepares a dataset of 8 items with these titles and photos, once."""
    datasets = {}

    def prepare(*columns):
        if columns not in datasets:
            path = tmp_path_factory.mktemp("prepared")
            (path / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(EVENTS) + "\n")
            rows = [f"i{item},{title},{photo}" for item, (title, photo) in enumerate(zip(*columns, strict=True))]
            (path / "items.csv").write_text("item_id,title,photo\n" + "\n".join(rows) + "\n")
            arguments = ["prepare", "--input", path / "events.csv", "--items", path / "items.csv", "--output"]
            arguments += [path / "dataset", "--item-feature", "title:text", "photo:image-path"]
            assert cli.main([str(argument) for argument in arguments]) == 0
            datasets[columns] = path / "dataset"
        return datasets[columns]

    return prepare


@pytest.fixture
def shop(prepared, tmp_path):
    """A function that gives a dataset of 8 items with these titles and photos, for a test to change."""

    def copy(titles, photos=("",) * 8):
        return shutil.copytree(prepared(tuple(titles), tuple(photos)), tmp_path / "dataset")

    return copy


TITLES = ["red shoe", "blue shoe", "a very long title", "x", "", "shoe", "hat", "cap"]


def embed(dataset, *arguments):
    return cli.main(["embed", "--dataset", str(dataset), *map(str, arguments)])


def vectors(dataset, name="title_vector"):
    """Item to vector."""
    folder = DatasetFolder(dataset)
    values = folder.item_values([name])[name]
    return {item: values[number].tolist() for number, item in enumerate(folder.item_ids, start=1)}


def about(dataset, column="title"):
    return DatasetFolder(dataset).vectors[column]


def rejected(dataset, column="title"):
    lines = (dataset / "vectors" / column / about(dataset, column)["rejected_file"]).read_text().splitlines()
    return {row["item"]: row["reason"] for row in map(json.loads, lines)}


def slow_vector(title, factor=1.0):
    return [factor * (len(title) + len(title.split()))] * 2 if title else [0.0, 0.0]


def test_each_text_gets_the_vector_of_its_encoder(shop, saved, capsys):
    dataset = shop(TITLES)
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    assert vectors(dataset) == {f"i{item}": slow_vector(title) for item, title in enumerate(TITLES)}
    assert rejected(dataset) == {"i4": "empty"}
    assert "title: 7 vectors of width 2" in capsys.readouterr().out
    described = about(dataset)
    assert (described["vectors"], described["reused"], described["rejected"]) == (7, 0, 1)
    assert (described["shortest"], described["longest"]) == pytest.approx((2 * 2**0.5, 21 * 2**0.5))
    feature = DatasetFolder(dataset).schema.item_features[-1]
    assert (feature.name, feature.kind, feature.shape) == ("title_vector", "vector", (2,))


def test_what_was_encoded_is_not_encoded_again(shop, saved):
    dataset = shop(TITLES)
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    before = vectors(dataset)
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    assert about(dataset)["reused"] == 7
    assert vectors(dataset) == before
    assert len(list((dataset / "vectors" / "title").iterdir())) == 3  # vectors, what was rejected, the encoder


def test_another_text_is_encoded_again_when_vectors_are_carried_over(shop, saved, tmp_path):
    dataset = shop(TITLES)
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    (dataset / "vectors").rename(tmp_path / "vectors")
    dataset.rename(tmp_path / "old")
    changed = ["new title", *TITLES[1:]]
    dataset = shop(changed)
    (tmp_path / "vectors").rename(dataset / "vectors")
    vocabulary = dataset / "vocabularies" / "item_id.txt"
    vocabulary.write_text(vocabulary.read_text().replace("i7\n", "i9\n"))  # an item that has gone, and a new one
    seal(dataset)
    assert vectors(dataset)["i9"] == [0.0, 0.0]
    vocabulary.write_text(vocabulary.read_text().replace("i9\n", "i7\n"))
    seal(dataset)
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    assert about(dataset)["reused"] == 6
    assert vectors(dataset)["i0"] == slow_vector("new title")


@pytest.mark.parametrize("encoder", ["other", "wide"])
def test_vectors_of_another_encoder_are_replaced_on_request_alone(shop, saved, encoder, capsys):
    dataset = shop(TITLES)
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    before = vectors(dataset)
    assert embed(dataset, "--text-encoder", saved / encoder) == 2
    assert "The vectors of title were made by another encoder" in capsys.readouterr().err
    assert vectors(dataset) == before
    assert embed(dataset, "--text-encoder", saved / encoder, "--overwrite") == 0
    assert about(dataset)["reused"] == 0
    assert vectors(dataset)["i0"] == ([20.0, 20.0] if encoder == "other" else [10.0, 10.0, 10.0])


def test_an_encoder_of_nans_leaves_the_vectors_that_there_were(shop, saved, capsys):
    dataset = shop(TITLES)
    assert embed(dataset, "--text-encoder", saved / "nan") == 1
    assert "7 the encoder gave NaN or infinite numbers; 1 empty. Each is in" in capsys.readouterr().err
    assert not DatasetFolder(dataset).vectors
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    before = vectors(dataset)
    assert embed(dataset, "--text-encoder", saved / "nan", "--overwrite") == 1
    assert "the vectors that were there still are" in capsys.readouterr().err
    assert vectors(dataset) == before


def test_a_mistyped_folder_of_images_leaves_the_vectors_that_there_were(shop, saved, tmp_path, capsys):
    (tmp_path / "grey.jpg").write_bytes(jpeg(128))
    dataset = shop(TITLES, ["grey.jpg", "gone.jpg", *[""] * 6])
    arguments = ["--image-encoder", saved / "image", "--image-size", SIZE, "--image-folder"]
    assert embed(dataset, *arguments, tmp_path) == 0
    before = vectors(dataset, "photo_vector")
    assert embed(dataset, *arguments, tmp_path / "grye") == 2
    assert f"--image-folder {tmp_path}/grye: there is no such folder." in capsys.readouterr().err
    (tmp_path / "grye").mkdir()
    assert embed(dataset, *arguments, tmp_path / "grye") == 1
    assert "6 empty; 2 there is no such file." in capsys.readouterr().err
    assert vectors(dataset, "photo_vector") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --text-encoder, --image-encoder or both."),
        (["--text-encoder", "nowhere"], "nowhere is no SavedModel: there is no nowhere/saved_model.pb"),
        (["--text-encoder", "{saved}/image"], "does not take string [batch]"),
        (["--image-encoder", "{saved}/text", "--image-size", "9"], "does not take float32 [batch, 9, 9, 3]"),
        (["--text-encoder", "{saved}/text", "--text-feature", "name"], "got name; there are: title"),
        (
            ["--text-encoder", "{saved}/text", "--colour", "red"],
            "is an option neither of seqrec embed",
        ),
    ],
)
def test_wrong_arguments_fail_before_any_work(shop, saved, arguments, message, capsys):
    dataset = shop(TITLES)
    assert embed(dataset, *[argument.format(saved=saved) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (dataset / "vectors").exists()


def test_a_folder_that_is_no_saved_model_is_refused(shop, tmp_path, capsys):
    dataset = shop(TITLES)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"not a model")
    assert embed(dataset, "--text-encoder", tmp_path / "broken") == 2
    assert "broken cannot be loaded" in capsys.readouterr().err


def test_an_encoder_that_needs_tensorflow_text_says_how_to_get_it(shop, saved, tmp_path, capsys):
    """Here an operation that no package has: the saved one's name with another letter."""
    dataset = shop(TITLES)
    model = shutil.copytree(saved / "text", tmp_path / "tokenizing") / "saved_model.pb"
    model.write_bytes(model.read_bytes().replace(b"StringLength", b"StringLengtX"))
    assert embed(dataset, "--text-encoder", tmp_path / "tokenizing") == 2
    error = capsys.readouterr().err
    assert "needs TensorFlow's operation StringLengtX, which is not there" in error
    assert "pip install 'seqrec_tf[text]'" in error


def jpeg(colour):
    return tf.io.encode_jpeg(tf.fill([30, 20, 3], tf.constant(colour, tf.uint8)), quality=95).numpy()


def huge_png():
    """The header of a PNG of 20,000 by 20,000 pixels, without any."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_images_are_encoded_and_broken_ones_rejected_one_by_one(shop, saved, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, [40, 40, 3]).astype(np.uint8)
    for name, content in {
        "grey.jpg": jpeg(128),
        "white.png": tf.io.encode_png(tf.fill([5, 9, 3], tf.constant(255, tf.uint8))).numpy(),
        "cut.jpg": tf.io.encode_jpeg(noise).numpy()[:-600],
        "text.jpg": b"I am no image",
        "empty.jpg": b"",
        "huge.png": huge_png(),
    }.items():
        (photos / name).write_bytes(content)
    (photos / "folder.jpg").mkdir()
    names = ["grey.jpg", "white.png", "cut.jpg", "text.jpg", "empty.jpg", "huge.png", "gone.jpg", "folder.jpg"]
    dataset = shop(TITLES, names)
    arguments = ["--image-encoder", saved / "image", "--image-size", SIZE, "--image-folder", photos]
    assert embed(dataset, *arguments) == 0
    of_photos = vectors(dataset, "photo_vector")
    assert of_photos["i0"] == pytest.approx([128 / 255] * 3, abs=0.02)
    assert of_photos["i1"] == pytest.approx([1.0] * 3, abs=1e-6)
    reasons = rejected(dataset, "photo")
    assert set(reasons) == {f"i{item}" for item in range(2, 8)}
    assert reasons["i2"].startswith("no image that can be decoded")
    assert reasons["i3"].startswith("no image that can be decoded: Unknown image file format.")
    assert reasons["i4"] == "the file is empty"
    assert reasons["i5"] == "the image has 400,000,000 pixels, more than 64,000,000"
    assert reasons["i6"].startswith("there is no such file: ")
    assert reasons["i7"].startswith("not a file but a folder: ")


def test_a_missing_image_is_told_before_it_is_opened(monkeypatch):
    """Remote file systems raise errors of their own where a file is not there, which must not fail the job."""

    def fails(path, **options):
        raise RuntimeError(f"404: {path}")

    monkeypatch.setattr(embed_items.FileSystems, "exists", lambda path: False)
    monkeypatch.setattr(embed_items.FileSystems, "open", fails)
    job = types.SimpleNamespace(image_folder="gs://bucket/photos")
    with pytest.raises(ValueError, match=r"there is no such file: gs://bucket/photos/gone\.jpg"):
        embed_items._read_image(job, "gone.jpg")


def test_a_grey_image_becomes_three_channels():
    content = tf.io.encode_png(tf.fill([3, 4, 1], tf.constant(51, tf.uint8))).numpy()
    np.testing.assert_allclose(encoders.decode_image(content, 2), np.full([2, 2, 3], 0.2), atol=1e-6)


def test_a_run_on_the_dataset_stays_valid_and_a_model_reads_the_vectors(shop, saved, tmp_path):
    dataset = shop(TITLES)
    small = ["model.dim=8", "model.num_blocks=1", "model.max_len=8", "train.epochs=1"]
    run = ["train", "--dataset", str(dataset), "--set", *small]
    assert cli.main([*run, "--model", "sasrec", "--output", str(tmp_path / "before")]) == 0
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    assert cli.main(["evaluate", "--run", str(tmp_path / "before")]) == 0
    assert cli.main([*run, "--model", "nova", "--output", str(tmp_path / "after")]) == 0
    assert (
        cli.main(["export", "--run", str(tmp_path / "after"), "--output", str(tmp_path / "models" / "s"), "--k", "3"])
        == 0
    )


def test_a_run_is_not_used_with_vectors_of_another_encoder(shop, saved, tmp_path, capsys):
    dataset = shop(TITLES)
    assert embed(dataset, "--text-encoder", saved / "text") == 0
    run = ["train", "--dataset", str(dataset), "--model", "sasrec", "--output", str(tmp_path / "run"), "--set"]
    run += ["model.dim=8", "model.num_blocks=1", "train.epochs=1", 'model.item_features=["title_vector"]']
    assert cli.main(run) == 0
    (tmp_path / "new.csv").write_text("item_id,title\nfresh,warm hat\n")
    export = ["export", "--run", str(tmp_path / "run"), "--items", str(tmp_path / "new.csv"), "--k", "3", "--output"]
    assert cli.main([*export, str(tmp_path / "models")]) == 0
    assert embed(dataset, "--text-encoder", saved / "other", "--overwrite") == 0
    assert cli.main([*export, str(tmp_path / "more")]) == 2
    assert "it differs in title_vector, which was made by another encoder" in capsys.readouterr().err
    assert embed(dataset, "--text-encoder", saved / "text", "--overwrite") == 0
    (saved / "text" / "assets" / "another").touch()  # the folder holds another model now
    try:
        assert cli.main([*export, str(tmp_path / "more")]) == 2
        assert "is another one than made the dataset's vectors of title" in capsys.readouterr().err
    finally:
        (saved / "text" / "assets" / "another").unlink()


@pytest.mark.slow
def test_the_text_encoder_at_hand_and_vgg16(shop, tmp_path, models_dir):
    """A real text encoder, and the 4,096 wide layer fc2 of VGG16 (without trained weights) for images."""
    import keras

    vgg = keras.applications.VGG16(weights=None)
    encoder = keras.Model(vgg.input, vgg.get_layer("fc2").output)
    encoder.export(str(tmp_path / "vgg16"))
    (tmp_path / "grey.jpg").write_bytes(jpeg(90))
    dataset = shop(TITLES, ["grey.jpg", *[""] * 7])
    arguments = ["--text-encoder", models_dir / "minilm-text-encoder", "--image-encoder", tmp_path / "vgg16"]
    assert embed(dataset, *arguments, "--image-folder", tmp_path) == 0
    assert (about(dataset)["dim"], about(dataset, "photo")["dim"]) == (384, 4096)
    of_titles = {item: np.array(vector) for item, vector in vectors(dataset).items()}
    assert of_titles["i0"] @ of_titles["i1"] > of_titles["i0"] @ of_titles["i6"]
