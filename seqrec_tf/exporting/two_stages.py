"""Two stages in one saved model: any model proposes items, a ranking model orders them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqrec_tf.schema import ITEM_IDS

if TYPE_CHECKING:
    from seqrec_tf.exporting.serving_module import Trained
    from seqrec_tf.run_folder import RunFolder


def second_stage(
    run: RunFolder, first: Trained, dataset: str | None, *, k: int, num_candidates: int, has_new: bool
) -> Trained:
    """The ranking model of two stages.

    Args:
        run: Its run.
        first: What proposes the items.
        dataset: Where the dataset of both is now, if it was moved.
        k: Items in an answer.
        num_candidates: Items that are proposed.
        has_new: Whether the first stage has items that came after training.

    Raises:
        ValueError: The two do not fit together.
    """
    from seqrec_tf.exporting.serving_module import Trained

    num_items = first.model.num_items
    if not k <= num_candidates <= num_items:
        raise ValueError(
            f"--candidates must be from --k, {k}, to the number of items, {num_items}, got {num_candidates}."
        )
    if has_new:
        raise ValueError("--items: two stages take no new items, as both models would have to know them.")
    if first.model.scores_one_by_one:
        raise ValueError(
            "--retrieve needs a model that compares a history with all items at once, and "
            f"{type(first.model).__name__} scores them one by one. Swap the two runs, or train a SASRec."
        )
    folder = run.open_dataset(dataset)
    if folder.fingerprint != first.folder.fingerprint:
        _check_items(first.folder.item_ids, folder.item_ids, first.folder.path, folder.path)
        if lacking := sorted(name for name in (*first.model.reads, ITEM_IDS) if name not in folder.schema):
            raise ValueError(
                f"{folder.path}, of --rank, lacks {', '.join(lacking)}, which the model of --retrieve reads."
            )
    model = run.load_model()
    model.freeze_item_table()
    return Trained(model, folder)


def _check_items(ours: list[str], theirs: list[str], our_path: str, their_path: str) -> None:
    """Raise a ValueError where two vocabularies differ."""
    if ours == theirs:
        return
    line = next((i for i, pair in enumerate(zip(ours, theirs, strict=False), start=1) if pair[0] != pair[1]), None)
    what = (
        f"item {line} is {ours[line - 1]!r} and {theirs[line - 1]!r}"
        if line
        else f"they have {len(ours)} and {len(theirs)} items"
    )
    raise ValueError(
        f"The datasets of --retrieve, {our_path}, and --rank, {their_path}, do not have the same item ids: {what}. "
        "Train both models on one dataset."
    )
