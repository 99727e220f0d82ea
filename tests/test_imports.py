"""Which module may import which: walked in the source, so that a forbidden import is found wherever it is."""

import ast
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

from seqrec_tf import cli

ROOT = pathlib.Path(__file__).parent.parent
OURS = ("seqrec_tf", "beam_jobs", "serving")
# What the Beam jobs and the servers share with training. A bare seqrec_tf is there for its __version__, cli for
# `python -m beam_jobs.prepare_sequences`.
CONTRACT = {
    "seqrec_tf",
    "seqrec_tf.config",
    "seqrec_tf.ids",
    "seqrec_tf.messages",
    "seqrec_tf.schema",
    "seqrec_tf.manifest",
    "seqrec_tf.records",
    "seqrec_tf.writing",
    "seqrec_tf.padding",
    "seqrec_tf.answers",
    "seqrec_tf.features",
    "seqrec_tf.encoders",
    "seqrec_tf.cli",
    "seqrec_tf.quiet",
}


class Import(NamedTuple):
    """One imported module; `is_lazy` where a function or `if TYPE_CHECKING` holds the import."""

    module: str
    is_lazy: bool


def modules(package):
    """Dotted name of each module of a package, to its file."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


ALL_MODULES = {name: file for package in OURS for name, file in modules(package).items()}


def imports(name):
    """All that a module imports; `from seqrec_tf import schema` counts as `seqrec_tf.schema`."""
    found = []

    def visit(node, is_lazy):
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                path = f"{node.module}.{alias.name}"
                found.append(Import(path if path in ALL_MODULES else node.module, is_lazy))
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inside = is_lazy or is_typing or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(ALL_MODULES[name].read_text(encoding="utf-8")), False)
    return found


def is_in(module, packages):
    """Whether a module is one of `packages` or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def offending(name, is_allowed):
    """What a module imports against the rule."""
    return sorted({imported.module for imported in imports(name) if not is_allowed(imported)})


def ours(name):
    """Modules of this repository that a module imports."""
    return {imported.module for imported in imports(name) if is_in(imported.module, OURS)}


def test_the_walk_sees_lazy_and_nested_imports():
    found = imports("seqrec_tf.records")
    assert Import("seqrec_tf.schema", False) in found
    assert Import("tensorflow", True) in found


@pytest.mark.parametrize("name", modules("seqrec_tf"))
def test_seqrec_tf_imports_neither_beam_nor_serving(name):
    assert offending(name, lambda i: not is_in(i.module, ("apache_beam", "beam_jobs", "serving"))) == []


@pytest.mark.parametrize("name", [*modules("beam_jobs"), *modules("serving")])
def test_jobs_and_serving_know_only_the_contract_and_themselves(name):
    itself = name.split(".")[0]
    assert {module for module in ours(name) if not is_in(module, [itself])} <= CONTRACT


@pytest.mark.parametrize("name", [*modules("beam_jobs"), *modules("serving")])
def test_jobs_and_serving_do_without_keras(name):
    assert offending(name, lambda i: not is_in(i.module, ("keras", "tf_keras", "tensorflow.keras"))) == []


@pytest.mark.parametrize("name", modules("serving"))
def test_serving_does_without_beam(name):
    assert offending(name, lambda i: not is_in(i.module, ("apache_beam",))) == []


def test_the_schema_needs_only_the_standard_library():
    assert offending("seqrec_tf.schema", lambda i: i.module.split(".")[0] in sys.stdlib_module_names) == []


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("seqrec_tf.schema", set()),
        ("seqrec_tf.messages", {"seqrec_tf.schema"}),
        ("seqrec_tf.options", {"seqrec_tf.config"}),
        ("seqrec_tf.padding", {"seqrec_tf.schema"}),
        ("seqrec_tf.manifest", {"seqrec_tf", "seqrec_tf.schema"}),
        ("seqrec_tf.writing", set()),
        (
            "seqrec_tf.records",
            {"seqrec_tf.manifest", "seqrec_tf.messages", "seqrec_tf.padding", "seqrec_tf.schema"},
        ),
        ("seqrec_tf.config", set()),
        ("seqrec_tf.features", {"seqrec_tf.config", "seqrec_tf.ids", "seqrec_tf.schema"}),
        ("seqrec_tf.ids", set()),
        ("seqrec_tf.encoders", {"seqrec_tf.messages"}),
        ("seqrec_tf.learning.losses", set()),
        ("seqrec_tf.learning.metrics", set()),
        ("seqrec_tf.learning.parallel", set()),
        ("seqrec_tf.learning.ranking", {"seqrec_tf.learning.metrics", "seqrec_tf.schema"}),
        ("seqrec_tf.learning.sampling", set()),
        (
            "seqrec_tf.learning.objective",
            {"seqrec_tf.config", "seqrec_tf.learning.losses", "seqrec_tf.learning.sampling"},
        ),
        ("seqrec_tf.learning.optimizers", {"seqrec_tf.config"}),
        ("seqrec_tf.quiet", set()),
        ("seqrec_tf.cli", {"seqrec_tf", "seqrec_tf.quiet", "seqrec_tf.writing"}),
        ("seqrec_tf.evaluation.intervals", {"seqrec_tf.learning.metrics"}),
        ("seqrec_tf.evaluation.negatives", {"seqrec_tf.records"}),
    ],
)
def test_the_core_imports_point_one_way(name, allowed):
    assert ours(name) <= allowed


