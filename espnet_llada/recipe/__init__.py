"""Data preparation and the driver that walks a recipe through ESPnet2's stages.

``python -m espnet_llada.recipe`` takes asr.sh's options and writes asr.sh's files, for
use outside an ESPnet checkout; inside one, the recipe runs asr.sh itself.
"""
