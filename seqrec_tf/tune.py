"""Search for the best configuration of a model: many trainings, each with options drawn from a space.

A space is a TOML file whose keys are options, as `--set` names them:

  "model.dim" = [32, 64, 128]                                          one of these
  "model.dropout_rate" = {low = 0.0, high = 0.5}                       a number between
  "train.learning_rate" = {low = 1e-4, high = 1e-2, log = true}        the same, by its logarithm
  "model.num_blocks" = {low = 1, high = 3}                             an integer, as both ends are

Each trial is a process of its own and a run folder, OUTPUT/trials/NAME. Options are drawn by TPE, which learns from
the trials before; a trial whose validation figure is below the median of the others' at the same epoch is stopped. The
same command goes on with an interrupted search, and its trials with theirs. OUTPUT/best.toml is what `seqrec train
--config` takes; OUTPUT/report.html shows the trials, and how much each option matters.

Example:
  seqrec tune --dataset shop --model sasrec --space space.toml --output search --trials 30 --jobs 2
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seqrec_tf import run_folder as run_lib
from seqrec_tf.config import check_at_least, check_choice, read_toml, resolve
from seqrec_tf.messages import next_command
from seqrec_tf.options import config_class, module_of
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import local_path
from seqrec_tf.runs import columns
from seqrec_tf.writing import write_whole

if TYPE_CHECKING:
    import optuna

BEST_FILE, TRIALS_FOLDER, STUDY_FILE, SPACE_FILE = "best.toml", "trials", "study.log", "space.json"
_VALIDATION = "val_"
# Trials before any is stopped, and epochs that each may take before it is.
_NEVER_STOPPED, _LEAST_EPOCHS = 5, 3
_POLL_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--dataset", required=True, metavar="DATASET", help="folder made by `seqrec prepare`")
    parser.add_argument("--model", required=True, metavar="NAME", help="as of `seqrec train`")
    parser.add_argument("--space", required=True, metavar="FILE", help="TOML with the options to search, see above")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the search, or to go on with")
    parser.add_argument(
        "--trials", type=int, default=20, help="in all, those of an interrupted search too (default 20)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time (default 1)")
    parser.add_argument("--config", metavar="FILE", help="TOML of what is the same in all trials, as of `seqrec train`")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="more of what is the same in all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws; with one job the same search again")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments."""
    check_at_least("--trials", args.trials, 1)
    check_at_least("--jobs", args.jobs, 1)
    check_at_least("--seed", args.seed, 0)
    local_path(args.output, "--output")
    names = read_space(args.space)
    module_of(args.model)
    if options := config_class(args.model):
        toml = pathlib.Path(args.config).read_text(encoding="utf-8") if args.config else ""
        config = resolve(args.model, options, toml=toml, toml_name=args.config or "", settings=args.set)
        sections = dataclasses.asdict(config)
        for name in names:
            section, _, key = name.partition(".")
            check_choice(f"{args.space}: the section of {name}", section, ("model", "data", "train"))
            check_choice(f"{args.space}: the key of [{section}]", key, sections[section])
    if "://" not in args.dataset:
        DatasetFolder(args.dataset)


def run(args: argparse.Namespace) -> None:
    """Search, and show the best trials."""
    space = read_space(args.space)
    words = ["--dataset", args.dataset, "--model", args.model, *(["--config", args.config] if args.config else [])]
    search = Search(local_path(args.output, "--output"), space, words, args.set, seed=args.seed)
    search.run(args.trials, jobs=args.jobs, log=lambda line: print(line, flush=True))  # noqa: T201
    best = search.finish()
    sys.stdout.write(table(search.trials(), space) + "\n" + _importance_line(search.importances()))
    sys.stdout.write(f"best: {search.path / TRIALS_FOLDER / best.name}\n")
    words = ["--dataset", args.dataset, "--model", args.model, "--config", search.path / BEST_FILE]
    sys.stdout.write(next_command("train", *words, "--output", "RUN"))


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that an option may take.

    Attributes:
        choices: These; empty where the option is a number between `low` and `high`.
        low: The least; an integer where the option is one.
        high: The greatest.
        log: Whether numbers are drawn by their logarithm.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def draw(self, trial: optuna.Trial, name: str) -> Any:
        """A value for a trial."""
        if self.choices:
            # Optuna takes no lists as choices.
            return json.loads(trial.suggest_categorical(name, [json.dumps(choice) for choice in self.choices]))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def read_space(path: str) -> dict[str, Range]:
    """The space of a TOML file: option to the values that it may take.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no TOML, is empty, or an option has neither choices nor two ends.
    """
    file = local_path(path, "--space")
    if not file.is_file():
        raise FileNotFoundError(f"--space {file}: there is no such file. `seqrec tune --help` shows one.")
    values = read_toml(file.read_text(encoding="utf-8"), str(file))
    space = {name: _range(name, value, file) for name, value in _flat(values).items()}
    if not space:
        raise ValueError(f'{file} names no option. Give some, such as "model.dim" = [32, 64].')
    return space


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """`[model]` with `dim = ...` is the same as `"model.dim" = ...`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and "." not in name:
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _range(name: str, value: Any, file: pathlib.Path) -> Range:
    if isinstance(value, list) and value:
        return Range(choices=tuple(value))
    if isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
        found = Range(**value)
        if found.low > found.high or (found.log and found.low <= 0):
            raise ValueError(f"{file}: {name} must have low <= high, and low > 0 where log is true, got {value}.")
        return found
    raise ValueError(
        f"{file}: {name} must be a list of choices, or {{low = ..., high = ...}}, log = true beside them or not, got "
        f"{value!r}."
    )


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        name: Its folder's name in OUTPUT/trials.
        state: "complete", "stopped" (others did better at the same epoch), "failed" or "running".
        options: What was drawn.
        figure: The best validation figure; None where there is none.
        epochs: Epochs that it took.
        seconds: That it took.
    """

    name: str
    state: str
    options: dict[str, Any]
    figure: float | None
    epochs: int
    seconds: float


