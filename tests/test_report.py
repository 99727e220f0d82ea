"""The page of a run: its figures against slow loops, and what a browser makes of it."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from small_runs import trained

from seqrec_tf import cli, data
from seqrec_tf.models import SASRec
from seqrec_tf.records import DatasetFolder
from seqrec_tf.report import run_data, write_run_report
from seqrec_tf.report.of_attention import NEWEST, attention_of, mean_attention
from seqrec_tf.report.of_dataset import length_histogram, popularity_curve
from seqrec_tf.report.of_items import ItemCards, principal_plane
from seqrec_tf.report.page import page

WIDTHS = (360, 800, 1400)


@pytest.fixture(scope="module")
def written(finished, chain_dataset, tmp_path_factory):
    """The page of a SASRec beside popularity, and the data in it."""
    run, _ = finished
    folder = tmp_path_factory.mktemp("report")
    popular = trained(DatasetFolder(chain_dataset), folder, "poprec")
    file = folder / "report.html"
    write_run_report(run, file, beside=[popular])
    text = file.read_text(encoding="utf-8")
    return file, json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_needs_nothing_from_elsewhere(written):
    file, _ = written
    text = file.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert not re.search(r"@import|url\(", re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1])
    assert file.stat().st_size < 3e6


def test_data_cannot_end_the_script_that_holds_it():
    hostile = "</script><script>alert(1)</script><!-- {{script}} &"
    text = page({"title": hostile, "figure": float("nan")})
    inside = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(inside) == {"title": hostile, "figure": None}
    assert "<title>&lt;/script&gt;" in text


def test_the_page_shows_what_evaluate_finds(written, finished):
    _, shown = written
    file = written[0].parent / "figures.json"
    assert cli.main(["evaluate", "--run", str(finished[0].path), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["protocols"]["full"]["sasrec"]["metrics"]
    mine = shown["quality"]["figures"][finished[0].path.name]
    assert {name: part[0] for name, part in mine.items()} == pytest.approx(
        {name: part["value"] for name, part in figures.items()}
    )
    for panel in shown["segments"]:
        values, counts = panel["figures"][finished[0].path.name], panel["counts"]
        mean = np.average([value for value, _, _ in values], weights=counts)
        assert mean == pytest.approx(figures["ndcg@10"]["value"])
        assert sum(counts) == 200


def test_the_command_of_the_page_repeats_the_run(written, finished):
    _, shown = written
    words = shown["training"]["command"].split()
    assert words[:2] == ["seqrec", "train"]
    assert "model.dim=16" in words
    assert shown["training"]["changed"]["train.epochs"] == "6"
    assert len(shown["training"]["epochs"]) == 6


def test_examples_are_what_was_predicted(written):
    _, shown = written
    assert {example["kind"].partition(":")[0] for example in shown["examples"]} >= {"A hit", "A near miss"}
    for example in shown["examples"]:
        if example["rank"] and example["rank"] <= 10:
            assert example["recommended"][example["rank"] - 1]["id"] == example["came"]["id"]
        assert example["came"]["id"] not in [
            card["id"] for card in example["recommended"][: (example["rank"] or 11) - 1]
        ]


def test_mean_attention_equals_a_slow_loop(chain_dataset):
    folder = DatasetFolder(chain_dataset)
    model = SASRec.from_dataset(folder, dim=8, max_len=6, num_heads=2)
    batches = data.evaluation_batches(folder, "test", model, batch_size=16, exclude_history=True).take(3)
    found = mean_attention(model, batches)
    assert np.shape(found) == (2, 2, NEWEST, NEWEST)
    sums, counts = np.zeros((NEWEST, NEWEST)), np.zeros((NEWEST, NEWEST))
    for inputs, _ in batches:
        weights = attention_of(model, inputs)[1]  # of the second block
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)
        for row, ids in enumerate(inputs["item_ids"].numpy()):
            events = [place for place, item in enumerate(ids) if item]
            for age, place in enumerate(reversed(events)):
                for other_age, other in enumerate(reversed(events)):
                    sums[age, other_age] += weights[row, 1, place, other]
                    counts[age, other_age] += 1
    for age in range(6):
        for other in range(6):
            if counts[age, other]:
                assert found[1][1][age][other] == pytest.approx(sums[age, other] / counts[age, other], abs=1e-4)
    assert found[1][1][0][7] is None  # no history has an event of that age


def test_watching_attention_changes_no_score(chain_dataset):
    from seqrec_tf.layers.attention import watched_attention

    model = SASRec.from_dataset(DatasetFolder(chain_dataset), dim=8, max_len=6)
    inputs = {"item_ids": np.array([[1, 2, 3, 0]], np.int32)}
    before = model(inputs).numpy()
    with watched_attention() as weights:
        np.testing.assert_array_equal(model(inputs).numpy(), before)
    assert len(weights) == 2
    assert weights[0].numpy()[0, 0, 0].tolist() == [1, 0, 0, 0]  # the first event sees itself alone


def test_the_plane_of_items_holds_most_of_their_variance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 5)) * [5, 3, 0.1, 0.1, 0.1]
    places, explained = principal_plane(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    assert explained == pytest.approx(values[-2:].sum() / values.sum())
    expected = (vectors - vectors.mean(axis=0)) @ directions[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-6)
    assert principal_plane(np.ones((3, 4)))[1] == 0.0  # nothing varies


def test_histograms_count_every_sequence_once():
    lengths = np.array([1, 1, 2, 7, 300])
    bins = length_histogram(lengths)
    assert sum(count for _, count in bins) == 5
    assert bins[0] == ("1", 2)
    assert popularity_curve(np.array([9, 3, 1, 0])) == [(1, 9), (2, 3), (3, 1)]


def test_items_are_shown_by_name_and_category(tmp_path, capsys):
    rows = "".join(f"{user},{item},{time}\n" for user in "abc" for time, item in enumerate("wxyz"))
    (tmp_path / "events.csv").write_text(f"user_id,item_id,timestamp\n{rows}")
    (tmp_path / "items.csv").write_text("item_id,title,category\nw,A pan,\nx,A tent,camp\ny,A mug,kitchen\nz,,camp\n")
    words = ["prepare", "--input", tmp_path / "events.csv", "--items", tmp_path / "items.csv"]
    words += ["--output", tmp_path / "d", "--item-feature", "title:text", "category:category"]
    assert cli.main([str(word) for word in words]) == 0, capsys.readouterr().err
    folder = DatasetFolder(tmp_path / "d")
    cards = ItemCards(folder)
    shown = {item: cards.card(number) for number, item in enumerate(folder.item_ids, start=1)}
    assert shown["x"] == {"id": "x", "name": "A tent", "group": "camp", "events": 3, "picture": ""}
    assert (shown["w"]["name"], shown["w"]["group"]) == ("A pan", "")
    assert shown["z"]["name"] == "z"  # it has no title


def test_a_model_without_attention_or_vectors_has_a_page_too(chain_dataset, tmp_path):
    run = trained(DatasetFolder(chain_dataset), tmp_path, "poprec")
    shown = run_data(run)
    assert shown["attention"] is None
    assert shown["map"] is None
    assert shown["examples"]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests that use it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright for the tests in a browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium; Debian's package is chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=sandbox)
        yield opened
        opened.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_every_part_without_complaint(written, browser, tmp_path, width):
    said = []
    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
    )
    shown.goto(written[0].as_uri())
    sections = shown.eval_on_selector_all("main section", "found => found.map(one => one.id)")
    assert sections == ["what", "quality", "curves", "segments", "attention", "map", "examples", "dataset"]
    empty = shown.eval_on_selector_all(
        ".chart", "found => found.filter(one => !one.querySelector('svg path')).map(one => one.ariaLabel)"
    )
    assert empty == []
    assert shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    light = shown.screenshot(path=tmp_path / "light.png")
    shown.click("#theme")
    assert shown.evaluate("document.documentElement.dataset.theme") == "dark"
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
    assert shown.screenshot() != light
    shown.click("nav a[href='#examples']")
    assert shown.evaluate("location.hash") == "#examples"
    if width == max(WIDTHS):
        shown.hover("#quality .chart", position={"x": 200, "y": 150})
        shown.wait_for_function("document.querySelector('#quality .chart').innerText.includes('[')")
    assert said == []
    shown.close()
