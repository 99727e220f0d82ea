"""Apache Beam jobs: raw events to dataset folders."""

import logging


def import_beam() -> None:
    """Import Beam, which takes a second, without its warnings of cloud libraries that local runs do not need."""
    logging.disable(logging.WARNING)  # it warns through the root logger
    try:
        import apache_beam  # noqa: F401
    finally:
        logging.disable(logging.NOTSET)
