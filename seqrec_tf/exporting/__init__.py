"""The parts of `seqrec export` that have rooms of their own: the saved model, new items, golden requests."""
