# Where the corpora are. The environment wins over this file.

# The directory that holds LibriSpeech/ with train-clean-100, dev-clean, ... in it, from
# https://www.openslr.org/12 (61 GB unpacked); "downloads" has the recipe fetch it there.
# `run.sh --preset librispeech` reads it; so does --preset paper, of which it needs
# test-clean and test-other only, and fetches these where it is empty.
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

# All speech that --preset core_mini trains on.
CORE=${CORE:-}

# For --preset paper. The checkpoint that the paper's authors published, checkpoint_best.pth:
# the README of https://github.com/liuzhan22/Diffusion-ASR links to it. Of its {"model": ...}
# these tensors are read: speech_query_tokens, adapter.bert.*, linear_proj.* and
# llada.base_model...{q,k,v}_proj.lora_{A,B}.default.weight.
RELEASE=${RELEASE:-checkpoint_best.pth}

# The models that it was trained on: hub ids, with @revision if need be, or directories; of
# Whisper also OpenAI's large-v3.pt.
WHISPER=${WHISPER:-openai/whisper-large-v3}
LLADA=${LLADA:-GSAI-ML/LLaDA-8B-Instruct}

# What is deliberated over: a Kaldi text, or a directory with <set>/text. Where there is none,
# what the Whisper-LLaMA of the directory LLAMA says, which --preset librispeech trains, and
# where there is none either what Whisper's own decoder says.
FIRST_PASS=${FIRST_PASS:-}
LLAMA=${LLAMA:-}
