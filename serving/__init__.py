"""Serving: a development REST server, its client, and the configuration of TF Serving."""
