"""The `seqrec` command: one subcommand a step, each living in the module that does the work.

A command module has `add_arguments(parser)` and `run(args)`, and a docstring that becomes its `--help`. Nothing but the
chosen module is imported, and it imports neither TensorFlow nor Beam before `run`, so `--help` and wrong arguments are
answered at once. What else it may have:

check(args)             raises for all that can be told of the arguments without these two
more_help(parser, argv) adds to the help what depends on the other arguments
NEEDS_TENSORFLOW        True: TensorFlow is imported between `check` and `run`, without its start-up chatter
TAKES_BEAM_OPTIONS      True: arguments that the parser does not know are in `args.beam_options`
USAGE                   the first line of the help, where a list of all options would be too long

`run` returns None where the work is done, or an exit status, such as `ANSWER_IS_NO`.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import seqrec_tf
from seqrec_tf.writing import FULL, REFUSED, trouble

# Command to (module, one line of help), in the order in which a newcomer needs them.
COMMANDS = {
    "demo": ("seqrec_tf.demo", "the whole path on a generated shop, in a few minutes, without a network"),
    "prepare": ("beam_jobs.prepare", "raw events to a dataset folder of TFRecords (Apache Beam)"),
    "embed": ("beam_jobs.embed", "texts and images of items to vectors, with TF Hub encoders (Apache Beam)"),
    "analyze": ("seqrec_tf.analyze", "what is in a dataset, what looks wrong, and whether the order says anything"),
    "train": ("seqrec_tf.train", "a dataset folder to a run folder with the best model"),
    "evaluate": ("seqrec_tf.evaluate", "ranking metrics of a run, beside popularity, with confidence intervals"),
    "report": ("seqrec_tf.report", "one HTML page about a run: figures, curves, segments, attention, items, examples"),
    "tune": ("seqrec_tf.tune", "many trainings with options drawn from a space: the best configuration (Optuna)"),
    "runs": ("seqrec_tf.runs", "all runs of a folder in one table, with the options in which they differ"),
    "compare": ("seqrec_tf.compare", "two runs on the same events: which is better, by how much, and for whom"),
    "check": (
        "seqrec_tf.check",
        "whether a folder is whole, by checksums; with --url, whether a server answers as it should",
    ),
    "export": ("seqrec_tf.export", "a run to a SavedModel for TF Serving"),
    "serve": ("serving.server", "models over REST and gRPC, with TF Serving's contract, on one machine"),
    "recommend": ("serving.client", "ask a server (this one or TF Serving) for recommendations"),
    "canary": ("serving.canary", "a new version beside the one that serves: start, promote, roll back, by labels"),
    "batch-recommend": ("beam_jobs.batch_recommend", "everyone's list by an exported model, to files (Apache Beam)"),
}

# Command and option to the module that does this work of the command, as the one in COMMANDS may not import it.
WITH_OPTION = {("check", "--url"): "serving.check_server"}

# Exit statuses: one for one kind of end, whichever command it is of.
DONE, WORK_FAILED, WRONG_INPUT, ANSWER_IS_NO, INTERRUPTED, STOPPED = 0, 1, 2, 3, 130, 143
STATUSES = {
    DONE: "the work is done",
    WORK_FAILED: "the work failed",
    WRONG_INPUT: "the arguments or the input are wrong",
    ANSWER_IS_NO: "the work is done, and its answer is no",
    INTERRUPTED: "interrupted",
    STOPPED: "`seqrec train` was stopped by SIGTERM, and has saved",
}

# Errors that the user can mend; everything else is a failure of the work.
_INPUT_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, one of `STATUSES`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return DONE
    if argv[0] == "--version":
        sys.stdout.write(f"seqrec_tf {seqrec_tf.__version__}\n")
        return DONE
    name, arguments = argv[0], argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"choose one of {', '.join(COMMANDS)}."
        sys.stderr.write(f"seqrec: no command {name!r}; {hint}\n")
        return WRONG_INPUT
    for variable, value in (("TF_CPP_MIN_LOG_LEVEL", "2"), ("GRPC_VERBOSITY", "ERROR")):
        os.environ.setdefault(variable, value)
    options = {word.partition("=")[0] for word in arguments}
    elsewhere = next((module for (of, option), module in WITH_OPTION.items() if of == name and option in options), None)
    module = importlib.import_module(elsewhere or COMMANDS[name][0])
    parser = _parser(name, module, arguments)
    try:
        if getattr(module, "TAKES_BEAM_OPTIONS", False):
            args, beam_options = parser.parse_known_args(arguments)
            args.beam_options = beam_options
        else:
            args = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has already said why
        return int(stop.code or 0)
    return _run(name, module, args)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a line, without all options before it, and names the option that was perhaps meant."""

    given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        known = [option for action in self._actions for option in action.option_strings]
        names = [word.partition("=")[0] for word in self.given if word.startswith("--")]
        hints = [
            f"{name} is no option; did you mean {near[0]}?"
            for name in names
            if name not in known and (near := difflib.get_close_matches(name, known, n=1))
        ]
        end = " ".join(hints) or f"`{self.prog} --help` lists the options."
        self.exit(WRONG_INPUT, f"{self.prog}: error: {message.rstrip('.')}. {end}\n")


def _parser(name: str, module: ModuleType, arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"seqrec {name}",
        usage=getattr(module, "USAGE", None),
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # Beam's --label is no --label-column
    )
    parser.given = arguments
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if {"-h", "--help"} & set(arguments) and hasattr(module, "more_help"):
        module.more_help(parser, arguments)
    return parser


def _run(name: str, module: ModuleType, args: argparse.Namespace) -> int:
    try:
        if hasattr(module, "check"):
            module.check(args)
        if getattr(module, "NEEDS_TENSORFLOW", False) and not args.debug:
            from seqrec_tf.quiet import import_tensorflow

            import_tensorflow()
        status = module.run(args)
    except KeyboardInterrupt:
        sys.stderr.write(f"seqrec {name}: interrupted\n")
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        wrong_input = isinstance(error, _INPUT_ERRORS) or trouble(error) in REFUSED
        sys.stderr.write(f"seqrec {name}: {_sentence(error, wrong_input)}\n")
        return getattr(error, "exit_status", WRONG_INPUT if wrong_input else WORK_FAILED)
    return DONE if status is None else status


def _sentence(error: Exception, wrong_input: bool) -> str:
    if isinstance(error, OSError) and error.filename and error.errno in (*FULL, errno.EROFS):
        remedy = "Free some space, or write to another disk." if error.errno in FULL else "Write to another disk."
        return f"{error.filename} cannot be written: {error.strerror}. {remedy}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join(str(error).split()) or "no message"
    if not (wrong_input or isinstance(error, RuntimeError)):
        return f"{type(error).__name__}: {text} (--debug shows where)"
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return f"{text} (--debug shows where)" if package in ("keras", "tensorflow") else text


def _overview() -> str:
    lines = [
        "usage: seqrec COMMAND [options]",
        "",
        "Sequential recommendation, from raw events to recommendations over REST.",
        "",
        *(f"  {name:<15} {help_line}" for name, (_, help_line) in COMMANDS.items()),
        "",
        "`seqrec COMMAND --help` says more; `seqrec demo` shows most of them at work.",
        "Exit status:",
        *(f"  {status:<4}{meaning}" for status, meaning in STATUSES.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