class Search:
    """A search in a folder.

    Optuna keeps its state in a journal file, which several processes may share and which a killed one leaves whole.

    Args:
        path: The folder.
        space: Option to the values that it may take.
        words: Arguments of `seqrec train` that all trials share.
        settings: `--set` of all trials.
        seed: Of the draws.

    Raises:
        ValueError: The folder is of a search in another space, or with other options.
        ModuleNotFoundError: Optuna is not installed.
    """

    def __init__(
        self, path: pathlib.Path, space: Mapping[str, Range], words: list[str], settings: list[str], *, seed: int = 0
    ):
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("seqrec tune needs Optuna: pip install 'seqrec_tf[tune]'.") from error
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.path, self._space, self._words, self._settings = path, dict(space), words, settings
        (path / TRIALS_FOLDER).mkdir(parents=True, exist_ok=True)
        self._check_same()
        self._study = optuna.create_study(
            study_name="search",
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path / STUDY_FILE))),
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_NEVER_STOPPED, n_warmup_steps=_LEAST_EPOCHS),
            direction="maximize",
            load_if_exists=True,
        )
        for trial in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # of a process that was killed
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            self._study.enqueue_trial(trial.params)

    def _check_same(self) -> None:
        """Raise a ValueError where the folder is of another search; note this one in a new folder."""
        ranges = {name: dataclasses.asdict(found) for name, found in self._space.items()}
        what = json.loads(json.dumps({"space": ranges, "train": self._words, "set": self._settings}))
        file = self.path / SPACE_FILE
        if not file.exists():
            write_whole(file, json.dumps(what, indent=2) + "\n")
        elif (before := json.loads(file.read_text(encoding="utf-8"))) != what:
            differing = [name for name in what if before.get(name) != what[name]]
            raise ValueError(
                f"{self.path} is of a search that differs in {', '.join(differing)}. Choose another --output, or give "
                "the arguments that it was started with."
            )

    def run(self, trials: int, *, jobs: int = 1, log=lambda line: None) -> None:
        """Run trials until there are so many in all, some at the same time."""
        import optuna

        done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        left = trials - len(self._study.get_trials(deepcopy=False, states=done))
        if 0 < left < trials:
            log(f"Going on after {trials - left} of {trials} trials.")
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(self._one, log) for _ in range(max(0, left))]
            try:
                for future in concurrent.futures.as_completed(waiting):
                    future.result()
            except BaseException:
                for future in waiting:
                    future.cancel()
                raise

    def _one(self, log) -> None:
        """Draw a trial, train it in a process, and tell the study what came of it."""
        import optuna

        trial = self._study.ask()
        options = {name: found.draw(trial, name) for name, found in self._space.items()}
        # The same options are the same run, which is not trained twice, and goes on where it was stopped.
        name = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]
        trial.set_user_attr("name", name)
        settings = [*self._settings, *(f"{option}={json.dumps(value)}" for option, value in options.items())]
        output = self.path / TRIALS_FOLDER / name
        started = time.monotonic()
        if not (output / run_lib.METRICS_FILE).exists():
            words = ["train", *self._words, "--output", str(output), "--no-report", "--set", *settings]
            state, said = self._train(words, output, trial)
        else:
            state, said = optuna.trial.TrialState.COMPLETE, ""
        figures = _figures(output)
        trial.set_user_attr("epochs", len(figures))
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        if state == optuna.trial.TrialState.FAIL or not figures:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise RuntimeError(
                f"The trial with {shlex.join(settings)} failed: {said or 'it has no validation figure.'}"
            )
        self._study.tell(trial, max(figures) if state != optuna.trial.TrialState.PRUNED else None, state=state)
        word = "stopped at" if state == optuna.trial.TrialState.PRUNED else "best"
        log(f"trial {trial.number}: {word} {max(figures):.4f}, {len(figures)} epochs, {', '.join(settings)}")

    def _train(self, words: list[str], output: pathlib.Path, trial):
        """Train in a process, and stop it where others did better; returns the trial's state and the error, if any."""
        import optuna

        with (output.parent / f"{output.name}.txt").open("w+", encoding="utf-8") as said:
            process = subprocess.Popen([sys.executable, "-m", "seqrec_tf.cli", *words], stdout=said, stderr=said)
            told = 0
            try:
                while process.poll() is None:
                    time.sleep(_POLL_S)
                    figures = _figures(output)
                    for epoch in range(told, len(figures)):
                        trial.report(max(figures[: epoch + 1]), epoch + 1)
                    told = len(figures)
                    if told and trial.should_prune():
                        return optuna.trial.TrialState.PRUNED, ""
            finally:
                process.terminate()
                process.wait()
            if process.returncode == 0:
                return optuna.trial.TrialState.COMPLETE, ""
            said.seek(0)
            lines = said.read().strip().splitlines()
            return optuna.trial.TrialState.FAIL, lines[-1] if lines else f"status {process.returncode}"

    def trials(self) -> list[Trial]:
        """The trials so far, the best first; those without a figure last."""
        import optuna

        words = {
            optuna.trial.TrialState.COMPLETE: "complete",
            optuna.trial.TrialState.PRUNED: "stopped",
            optuna.trial.TrialState.FAIL: "failed",
        }
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            name = trial.user_attrs.get("name")
            if name is None:
                continue
            options = {
                option: json.loads(value) if self._space[option].choices else value
                for option, value in trial.params.items()
            }
            figures = _figures(self.path / TRIALS_FOLDER / name)
            attributes = {key: trial.user_attrs.get(key, 0) for key in ("epochs", "seconds")}
            state = words.get(trial.state, "running")
            found.append(Trial(name, state, options, max(figures, default=None), **attributes))
        unique = {trial.name: trial for trial in found}.values()
        return sorted(unique, key=lambda trial: (trial.figure is None, -(trial.figure or 0.0)))

    def importances(self) -> dict[str, float]:
        """How much of what differs between the trials each option explains, the most first (fANOVA); shares of 1.

        Empty where there are too few trials to say.
        """
        import optuna

        complete = [trial for trial in self.trials() if trial.state == "complete"]
        if len(complete) < 4 or len({trial.figure for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}

    def finish(self) -> Trial:
        """Write the best configuration, and the page of the search; returns the best trial.

        Raises:
            RuntimeError: No trial has a figure.
        """
        from seqrec_tf.report.page import write_page

        trials = self.trials()
        best = next((trial for trial in trials if trial.state == "complete"), None)
        if best is None:
            raise RuntimeError(f"No trial of {self.path} is complete.")
        config = (self.path / TRIALS_FOLDER / best.name / run_lib.CONFIG_FILE).read_text(encoding="utf-8")
        write_whole(self.path / BEST_FILE, config)
        data = {
            "kind": "search",
            "title": self.path.name,
            "command": shlex.join(
                ["seqrec", "train", *self._words, "--config", str(self.path / BEST_FILE), "--output", "RUN"]
            ),
            "trials": [dataclasses.asdict(trial) for trial in trials],
            "importances": self.importances(),
        }
        write_page(data, self.path / "report.html")
        return best


def _figures(run: pathlib.Path) -> list[float]:
    """The validation figure of each epoch of a run so far, that which decides which epoch is the best."""
    from seqrec_tf.runs import read_log

    epochs = read_log(run / run_lib.LOG_FILE)
    names = [name for epoch in epochs[:1] for name in epoch if name.startswith(_VALIDATION)]
    # As the models order them: where there are several, NDCG decides.
    monitor = next((name for name in names if "ndcg@10" in name or name.endswith("auc")), names[0] if names else "")
    return [epoch[monitor] for epoch in epochs if monitor in epoch]


def table(trials: list[Trial], space: Mapping[str, Range], *, most: int = 10) -> str:
    """The best trials as text."""
    rows = [["trial", "figure", "epochs", "state", *space]]
    for trial in trials[:most]:
        figure = "-" if trial.figure is None else f"{trial.figure:.4f}"
        values = [_shown(trial.options.get(option)) for option in space]
        rows.append([trial.name, figure, str(trial.epochs), trial.state, *values])
    return columns(rows, left=1)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importance_line(importances: Mapping[str, float]) -> str:
    if not importances:
        return ""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
    return f"What matters, by its share of the differences between trials: {shares}\n"
