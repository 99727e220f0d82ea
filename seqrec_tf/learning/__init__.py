"""What models learn by, and how they are measured: losses, negatives, optimizers, ranks, metrics."""
