"""The parts of `seqrec train` that have rooms of their own: what it will take, going on, what is kept."""