@pytest.mark.parametrize("name", [name for name in modules("seqrec_tf") if is_in(name, ["seqrec_tf.layers"])])
def test_layers_import_only_layers_config_and_contract(name):
    allowed = [f"seqrec_tf.{part}" for part in ("layers", "config", "schema", "features", "quiet", "learning.sampling")]
    assert {module for module in ours(name) if not is_in(module, allowed)} == set()


@pytest.mark.parametrize("name", [name for name in modules("seqrec_tf") if is_in(name, ["seqrec_tf.models"])])
def test_models_import_only_what_they_are_made_of(name):
    parts = ("models", "layers", "learning", "padding", "schema", "config", "options")
    allowed = [f"seqrec_tf.{part}" for part in parts]

    def is_allowed(imported):
        if not is_in(imported.module, OURS):
            return True
        return is_in(imported.module, allowed) or (imported.is_lazy and imported.module == "seqrec_tf.records")

    assert offending(name, is_allowed) == []


@pytest.mark.parametrize("name", ALL_MODULES)
def test_no_module_outside_the_models_names_one(name):
    """Models are found by name, so a new one is listed nowhere."""
    found = {module for module in ours(name) if is_in(module, ["seqrec_tf.models"])}
    if not is_in(name, ["seqrec_tf.models"]):
        shared = ("base", "base_batches", "base_keras", "base_memory")
        assert found <= {"seqrec_tf.models", *(f"seqrec_tf.models.{part}" for part in shared)}


def test_no_import_comes_back_to_where_it_began():
    below = {name: ours(name) for name in ALL_MODULES}
    floors = 0
    while below:
        lowest = {name for name, needed in below.items() if not needed & below.keys()}
        assert lowest, f"These import each other: {sorted(below)}"
        below = {name: needed for name, needed in below.items() if name not in lowest}
        floors += 1
    assert floors > 1


@pytest.mark.parametrize(
    "name",
    [
        "seqrec_tf.training.callbacks",
        "seqrec_tf.exporting.golden",
        "seqrec_tf.evaluation.intervals",
        "seqrec_tf.evaluation.negatives",
        "seqrec_tf.exporting.new_items",
        "seqrec_tf.training.preflight",
        "seqrec_tf.training.resume",
        "seqrec_tf.run_folder",
        "seqrec_tf.exporting.serving_module",
    ],
)
def test_what_commands_are_made_of_imports_no_command(name):
    commands = {module for module, _ in cli.COMMANDS.values()}
    assert ours(name) & commands == set()


def test_the_contract_loads_without_heavy_libraries():
    code = (
        "import sys\n"
        "import seqrec_tf, seqrec_tf.cli, seqrec_tf.schema, seqrec_tf.records, seqrec_tf.config\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'apache_beam', 'pyarrow', 'uvicorn'} & sys.modules.keys()\n"
        "sys.exit(' '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", ["data", "models", "losses", "sampling", "metrics", "layers", "schema", "records", "config"]
)
def test_submodules_are_there_without_an_import_of_their_own(name):
    import seqrec_tf

    package = "seqrec_tf.learning" if name in ("losses", "sampling", "metrics") else "seqrec_tf"
    assert getattr(seqrec_tf, name).__name__ == f"{package}.{name}"


def test_a_submodule_that_does_not_exist_is_an_attribute_error():
    import seqrec_tf

    with pytest.raises(AttributeError, match="has no attribute 'modles'"):
        _ = seqrec_tf.modles
