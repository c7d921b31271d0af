"""The commands, with their handling of streams and interrupts."""

from espnet_llada.bin.process import begin, is_command

if is_command():
    begin()
