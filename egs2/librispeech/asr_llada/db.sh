# Where the corpora are. The environment wins over this file.

# The directory that holds LibriSpeech/ with train-clean-100, dev-clean, ... in it, from
# https://www.openslr.org/12 (61 GB unpacked); "downloads" has the recipe fetch it there.
# Only `run.sh --preset librispeech` reads it.
LIBRISPEECH=${LIBRISPEECH:-}

# The corpus that comes with the recipe.
LIBRISPEECH_MINI=${LIBRISPEECH_MINI:-mini}

# Data directories that --preset mini trains on, separated by spaces, e.g. those that
# local/synthesize.py wrote. Where none is named, run.sh has it write them.
SYNTH=${SYNTH:-}

# Likewise speech that no earlier training has used: for adapter and LM together, and for
# the last training of each system.
FRESH=${FRESH:-}
LAST=${LAST:-}
