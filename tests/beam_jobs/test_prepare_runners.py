"""Where `seqrec prepare` runs: local processes, portable runners, Dataflow."""

import gzip
import random
import sys
from types import SimpleNamespace

import pytest
from small_logs import THREE_USERS, log

from beam_jobs import pipeline, prepare_sequences


def test_preparation_needs_no_tensorflow(tmp_path):
    """Which takes seconds to import, on every worker."""
    import subprocess

    (tmp_path / "events.csv").write_text(THREE_USERS)
    (tmp_path / "items.csv").write_text("item_id,name\na,Apple\n")
    (tmp_path / "users.csv").write_text("user_id,age\nu,5\n")
    code = (
        "import sys\n"
        "from seqrec_tf import cli\n"
        "status = cli.main(['prepare', *sys.argv[1:]])\n"
        "loaded = {'tensorflow', 'keras'} & sys.modules.keys()\n"
        "sys.exit(' '.join(sorted(loaded)) or status)\n"
    )
    options = f"--input {tmp_path}/events.csv --items {tmp_path}/items.csv --users {tmp_path}/users.csv"
    command = [sys.executable, "-c", code, *options.split(), "--output", str(tmp_path / "dataset")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_several_local_workers_are_processes():
    from apache_beam.options.pipeline_options import DirectOptions

    options = prepare_sequences.beam_options(["--direct_num_workers=2"], "prepare")
    prepare_sequences.local_runner(options)
    assert options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    options = prepare_sequences.beam_options(
        ["--direct_num_workers=2", "--direct_running_mode=multi_threading"], "prepare"
    )
    prepare_sequences.local_runner(options)
    assert options.view_as(DirectOptions).direct_running_mode == "multi_threading"


@pytest.mark.parametrize("workers", ["", pytest.param("--direct_num_workers=2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
def test_a_worker_that_fails_names_the_file_in_one_sentence(prepare, tmp_path, workers, suffix):
    path = tmp_path / f"broken{suffix}"
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        columns = {"user_id": ["u"] * 5000, "item_id": [f"i{k * k % 997}" for k in range(5000)]}
        columns["timestamp"] = list(range(5000))
        parquet.write_table(pyarrow.table(columns), path, compression="gzip", row_group_size=2500)
        content = bytearray(path.read_bytes())
        start = parquet.read_metadata(path).row_group(1).column(0).dictionary_page_offset
        content[start : start + 2000] = bytes(2000)
        path.write_bytes(content)
        expected = " cannot be read: "
    else:
        whole = gzip.compress(log(*(f"u{k} i{k * k % 997} {k}" for k in range(5000))).encode())
        path.write_bytes(whole[: len(whole) // 2])
        expected = " is damaged: Compressed file ended before the end-of-stream marker was reached."
    outcome = prepare([], "--input", str(path), workers)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith(f"seqrec prepare: {path}{expected}")


def test_the_seconds_of_a_part_are_those_of_all_steps_whatever_a_runner_knows():
    def counter(name, committed, attempted):
        key = SimpleNamespace(metric=SimpleNamespace(name=name))
        return SimpleNamespace(key=key, committed=committed, attempted=attempted)

    counters = [
        counter("reading", None, 1_000_000_000),
        counter("reading", 500_000_000, 500_000_000),
        counter("writing", None, None),
        counter("rejected events: empty user id", 7, 7),
    ]
    assert prepare_sequences.seconds_of_parts(counters) == {"reading": 1.5, "writing": 0.0}


def test_the_last_exception_of_a_worker_is_its_sentence():
    text = (
        "bundle failed: Traceback (most recent call last):\n  File x\nOSError: [Errno 28] No space\n\n"
        "During handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
        "  File y\nRuntimeError: shop/train/part-0 cannot be written: No space. [while running 'Prepare/Write']\n"
    )
    assert prepare_sequences.sentence_of(text) == "shop/train/part-0 cannot be written: No space."
    assert prepare_sequences.sentence_of("no luck [while running 'Prepare/Read']") == "no luck"


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(prepare):
    text = log(*(f"u{k % 37} i{k * k % 101} {k}" for k in range(3000)))
    options = ["--range-bytes", "2000", "--num-shards", "2"]
    one = prepare(text, *options, output="one")
    two = prepare(text, *options, "--direct_num_workers=2", "--direct_running_mode=multi_processing", output="two")
    assert two.status == 0, two.err
    assert two.folder.fingerprint == one.folder.fingerprint
    assert (two.output / "stats.json").read_bytes() == (one.output / "stats.json").read_bytes()


def plan_for(tmp_path, output):
    from beam_jobs.options import Options, TableOptions
    from beam_jobs.pipeline import make_plan

    (tmp_path / "events.csv").write_text(THREE_USERS)
    (tmp_path / "items.csv").write_text("item_id,name\na,Apple\n")
    return make_plan(
        Options(
            input=(str(tmp_path / "*events.csv"),),
            items=TableOptions("item", files=(str(tmp_path / "items.csv"),), id_column="item_id"),
            output=output,
            require_items=True,
            min_item_events=2,
            filter_rounds=2,
            max_length=10,
        ),
        output,
    )


def test_the_graph_serialises_for_a_portable_runner(tmp_path):
    import apache_beam as beam

    from beam_jobs.pipeline import PrepareSequences

    pipeline = beam.Pipeline()
    pipeline | "Prepare" >> PrepareSequences(plan_for(tmp_path, "gs://bucket/dataset"))
    proto = pipeline.to_runner_api()
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {"Prepare/Events/Read", "Prepare/Filter 2", "Prepare/Write items", "Prepare/Finish"} <= names
    assert beam.Pipeline.from_runner_api(proto, pipeline.runner, pipeline.options)
    # Whatever the workers unpickle comes from the package that --setup_file installs there, not from __main__.
    assert b"__main__" not in proto.SerializeToString()


def test_the_dataflow_job_builds(tmp_path):
    pytest.importorskip("google.cloud.dataflow", reason="needs apache-beam[gcp]")
    apiclient = pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient", reason="needs apache-beam[gcp]")
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_jobs.pipeline import PrepareSequences

    # The job as DataflowRunner makes it, stopping before it asks Google for anything.
    options = PipelineOptions(
        ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t", "--job_name=prepare"]
    )
    pipeline = beam.Pipeline("FnApiRunner", options=options)
    pipeline | "Prepare" >> PrepareSequences(plan_for(tmp_path, "gs://bucket/dataset"))
    job = apiclient.Job(options, pipeline.to_runner_api())
    assert job.proto.type.name == "JOB_TYPE_BATCH"
    steps = {transform.unique_name for transform in job.proto_pipeline.components.transforms.values()}
    assert "Prepare/Finish" in steps


def test_dataflow_needs_the_package_on_its_workers():
    from beam_jobs.prepare_sequences import beam_options, check_reachable

    options = ["--runner", "DataflowRunner"]
    with pytest.raises(ValueError, match=r"Dataflow's workers need this package: give --setup_file"):
        check_reachable(beam_options(options, "prepare"), {"output": ["gs://bucket/shop"]})
    for given in ("--setup_file=./setup.py", "--sdk_container_image=image", "--extra_package=seqrec_tf.whl"):
        check_reachable(beam_options([*options, given], "prepare"), {"output": ["gs://bucket/shop"]})


@pytest.mark.parametrize(
    "options",
    [
        "--min-item-events 2 --min-user-events 3 --filter-rounds 2 --duplicates consecutive",
        "--session-column visit --split last-days --test-days 2 --valid-days 2 --record-order time --num-shards 3",
        "--users users.csv --items items.csv --split time --test-from 1700500000 --unseen-items drop --num-shards 2",
        "--hold-out-items 0.2 --valid-share 0.5 --max-events 5",
    ],
)
def test_nothing_depends_on_the_number_of_buckets(prepare, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    rows = [
        f"u{rng.randrange(60)} i{rng.randrange(80)} {1_700_000_000 + rng.randrange(600_000)} v{k // 9}"
        for k in range(1500)
    ]
    text = log(*rows, header="user_id,item_id,timestamp,visit\n")
    (tmp_path / "users.csv").write_text("user_id,age\n" + "".join(f"u{k},{k}\n" for k in range(0, 70, 2)))
    (tmp_path / "items.csv").write_text("item_id,price\n" + "".join(f"i{k},{k / 4}\n" for k in range(0, 90, 3)))
    one = prepare(text, options, output="one")
    monkeypatch.setattr(pipeline, "_BUCKET_BYTES", 3_000)
    many = prepare(text, options, "--range-bytes 5000", output="many")
    assert (one.status, many.status) == (0, 0), many.err
    assert many.folder.fingerprint == one.folder.fingerprint
    assert many.stats | {"options": None} == one.stats | {"options": None}
