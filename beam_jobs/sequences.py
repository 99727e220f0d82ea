"""What happens to sequences before they are split: cleaning and filtering.

Pure functions of whole tables: each takes `Sequences`, of one bucket of users, and gives what is left of them. `steps`
says which of them a job needs; Beam is not imported here.

Example: `without_repeats` with "consecutive" makes `a b a c` of `a b b b a c c`, in every sequence at once.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.tables import FRACTION, LABEL, TIME, Sequences
from seqrec_tf.schema import DROP_CONSECUTIVE_REPEATS


def newest(sequences: Sequences, limit: int) -> Sequences:
    """The newest `limit` events of each sequence."""
    return sequences.keep_events(sequences.places >= np.repeat(sequences.lengths - limit, sequences.lengths))


def positive_only(sequences: Sequences) -> Sequences:
    """The events with label 1."""
    return sequences.keep_events(sequences.columns[LABEL] > 0)


def without_repeats(sequences: Sequences, which: str) -> Sequences:
    """The events whose item is not the one before ("consecutive") or not among those before ("all")."""
    is_consecutive = which == DROP_CONSECUTIVE_REPEATS
    again = sequences.is_same_as_before(sequences.items) if is_consecutive else repeated(sequences)
    return sequences.keep_events(~again)


def repeated(sequences: Sequences) -> np.ndarray:
    """bool [E], True where the item of an event occurs before it in its sequence."""
    num_names, lengths = max(len(sequences.names), 1), sequences.lengths
    pairs = sequences.sequence_of * num_names + sequences.items
    place_bits = int(lengths.max(initial=0)).bit_length()
    again = np.zeros(len(pairs), bool)
    if (len(sequences) * num_names).bit_length() + place_bits <= 63:
        # Pair and place in one number: sorted, the first of equal pairs is the earliest.
        keys = np.sort((pairs << place_bits) | sequences.places)
        later = keys[1:][(keys[1:] >> place_bits) == (keys[:-1] >> place_bits)]
        again[sequences.offsets[(later >> place_bits) // num_names] + (later & ((1 << place_bits) - 1))] = True
    else:
        rows = np.argsort(pairs, kind="stable")
        again[rows[1:][pairs[rows[1:]] == pairs[rows[:-1]]]] = True
    return again


def tied(sequences: Sequences) -> np.ndarray:
    """bool [E], True where an event shares its time with a neighbour: only the input's order tells them apart."""
    times = [sequences.columns[name] for name in (TIME, FRACTION) if name in sequences.columns]
    later = sequences.is_same_as_before(*times)
    earlier = np.zeros_like(later)
    earlier[:-1] = later[1:]
    return later | earlier


def of_items(sequences: Sequences, items: pa.StringArray, *, unless: bool = False) -> Sequences:
    """The events of these items (`unless` them: of all others)."""
    if not len(items):
        return sequences if unless else sequences.keep_events(np.zeros(len(sequences.items), bool))
    is_one = pc.is_in(sequences.names, items).to_numpy(zero_copy_only=False)
    return sequences.keep_events((is_one != unless)[sequences.items])


def filter_round(sequences: Sequences, rare_items: pa.StringArray, min_events: int) -> Sequences:
    """The sequences of at least `min_events` events and, of these, the events of items that are not rare.

    Both conditions look at the input of the round, as the SASRec paper's preprocessing does: a user with enough events
    stays even where some of them are of rare items.
    """
    return of_items(sequences.keep(sequences.lengths >= min_events), rare_items, unless=True)


def hold_out_items(sequences: Sequences, share: float) -> Sequences:
    """The events of all but a share of the items; of these, the newest event of a sequence that can be for testing."""
    held_out = np.array([is_chosen(name, share, b"hold-out") for name in sequences.names.to_pylist()], bool)
    kept = ~held_out[sequences.items]
    numbers = np.add.reduceat(kept, sequences.offsets[:-1], dtype=np.int64)
    kept[sequences.last[numbers > 1]] = True
    return sequences.keep_events(kept)


def is_chosen(name: str, share: float, purpose: bytes) -> bool:
    """Whether a name is among a share of all names, the same on every worker and in every run."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "big") < share * 2**64
