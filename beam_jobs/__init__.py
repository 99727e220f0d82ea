"""Apache Beam jobs: raw events to dataset folders."""

import logging

# Beam warns, through the root logger, of cloud libraries that are not installed; local runs do not need them.
logging.disable(logging.WARNING)
try:
    import apache_beam  # noqa: F401
finally:
    logging.disable(logging.NOTSET)
