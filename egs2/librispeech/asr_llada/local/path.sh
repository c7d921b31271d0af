# Settings of your machine; sourced last by path.sh.
