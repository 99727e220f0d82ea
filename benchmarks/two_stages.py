"""Match, then rank: what a second stage changes, on MovieLens 100K with labels (ratings of 4 and more are liked).

    python benchmarks/two_stages.py

As the BST paper has it of Taobao, a matching model (SASRec) proposes N items, and ranking models (BST, DIN) order them.
All learn from one dataset, split by time. Each row of the table is an order of the same proposals, for each liked event
of the test split:

  NDCG@10, HR@10   of the event's item; a miss where it is not proposed
  AUC among N      the share of the other proposals that stand behind it, of events whose item is proposed
  AUC of labels    the share of pairs of a liked event and another, of the whole test split, that have the right order

Data sets are found by SEQREC_DATA_DIR; what is prepared and trained stays in --work.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from quality import DATA, DATASETS, ROOT, seqrec

DATASET = "ml-100k-labels"
# Configuration of each run, and settings: the first proposes. Those that learn from drawn items know no labels.
RUNS = {
    "sasrec": ("sasrec_softmax_ml1m", "model.max_len=50 model.dim=64 train.epochs=30 train.learning_rate=0.003"),
    "bst": ("bst", "model.user_features=[age,gender,occupation]"),
    "din": ("din", "model.user_features=[age,gender,occupation]"),
    "din-drawn": ("din", "model.user_features=[age,gender,occupation] model.num_negatives=4"),
}
BATCH = 256


def main() -> None:
    """Prepare, train, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("bench"))
    parser.add_argument("--candidates", type=int, nargs="+", default=[50, 200])
    args = parser.parse_args()
    dataset = args.work / DATASET
    if not (dataset / "COMPLETED").exists():
        args.work.mkdir(parents=True, exist_ok=True)
        seqrec(f"prepare {DATASETS[DATASET].format(data=DATA, work=args.work)} --output {dataset}")
    runs = {name: args.work / "runs" / f"two-stages-{name}" for name in RUNS}
    for name, (config, settings) in RUNS.items():
        if not (runs[name] / "COMPLETED").exists():
            file = ROOT / "configs" / f"{config}.toml"
            model = name.partition("-")[0]
            seqrec(f"train --dataset {dataset} --model {model} --config {file} --set {settings} --output {runs[name]}")
    print(f"{'N':>5}  {'order':<16}{'NDCG@10':>9}{'HR@10':>9}{'AUC among N':>13}{'AUC of labels':>15}")
    scored = {name: scores_of(run) for name, run in runs.items()}
    retrieve = scored.pop("sasrec")
    of_labels = {name: auc(scores) for name, scores in scored.items()}
    for number in args.candidates:
        proposed = retrieve["proposed"][:, :number]
        print(row(number, "sasrec", retrieve["target"], proposed, auc(retrieve)))
        for name, scores in scored.items():
            ordered = reordered(runs[name], proposed, scores)
            print(row(number, f"sasrec -> {name}", retrieve["target"], ordered, of_labels[name]))


def scores_of(run_path: pathlib.Path, longest: int = 500) -> dict[str, np.ndarray]:
    """What a model says of the test split, in the order of its events.

    Returns:
        `label` and `score` of each event to predict, [N]; of liked ones `target` [M] and, of a matching model, the best
        `proposed` items, int [M, longest].
    """
    import tensorflow as tf

    from seqrec_tf.data import evaluation_batches
    from seqrec_tf.learning.ranking import recommend
    from seqrec_tf.run_folder import RunFolder

    run = RunFolder(run_path)
    model = run.load_model()
    batches = evaluation_batches(run.open_dataset(), "test", model, batch_size=BATCH, exclude_history=True)
    inputs_spec, labels_spec = batches.element_spec

    @tf.function(input_signature=[inputs_spec, labels_spec["target"], labels_spec["excluded"]])
    def ask(inputs, target, excluded):
        query = model.query(inputs)
        score = model.score_candidates(query, target[:, None])[:, 0]
        if model.scores_one_by_one:
            return score, target[:, None]
        return score, recommend(model, query, excluded, k=longest)[0]

    parts = []
    for inputs, labels in batches:
        score, proposed = ask(inputs, labels["target"], labels["excluded"])
        parts.append([labels["place"], labels["target"], labels["target_label"], score, proposed])
    place, target, label, score, proposed = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort(place.T[::-1])
    is_liked = label[order] == 1
    return {
        "label": label[order],
        "score": score[order],
        "target": target[order][is_liked],
        "proposed": proposed[order][is_liked],
    }


def reordered(run_path: pathlib.Path, proposed: np.ndarray, scores: dict[str, np.ndarray]) -> np.ndarray:
    """Proposals, int [M, N], in the order of a ranking model's scores."""
    import tensorflow as tf

    from seqrec_tf.data import evaluation_batches
    from seqrec_tf.run_folder import RunFolder

    run = RunFolder(run_path)
    model, folder = run.load_model(), run.open_dataset()
    batches = evaluation_batches(folder, "test", model, batch_size=BATCH, exclude_history=True)
    places = np.concatenate([labels["place"] for _, labels in batches])
    order = np.lexsort(places.T[::-1])
    row_of = np.full(len(order), -1)  # of each event in the order of the batches, the row of its proposals
    row_of[order[scores["label"] == 1]] = np.arange(len(proposed))
    score = tf.function(lambda inputs, items: model.score_candidates(model.query(inputs), items), reduce_retracing=True)
    ordered, first = np.zeros_like(proposed), 0
    for inputs, labels in batches:
        rows = row_of[first : first + len(labels["place"])]
        first += len(rows)
        for part in np.array_split(np.flatnonzero(rows >= 0), 8):  # of 256 histories with 200 items each, for memory
            items = proposed[rows[part]]
            found = score({name: tf.gather(value, part) for name, value in inputs.items()}, items).numpy()
            ordered[rows[part]] = np.take_along_axis(items, np.argsort(-found, axis=1, kind="stable"), axis=1)
    return ordered


def row(number: int, name: str, target: np.ndarray, ordered: np.ndarray, of_labels: float) -> str:
    """A line of the table."""
    is_hit = ordered == target[:, None]
    place = np.where(is_hit.any(axis=1), is_hit.argmax(axis=1), ordered.shape[1])  # from 0
    gain = np.where(place < 10, 1 / np.log2(place + 2), 0.0)
    is_there = place < ordered.shape[1]
    among = 1 - place[is_there] / (ordered.shape[1] - 1)
    figures = f"{gain.mean():>9.4f}{(place < 10).mean():>9.4f}{among.mean():>13.4f}{of_labels:>15.4f}"
    return f"{number:>5}  {name:<16}{figures}   {is_there.mean():.1%} of {len(target):,} items are proposed"


def auc(scores: dict[str, np.ndarray]) -> float:
    """The area under the ROC curve of scores against labels."""
    from seqrec_tf.evaluation.intervals import label_metrics

    owners = np.arange(len(scores["label"]))
    found = label_metrics(
        scores["label"],
        scores["score"].astype(np.float64),
        owners,
        are_users=False,
        are_logits=False,
        rng=np.random.default_rng(0),
    )
    return found["auc"].value


if __name__ == "__main__":
    main()
