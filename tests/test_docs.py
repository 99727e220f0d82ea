"""What README and the pages of docs/ say: commands and Python run, links lead somewhere, quoted errors exist.

The commands run in a folder that holds small files with the names that the pages use. Those that need what is not here
are in NOT_HERE with the reason; the real parser reads their arguments all the same.
"""

import argparse
import ast
import csv
import datetime
import gzip
import importlib.util
import json
import pathlib
import random
import re
import shlex
import sys
import tomllib
import urllib.request
from typing import NamedTuple

import numpy as np
import pytest

from seqrec_tf import cli

ROOT = pathlib.Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "serving" / "README.md", *DOCS]

# What keeps a command from being run here: a piece of it, and what it needs.
NOT_HERE = {
    "docker ": "a Docker engine",
    "kubectl ": "a cluster",
    "seqrec canary": "a server that reads the file: tests/serving/test_canary.py has one",
    "gs://": "a bucket",
    "https://tfhub.dev": "the network, for an encoder",
    "--preset": "a large public data set",
    "python benchmarks/": "public data sets, and minutes to hours",
    "--strategy multi-worker": "several processes: tests/test_train.py starts them",
    "export TF_CONFIG=": "the command that it is for",
    "seqrec tune": "minutes: tests/test_tune.py searches",
    "search/best.toml": "what the search leaves",
    "python tests/serving/contract_models.py": "a server to ask; conftest.py writes the same models",
    "seqrec serve": "to be interrupted: the fixture `server` serves the same",
    "--model ctr": "a second model, of features of users",
    "--rank runs/bst": "a run of a ranking model: tests/exporting/test_signatures.py has one",
    "make ": "an installation",
    "python -m pytest": "the tests, which these are",
    "python docs/configuration.py": "to write: a test below compares what it would write",
}
# Training takes seconds each time: one run is trained, of the other commands the configuration is resolved.
SMALL = ["train.epochs=1", "model.dim=8", "model.max_len=10", "model.item_features=*"]
SERVED_AT = "http://localhost:8501"


class Block(NamedTuple):
    """A fenced block of a page."""

    place: str
    language: str
    text: str


