"""Apache Beam jobs: importable PTransforms with thin mains."""
