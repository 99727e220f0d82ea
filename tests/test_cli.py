import json
import os
import pathlib
import re
import subprocess
import sys
import time
import types

import pytest

import seqrec_tf
from seqrec_tf import cli

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def command(monkeypatch):
    """A function that makes `seqrec work` run a function; the module takes --number too."""

    def install(run, **attributes):
        module = types.ModuleType("fake_work", "Do the work.\n\nExample:\n  seqrec work --number 3")
        module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=1)
        module.run = run
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, "fake_work", module)
        monkeypatch.setitem(cli.COMMANDS, "work", ("fake_work", "works"))

    return install


def fails_with(error):
    """A command that raises."""

    def run(args):
        del args
        raise error

    return run


def seconds_of_help():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "seqrec_tf.cli", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.startswith("usage: seqrec COMMAND")
    return time.perf_counter() - start


def test_help_answers_at_once():
    assert min(seconds_of_help() for _ in range(3)) < 0.3


def test_help_imports_no_command():
    code = (
        "import sys\n"
        "from seqrec_tf import cli\n"
        "status = cli.main(['--help'])\n"
        "loaded = {'tensorflow', 'keras', 'numpy', 'apache_beam', 'uvicorn', 'beam_jobs', 'serving'}\n"
        "sys.exit(' '.join(loaded & sys.modules.keys()) or status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(argv, capsys):
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    for name in ("demo", "prepare", "embed", "analyze", "train", "evaluate", "export", "serve", "recommend"):
        assert f"\n  {name:<15} {cli.COMMANDS[name][1]}\n" in out


def test_the_version_is_the_package_s(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"seqrec_tf {seqrec_tf.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_is_its_usage_and_its_docstring(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: seqrec {name}")
    assert sys.modules[cli.COMMANDS[name][0]].__doc__.strip() in out


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == "seqrec: no command 'trian'; did you mean `train`?\n"


def test_an_unknown_command_like_no_other_lists_the_commands(capsys):
    assert cli.main(["xyzzy"]) == 2
    assert "choose one of demo, prepare, embed, analyze, train" in capsys.readouterr().err


def test_a_command_gets_its_arguments(command):
    seen = []
    command(lambda args: seen.append(args.number))
    assert cli.main(["work", "--number", "3"]) == 0
    assert seen == [3]


@pytest.mark.parametrize(
    "arguments", [["--nubmer", "3"], ["--num", "3"], ["--number", "three"], ["--number"], ["stray"]]
)
def test_wrong_arguments_exit_with_2(command, arguments, capsys):
    command(fails_with(AssertionError("the command ran")))
    assert cli.main(["work", *arguments]) == 2
    assert "seqrec work: error: " in capsys.readouterr().err


def test_only_a_beam_command_takes_options_that_it_does_not_know(command):
    seen = []
    command(lambda args: seen.append(args.beam_options), TAKES_BEAM_OPTIONS=True)
    assert cli.main(["work", "--number", "3", "--runner", "DataflowRunner"]) == 0
    assert seen == [["--runner", "DataflowRunner"]]


@pytest.mark.parametrize(
    "error",
    [ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError],
)
def test_wrong_input_is_one_sentence_and_exit_2(command, error, capsys):
    command(fails_with(error("model.dim must be\n  positive, got -1.")))
    assert cli.main(["work"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "seqrec work: model.dim must be positive, got -1.\n"
    assert captured.out == ""


def test_an_error_of_keras_says_how_to_see_where(command, capsys):
    import keras

    command(lambda args: keras.layers.Dense(1, activation="no such thing"))
    assert cli.main(["work"]) == 2
    assert capsys.readouterr().err.endswith("(--debug shows where)\n")


def test_a_file_that_the_system_refuses_is_named(command, capsys, tmp_path):
    command(lambda args: (tmp_path / "nowhere").read_text())
    assert cli.main(["work"]) == 2
    assert capsys.readouterr().err == f"seqrec work: No such file or directory: {tmp_path}/nowhere\n"
    command(fails_with(OSError(28, "No space left on device")))
    assert cli.main(["work"]) == 1
    assert capsys.readouterr().err == "seqrec work: No space left on device\n"


def test_debug_shows_the_traceback_before_the_sentence(command, capsys):
    command(fails_with(ValueError("wrong")))
    assert cli.main(["work", "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("seqrec work: wrong\n")


def test_an_error_may_have_an_exit_status_of_its_own(command, capsys):
    error = RuntimeError("stopped, and saved")
    error.exit_status = 143
    command(fails_with(error))
    assert cli.main(["work"]) == 143
    assert capsys.readouterr().err == "seqrec work: stopped, and saved\n"


def test_a_failure_of_the_work_exits_with_1_and_its_sentence(command, capsys):
    command(fails_with(RuntimeError("the disk is full")))
    assert cli.main(["work"]) == 1
    assert capsys.readouterr().err == "seqrec work: the disk is full\n"


def test_an_unforeseen_error_exits_with_1_and_says_how_to_see_more(command, capsys):
    command(fails_with(KeyError("dim")))
    assert cli.main(["work"]) == 1
    assert capsys.readouterr().err == "seqrec work: KeyError: 'dim' (--debug shows where)\n"


def test_an_error_without_words_still_says_something(command, capsys):
    command(fails_with(ValueError()))
    assert cli.main(["work"]) == 2
    assert capsys.readouterr().err == "seqrec work: no message\n"


def test_an_interrupt_exits_as_a_shell_expects(command, capsys):
    command(fails_with(KeyboardInterrupt()))
    assert cli.main(["work"]) == 130
    assert capsys.readouterr().err == "seqrec work: interrupted\n"


def test_the_installed_command_exits_with_the_status_of_main():
    done = subprocess.run(
        [pathlib.Path(sys.executable).parent / "seqrec", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "seqrec: no command 'trian'; did you mean `train`?\n"


# Arguments that are wrong, of each command: what is given, and a piece of the sentence that answers.
WRONG = [
    ("demo --customers 3", "--customers must be at least 100"),
    ("demo --output {file}", "exists. Remove it"),
    ("prepare", "--input is missing"),
    ("prepare --input nowhere.csv --output out", "--input nowhere.csv matches no file."),
    ("prepare --input {file} --output out --user-colum x", "did you mean --user-column?"),
    ("prepare --input {file} --output out --split time", "--split time needs --test-from"),
    ("prepare --input {file} --output out --preset movielens", "Did you mean 'movielens-1m'?"),
    ("prepare --input {file} --output {dataset}", "exists already"),
    ("embed --dataset {run} --text-encoder e", "is not a dataset folder: it is a run folder."),
    ("embed --dataset {dataset}", "Give --text-encoder, --image-encoder or both."),
    ("embed --dataset {dataset} --text-encoder e --image-size 9", "--image-size needs --image-encoder."),
    ("embed --dataset {dataset} --text-encoder e", "--text-feature must name a column of the kind text"),
    ("analyze --dataset nowhere", "is not a dataset folder: there is no such folder."),
    ("analyze --dataset {dataset} --split valid", "it needs --run"),
    ("train --dataset {dataset} --model sasrek --output out", "Did you mean 'sasrec'?"),
    ("train --dataset {dataset} --model sasrec --output out --set model.dmi=3", "Did you mean 'dim'?"),
    ("train --dataset {dataset} --model sasrec --output out --set model.dim=3 model.num_heads=2", "must divide"),
    ("train --dataset {dataset} --model sasrec --output out --set model.activation=gelo", "Did you mean 'gelu'?"),
    ("train --dataset {dataset} --model gru4rec --output out --config {toml}", "wrong.toml, line 3: Unknown"),
    ("train --dataset {dataset} --model sasrec --output {run}", "holds a finished run"),
    ("train --dataset {dataset} --model sasrec --output {dataset}", "holds something else than a run"),
    ("evaluate --run {dataset}", "is not a run folder: it is a dataset folder."),
    ("evaluate --rnu {run}", "--rnu is no option; did you mean --run?"),
    ("evaluate --run {run} --protocol labels", "--protocol labels needs labels"),
    ("evaluate --run {run} --protocol uniform-100 --keep-history", "--keep-history is of the protocol full"),
    ("export --run {run} --output m --image-folder x", "--image-folder needs --items."),
    ("export --run {run} --output {dataset}", "is a dataset folder; name the folder of one model"),
    ("export --run {run} --output m --k 0", "--k must be from 1 to the number of items"),
    ("serve --models {run}", "is a run folder. Make one with"),
    ("serve --models nowhere", "there is no such folder"),
    ("recommend --model m", "There is no history"),
    ("recommend --model m --history a --name-feature title", "--name-feature needs --dataset"),
    ("recommend --model m --history a --dataset {run}", "is not a dataset folder: it is a run folder."),
    ("canary start --config {toml} --model m", "`start` needs --version"),
    ("canary promote --config {toml} --model m", "`promote` asks golden requests: give --models"),
    ("canary pin --config nowhere --model m", "--config must name a file, nowhere is none."),
    ("check --url localhost --model m --models {run}", "is a run folder. Make one with"),
    ("report --run {dataset}", "is not a run folder: it is a dataset folder."),
    (
        "tune --dataset {dataset} --model sasrec --output s --space {toml}",
        "wrong.toml: model.units must be a list of choices",
    ),
    ("runs {file}", "is not a folder. Give the one that holds your runs"),
    ("compare {run} {dataset}", "is not a run folder: it is a dataset folder."),
    (
        "batch-recommend --model {run} --dataset {dataset} --output lists.jsonl",
        "is not an exported model, MODELS/NAME: it is a run folder.",
    ),
    ("batch-recommend --model m --dataset {dataset} --output lists.csv", "--output must end in one of .parquet, "),
]


def test_wrong_arguments_are_answered_before_anything_heavy_is_imported(finished, chain_dataset, tmp_path):
    run, _ = finished
    (tmp_path / "wrong.toml").write_text("[model]\nunits = 3\nlayers = 2\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n")
    paths = {
        "run": run.path,
        "dataset": chain_dataset,
        "toml": tmp_path / "wrong.toml",
        "file": tmp_path / "events.csv",
    }
    lines = [[word.format(**paths) for word in line.split()] for line, _ in WRONG]
    code = (
        "import contextlib, io, json, sys\n"
        "from seqrec_tf import cli\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        status = cli.main(words)\n"
        "    heavy = [name for name in ('tensorflow', 'keras', 'apache_beam', 'pyarrow') if name in sys.modules]\n"
        "    print(json.dumps([status, said.getvalue(), heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (line, piece), (status, said, heavy) in zip(WRONG, answers, strict=True):
        assert (status, heavy) == (2, []), f"seqrec {line}: {said}"
        assert piece in said, f"seqrec {line}: {said}"
        assert said.count("\n") == 1, f"seqrec {line}: {said}"


def test_every_command_is_given_a_wrong_argument():
    assert {line.split()[0] for line, _ in WRONG} == set(cli.COMMANDS)


def test_the_statuses_are_those_of_the_page_on_errors():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\d+) \| (.*?) \|", page, re.MULTILINE))
    assert {int(status): meaning for status, meaning in listed.items()} == cli.STATUSES


def test_a_command_may_answer_no(command):
    command(lambda args: cli.ANSWER_IS_NO)
    assert cli.main(["work"]) == 3


def test_what_is_wrong_with_arguments_is_said_before_the_work(command):
    command(fails_with(AssertionError("the command ran")), check=fails_with(ValueError("wrong")))
    assert cli.main(["work"]) == 2


def test_the_package_is_the_command_too():
    done = subprocess.run(
        [sys.executable, "-m", "seqrec_tf", "trian"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (2, "seqrec: no command 'trian'; did you mean `train`?\n")


def test_the_help_of_train_lists_the_options_of_a_model(capsys):
    assert cli.main(["train", "--help", "--model", "sasrec"]) == 0
    out = capsys.readouterr().out
    assert "[model] of sasrec" in out
    assert "\n  num_blocks = 2\n      Transformer blocks.\n" in out


def test_the_help_of_prepare_opens_with_the_options_that_matter(capsys):
    assert cli.main(["prepare", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.index("seqrec prepare --input events.csv") < out.index("  --input FILE") < out.index("  --delimiter")
    first = out[out.index("the ten options") : out.index("files:")]
    assert len(re.findall(r"^  --", first, re.MULTILINE)) == 10
