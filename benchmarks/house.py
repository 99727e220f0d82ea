"""What a reader of the code meets, in figures: of one checkout, or of several side by side.

    python benchmarks/house.py ../before .

The base class of models counts with the private bases that it stands on. Long functions are counted from `def` to the
last line; those of tests are not. `--wheel` also builds wheel and sdist and installs each in an empty environment
(without its dependencies), `--tests` runs `make test`'s command and gives its seconds.
"""

import argparse
import ast
import pathlib
import subprocess
import sys
import tempfile
import time
import venv

LONG_FILE, LONG_FUNCTION = 400, 55
PACKAGES = ("seqrec_tf", "beam_jobs", "serving")
BASE = "SequenceModel"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=pathlib.Path, nargs="*", default=[pathlib.Path()])
    parser.add_argument("--wheel", action="store_true", help="build and install the package of each")
    parser.add_argument("--tests", action="store_true", help="run the tests of each")
    args = parser.parse_args()
    columns = [figures(checkout.resolve()) for checkout in args.checkouts]
    for checkout, column in zip(args.checkouts, columns, strict=True):
        if args.wheel:
            column |= {"wheel, sdist": install(checkout.resolve())}
        if args.tests:
            column |= {"seconds of the tests": run_tests(checkout.resolve())}
    for name in columns[0]:
        print(f"{name:<44}" + "".join(f"{column[name]:>16}" for column in columns))


def figures(checkout: pathlib.Path) -> dict[str, str]:
    """Name to figure."""
    code = {
        path: path.read_text(encoding="utf-8") for package in PACKAGES for path in (checkout / package).rglob("*.py")
    }
    tests = {path: path.read_text(encoding="utf-8") for path in (checkout / "tests").rglob("*.py")}
    trees = {path: ast.parse(text) for path, text in code.items()}
    classes = {node.name: node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    functions = [
        node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    lengths = [node.end_lineno - node.lineno + 1 for node in functions]
    base = classes[BASE]
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    return {
        f"methods of {BASE}": str(len(methods(base))),
        f"lines of {BASE}": str(base.end_lineno - base.lineno + 1),
        "methods of its private bases": str(sum(len(methods(classes[name])) for name in private_bases(base, classes))),
        f"files of code over {LONG_FILE} lines": count(text.count("\n") > LONG_FILE for text in code.values()),
        f"files of tests over {LONG_FILE} lines": count(text.count("\n") > LONG_FILE for text in tests.values()),
        "longest file of tests, lines": str(max(text.count("\n") for text in tests.values())),
        f"functions over {LONG_FUNCTION} lines": count(length > LONG_FUNCTION for length in lengths),
        "longest function, lines": str(max(lengths)),
        "modules beside each other in seqrec_tf/": count(True for _ in (checkout / "seqrec_tf").glob("[a-z]*.py")),
        "lines of README": str(readme.count("\n")),
        "words of README": str(len(readme.split())),
        "pages in docs/": count(True for _ in (checkout / "docs").glob("*.md")),
    }


def methods(node: ast.ClassDef) -> list[ast.stmt]:
    """The functions of a class."""
    return [one for one in node.body if isinstance(one, ast.FunctionDef)]


def private_bases(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[str]:
    """The classes of this project that a class stands on."""
    names = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return [one for name in names if name in classes for one in (name, *private_bases(classes[name], classes))]


def count(flags) -> str:
    """How many are true."""
    return str(sum(bool(flag) for flag in flags))


def install(checkout: pathlib.Path) -> str:
    """Build wheel and sdist and install each where nothing else is."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        commands = ("bdist_wheel", "--dist-dir", str(folder)), ("sdist", "--dist-dir", str(folder))
        for command in commands:
            subprocess.run(
                [sys.executable, "setup.py", "--quiet", *command], cwd=checkout, check=True, capture_output=True
            )
        for number, package in enumerate(sorted(folder.glob("seqrec_tf-*"))):
            venv.create(folder / str(number), with_pip=True)
            python = folder / str(number) / "bin" / "python"
            pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(package)]
            subprocess.run(pip, check=True, capture_output=True)
            subprocess.run([str(python), "-m", "seqrec_tf.cli", "--help"], check=True, capture_output=True, cwd=folder)
    return "installed"


def run_tests(checkout: pathlib.Path) -> str:
    """Seconds of the tests."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"], cwd=checkout, check=True,
        capture_output=True,
    )  # fmt: skip
    return f"{time.perf_counter() - started:.0f}"


if __name__ == "__main__":
    main()
