"""``python -m espnet_llada.weights NAME…`` fetches pinned weights ahead of time."""

import logging
import sys

from espnet_llada.types import UserError
from espnet_llada.weights import main

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
