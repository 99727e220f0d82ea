"""The parts of `seqrec evaluate` that have rooms of their own: drawn items, and intervals."""
