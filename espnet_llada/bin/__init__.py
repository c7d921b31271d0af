"""The commands. A process that is one of them has its streams and its end in order."""

from espnet_llada.bin.process import begin, is_command

if is_command():
    begin()
