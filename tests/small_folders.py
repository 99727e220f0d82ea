"""Dataset folders that tests change by hand."""

import dataclasses
import pathlib

from seqrec_tf import manifest, records
from seqrec_tf import schema as schema_lib


def seal(path):
    """Write the manifest of a dataset folder anew, of what it holds now: what was changed is then meant."""
    import tensorflow as tf

    path = pathlib.Path(path)
    folders = (*schema_lib.SPLITS, schema_lib.ITEMS_FOLDER, schema_lib.VOCABULARIES_FOLDER)
    names = [f"{folder}/{file.name}" for folder in folders for file in path.glob(f"{folder}/*")]
    names += [name for name in (schema_lib.SCHEMA_FILE, schema_lib.STATS_FILE) if (path / name).exists()]
    files = manifest.of_folder(path, names)
    for name in [name for name in names if name.endswith(records.RECORD_SUFFIX)]:
        number = sum(1 for _ in tf.data.TFRecordDataset(str(path / name), records.COMPRESSION))
        files[name] = dataclasses.replace(files[name], records=number)
    (path / schema_lib.COMPLETED_FILE).write_text(manifest.to_json(manifest.DATASET, files))