def fenced(page):
    """The blocks of a page, and the page without them."""
    blocks, lines, inside = [], [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            if inside is None:
                inside = Block(f"{page.relative_to(ROOT)}:{number}", line[3:].strip(), "")
            else:
                blocks.append(inside)
                inside = None
        elif inside is not None:
            inside = inside._replace(text=f"{inside.text}{line}\n")
        else:
            lines.append(line)
    assert inside is None, f"{page} has a block without an end"
    return blocks, "\n".join(lines)


def blocks_of(language):
    return [block for page in PAGES for block in fenced(page)[0] if block.language == language]


def commands_of(block):
    """The commands of a block as lists of words."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def by_place(blocks):
    """Each different command by where it is first."""
    seen = {}
    for block in blocks:
        for number, words in enumerate(commands_of(block), start=1):
            seen.setdefault(tuple(words), f"{block.place} {number} {' '.join(words[:2])}")
    return {place: list(words) for words, place in seen.items()}


def what_it_needs(words):
    line = f"{' '.join(words)} "
    return next((reason for piece, reason in NOT_HERE.items() if piece in line), None)


OF_OWN_MODEL = [block for block in blocks_of("bash") if block.place.startswith("docs/own-model.md")]
COMMANDS = by_place([block for block in blocks_of("bash") if block not in OF_OWN_MODEL])
RUN_HERE = {place: words for place, words in COMMANDS.items() if not what_it_needs(words)}
PARSED = {place: words for place, words in COMMANDS.items() if what_it_needs(words)}


def parsed(words):
    """The arguments of a seqrec command as its own parser and its own checks take them."""
    module = importlib.import_module(cli.COMMANDS[words[1]][0])
    parser = argparse.ArgumentParser(allow_abbrev=False)
    module.add_arguments(parser)
    if not getattr(module, "TAKES_BEAM_OPTIONS", False):
        return parser.parse_args(words[2:])
    from beam_jobs import options, prepare_sequences

    args, others = parser.parse_known_args(words[2:])
    prepare_sequences.beam_options(others, words[1], vars(args))
    if words[1] == "prepare":
        options.check_options(options.resolve(args))
    return args


def seqrec(*words):
    assert cli.main([str(word) for word in words]) == 0


def with_option(words, option, value):
    """A command with another value of one option."""
    place = words.index(option) + 1
    return [*words[:place], str(value), *words[place + 1 :]]


def command_of_readme(start):
    (words,) = (words for words in map(shlex.split, readme_lines()) if " ".join(words).startswith(start))
    return words[1:]


def readme_lines():
    text = "".join(block.text for block in fenced(ROOT / "README.md")[0] if block.language == "bash")
    return text.replace("\\\n", " ").splitlines()


# What the fixture `place` has run, and in this order.
OF_FIXTURE = [command_of_readme(start) for start in ("seqrec prepare", "seqrec train", "seqrec export")]


def write_csv(path, header, rows, *, delimiter=","):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows] if header else rows)


def write_files(folder):
    """Files as the pages have them: 30 items, 100 customers who go through them in turn."""
    rng = random.Random(0)
    start = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    events = []
    for customer in range(100):
        item = rng.randrange(30)
        for event in range(rng.randrange(5, 10)):
            at = start + datetime.timedelta(days=3 * event, seconds=rng.randrange(3600))
            events.append((f"c{customer}", f"sku-{item}", at, f"v{customer}-{event // 3}", rng.randrange(1, 6)))
            item = (item + 1 + (rng.random() < 0.1)) % 30
    for number, part in enumerate((events[::2], events[1::2]), start=1):
        rows = [(customer, sku, f"{at:%Y-%m-%dT%H:%M:%SZ}") for customer, sku, at, *_ in part]
        write_csv(folder / f"events-{number}.csv.gz", ("customer", "sku", "at"), rows)
    of_events = [(customer, sku, 1, int(at.timestamp())) for customer, sku, at, *_ in events]
    write_csv(folder / "log.tsv", None, of_events, delimiter="\t")
    write_csv(folder / "visits.csv", ("visit", "sku", "at"), [(visit, sku, at) for _, sku, at, visit, _ in events])
    header = ("user_id", "item_id", "timestamp", "rating")
    write_csv(folder / "ratings.csv", header, [(customer, sku, at, stars) for customer, sku, at, _, stars in events])
    header = ("sku", "title", "price", "brand", "tags", "photo")
    for name, numbers in (("items", range(30)), ("new", range(30, 33))):
        rows = [
            (f"sku-{item}", f"Thing {item}", 2.5 * item, "ab"[item % 2], f"x|y{item % 3}", f"{item}.jpg")
            for item in numbers
        ]
        write_csv(folder / f"{name}.csv", header, rows)
    bought = [
        (visit, sku, sku, 2, f"{at.month}/{at.day}/{at.year} {at.hour}:{at.minute:02d}", 2.55, customer, "Norway")
        for customer, sku, at, visit, _ in events
    ]
    bought += [(f"C{row[0]}", row[1], row[2], -2, *row[4:]) for row in bought[:20]]  # cancelled
    bought += [(*row[:6], "", row[7]) for row in bought[:20]]  # nobody knows who
    header = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
    write_csv(folder / "online-retail.csv", header, bought)
    rows = [(f"c{customer}", ("no", "de")[customer % 2], 20 + customer) for customer in range(100)]
    write_csv(folder / "customers.csv", ("customer", "country", "age"), rows)
    (folder / "configs").symlink_to(ROOT / "configs")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which the commands run, with what README's first three have made, a shop, a run, a model, and
    a run of popularity."""
    folder = tmp_path_factory.mktemp("docs")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in OF_FIXTURE:
            seqrec(*words, *(["--set", *SMALL] if words[0] == "train" else []))
        seqrec("train", "--dataset", "shop", "--model", "poprec", "--output", "runs/poprec")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def server(place):
    """The address at which the exported models are served."""
    from serving.model_store import ModelStore
    from serving.server import running

    store = ModelStore(place / "models", report=lambda line: None)
    store.poll()
    with running(store) as http:
        yield f"http://127.0.0.1:{http.port}"


@pytest.mark.parametrize("words", RUN_HERE.values(), ids=RUN_HERE)
def test_a_command_of_a_page_runs(words, here, server, tmp_path, capsys):
    if words[0] == "curl":
        (body,) = words[words.index("-d") + 1 : words.index("-d") + 2]
        with urllib.request.urlopen(words[-1].replace(SERVED_AT, server), data=body.encode()) as answer:
            check_answer(json.load(answer), json.loads(body))
        return
    assert words[0] == "seqrec", f"{words[0]}: run it here, or say in NOT_HERE what it needs"
    if words[1:] in OF_FIXTURE:
        return
    if words[1] == "train":
        check_training(words)
        return
    if words[1] in ("prepare", "export"):  # an output of its own, as another command may have made that of the page
        words = with_option(words, "--output", tmp_path / "models" / "made")
    if "--item-vectors" in words:
        words = with_option(words, "--item-vectors", tmp_path / "vectors")
    if words[1] == "analyze":
        words = [*words, "--shuffles", "1"]
    if words[1] == "recommend" or "--url" in words:
        words = [*words, "--url", server]  # the last one counts
    seqrec(*words[1:])
    assert capsys.readouterr().out


def check_answer(answer, asked):
    """What a server answers to one row of a signature."""
    signature = asked.get("signature_name", "serving_default")
    (row,) = answer.get("predictions") or answer["results"]
    if signature in ("serving_default", "recommend", "similar"):
        assert row["items"][0].startswith("sku-")
    elif signature == "examples":
        assert row[0][0].startswith("sku-")
    else:
        numbers = {"rank": "scores", "embed": "vector"}
        assert np.all(np.isfinite(row[numbers[signature]] if signature in numbers else row))


def check_training(words):
    """The configuration of a training command makes a model for its dataset."""
    from seqrec_tf import models
    from seqrec_tf.config import resolve
    from seqrec_tf.records import DatasetFolder

    args = parsed(words)
    model_class = models.find(args.model)
    toml = pathlib.Path(args.config).read_text(encoding="utf-8") if args.config else ""
    config = resolve(args.model, model_class.config_class, toml=toml, settings=args.set)
    assert model_class(config.model, DatasetFolder(args.dataset).schema).built


@pytest.mark.parametrize("words", PARSED.values(), ids=PARSED)
def test_a_command_that_needs_what_is_not_here_is_one_at_least(words):
    if words[0] == "seqrec":
        parsed(words)
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "python":
        files = [word for word in words[1:] if word.endswith((".py", "tests/beam_jobs"))]
        assert all((ROOT / file).exists() for file in files)
    else:
        assert words[0] in ("docker", "kubectl", "export") or "docker" in words


def test_nothing_is_said_to_be_missing_that_no_page_needs():
    lines = [f"{' '.join(words)} " for words in PARSED.values()]
    assert [piece for piece in NOT_HERE if not any(piece in line for line in lines)] == []


def own_modules(block):
    """The file that a block of Python stands for, None where it is to be run."""
    first = block.text.partition("\n")[0]
    return first.removeprefix("# ") if re.fullmatch(r"# [\w/]+\.py", first) else None


PYTHON = {block.place: block for block in blocks_of("python") if not own_modules(block)}


@pytest.mark.parametrize("block", PYTHON.values(), ids=PYTHON)
def test_the_python_of_a_page_runs(block, here, request, capsys):
    text = re.sub(r"epochs=\d+", "epochs=1", block.text)
    if SERVED_AT in text:
        text = text.replace(SERVED_AT, request.getfixturevalue("server"))
    exec(compile(text, block.place, "exec"), {"__name__": "page"})
    assert "print(" not in text or capsys.readouterr().out


def test_a_model_of_one_s_own_is_trained_evaluated_and_exported(place, monkeypatch):
    monkeypatch.chdir(place)
    for block in blocks_of("python"):
        if file := own_modules(block):
            (place / file).parent.mkdir(exist_ok=True)
            (place / file).write_text(block.text)
    monkeypatch.syspath_prepend(place)
    done = []
    for block in OF_OWN_MODEL:
        for words in commands_of(block):
            seqrec(*words[1:], *(["train.epochs=1"] if words[1] == "train" else []))
            done.append(words[1])
    assert done == ["train", "evaluate", "export"]
    for name in ("our_shop", "our_shop.mean"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("block", blocks_of("toml"), ids=lambda block: block.place)
def test_a_configuration_of_a_page_is_one(block, tmp_path):
    """Of a run, which names its model, or the space of a search."""
    from seqrec_tf import models
    from seqrec_tf.config import resolve
    from seqrec_tf.tune import read_space

    name = tomllib.loads(block.text).get("model_name")
    if name:
        resolve(name, models.find(name).config_class, toml=block.text)
    else:
        (tmp_path / "space.toml").write_text(block.text)
        assert read_space(str(tmp_path / "space.toml"))


def test_every_block_has_a_language_that_is_looked_at_or_is_no_code():
    found = {block.language for page in PAGES for block in fenced(page)[0]}
    assert found <= {"bash", "python", "toml", "text", "mermaid"}


def test_readme_leads_and_does_not_list():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 2000


def slugs(page):
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", fenced(page)[1], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", fenced(page)[1])
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert page not in DOCS or target.parent == ROOT / "docs", f"{page}: {link} is not a page of the site"
        assert not anchor or anchor in slugs(target), f"{page}: {link}"


def test_the_site_shows_every_page():
    listed = re.findall(r"^  - ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [page.name for page in DOCS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    named = re.findall(r"`((?:seqrec_tf|beam_jobs|serving|tests|configs|benchmarks|docs)/[\w/.]*)`", fenced(page)[1])
    assert [path for path in named if not (ROOT / path).exists() and "foo" not in path] == []


def test_the_configuration_reference_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("configuration", ROOT / "docs" / "configuration.py")
    configuration = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(configuration)
    assert configuration.page() == configuration.PAGE.read_text(encoding="utf-8"), "run python docs/configuration.py"


def texts_of_the_code():
    """Every text of the three packages, with … for what is put into it."""
    texts = []
    for package in ("seqrec_tf", "beam_jobs", "serving"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return texts


def quoted_errors():
    """What the first columns of the tables of the page on errors quote."""
    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    return [quote for row in rows for _, quote in re.findall(r"(`+)(.+?)\1", row)]


def as_pattern(text):
    return ".*".join(map(re.escape, text.split("…")))


def test_errors_that_are_explained_are_errors_of_the_code():
    texts = texts_of_the_code()
    whole = "\n".join(texts)
    openings = [as_pattern(text) for text in texts if "…" in text and 4 <= len(text.replace("…", "")) <= 30]
    quotes = quoted_errors()
    assert len(quotes) > 40
    unknown = [
        quote
        for quote in quotes
        if not re.search(as_pattern(quote), whole) and not any(re.fullmatch(opening, quote) for opening in openings)
    ]
    assert unknown == []
