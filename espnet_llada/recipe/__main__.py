"""``python -m espnet_llada.recipe``."""

from __future__ import annotations

from espnet_llada.bin.options import run_main
from espnet_llada.recipe.driver import main

if __name__ == "__main__":
    run_main(main)
