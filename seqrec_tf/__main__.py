"""`python -m seqrec_tf` is the command `seqrec`."""

import sys

from seqrec_tf import cli

if __name__ == "__main__":
    sys.exit(cli.main())
