#!/usr/bin/env bash
# Makes, or repairs, a Python environment for `make demo` and `make test`.
#
#   local/install.sh VENV_DIR
#
# Needs Python 3.10-3.13 with venv, and the package registry that pip is configured for.
# PYTHON=/path/to/python chooses the interpreter; ESPNET=202511 or 202611 the ESPnet, by
# default the last release for that Python. May be interrupted and run again; when
# nothing is to be done it returns at once. A torch that the environment already has
# (python -m venv --system-site-packages) is left as it is.
set -euo pipefail

# ---- what is installed: our own needs stand in setup.py, everything else here --------
torch=2.13.0
old_espnet=202511   # the last release for Python 3.10 and 3.11
new_espnet=202611   # Python 3.12 and 3.13
whisper=20250625
omniio=0.1.2        # what ESPnet 202611 reads archives with, for use in a checkout of it
# What ESPnet 202511 imports. Its own metadata cannot be used: it pins setuptools<74, and
# torch 2.13 wants >= 77. librosa 1.0 is younger and untested with it.
espnet_needs=('numpy>=2' scipy 'librosa>=0.10.2,<1' soundfile 'kaldiio>=2.18'
  'sentencepiece>=0.2,<0.2.2' 'configargparse>=1.2.1' typeguard humanfriendly packaging PyYAML
  h5py filelock protobuf nltk einops opt-einsum hydra-core torch_complex
  ci_sdr fast-bss-eval==0.1.3 jamo==0.4.1 espnet_tts_frontend tensorboard matplotlib)
# ESPnet 202611 names its own needs; of its extra [train], what the ASR task imports.
new_espnet_needs=('librosa<1' tensorboard matplotlib 'nltk>=3.4.5' opt_einsum h5py)
# openai-whisper without triton, which only its CUDA kernels for word times use.
whisper_needs=(tiktoken more-itertools tqdm numba)
# Upper bounds at what was tested (Python 3.10 gets older ones of the same series).
bounds=('transformers>=5,<5.24' 'peft<0.22' 'jiwer<5' 'gguf<0.20' 'setuptools<85')
# pip 26.3 refuses ci_sdr, for a direct reference in an extra that nobody asks for.
pip_bounds='pip>=23,<26.3'
cpu_index=https://download.pytorch.org/whl/cpu   # PyTorch's own, for its CPU builds

# ---- helpers ---------------------------------------------------------------------------
die() { echo "install.sh: $*" >&2; exit 1; }
say() { printf '%s  %s\n' "$(date +%T)" "$*" | tee -a "$log"; }
supported='import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'
find_python() {
  local p list=${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3}
  for p in $list; do
    if "$p" -c "$supported" >/dev/null 2>&1; then command -v "$p"; return; fi
  done
  die "none of '$list' is Python 3.10-3.13 with venv; install one (Debian, Ubuntu: apt" \
    "install python3-venv), or set PYTHON"
}
get() {  # pip install, quiet; its errors are shown
  "$py" -m pip install --no-input --disable-pip-version-check --no-warn-conflicts \
    --progress-bar off "$@" >"$log.step" 2>&1 && rc=0 || rc=$?
  cat "$log.step" >>"$log"
  [ $rc = 0 ] || grep -a '^ERROR' "$log.step" >&2 || tail -n 5 "$log.step" >&2
  return $rc
}
version_of() { "$py" -c "import importlib.metadata as m; print(m.version('$1'))" 2>>"$log"; }
reachable() {
  "$py" -c "import urllib.request as u; u.urlopen('$1', timeout=5)" >>"$log" 2>&1
}

# ---- is there anything to do? ----------------------------------------------------------
[ $# = 1 ] || die "usage: local/install.sh VENV_DIR"
mkdir -p "$1" || die "$1: cannot make this directory; name another"
venv=$(cd "$1" && pwd -P)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../.." && pwd -P)
py=$venv/bin/python log=$venv/install.log stamp=$venv/.espnet_llada_installed
# The paths count too: an editable install and a venv's scripts name them.
state=$({ cat "$root/setup.py" "${BASH_SOURCE[0]}"; echo "$root $venv${ESPNET:+ $ESPNET}"; } | sha256sum)
if [ -x "$py" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then exit 0; fi
exec 9>"$venv/.lock"
flock -n 9 || { say "waiting for another set-up of $venv"; flock 9; }
rm -f "$stamp"
export PIP_USER=0 PYTHONNOUSERSITE=1

# ---- a venv that runs ------------------------------------------------------------------
say "setting up $venv (full log: $log)"
if ! "$py" -c 'import sys' 2>>"$log"; then
  python=$(find_python)
  say "virtual environment, $("$python" -V)"
  rm -f "$venv"/bin/python*   # dangling links would be kept
  "$python" -m venv --without-pip "$venv" >>"$log" 2>&1 || die "venv failed, see $log"
fi
trap 'echo "install.sh: failed, see $log; running it again continues" >&2' ERR
"$py" -c "$supported" || die "$venv: not Python 3.10-3.13; remove it, or name another"
if "$py" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
  espnet=${ESPNET:-$new_espnet}
else
  espnet=${ESPNET:-$old_espnet}
  [ "$espnet" != "$new_espnet" ] || die "ESPnet $new_espnet needs Python 3.12 or 3.13"
fi
[[ $espnet = "$old_espnet" || $espnet = "$new_espnet" ]] ||
  die "ESPNET=$espnet: give $old_espnet or $new_espnet"
# A killed pip leaves packages that look installed: INSTALLER is written after the files.
site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for d in "$site"/*.dist-info; do [ -e "$d/INSTALLER" ] || rm -rf "$d"; done
rm -rf "$site"/~*
if ! { [ -d "$site/pip" ] && "$py" -m pip --version; } >>"$log" 2>&1; then
  rm -rf "$site"/pip "$site"/pip-*.dist-info
  "$py" -m ensurepip --default-pip >>"$log" 2>&1
fi
get "$pip_bounds" setuptools wheel
# Without this name an activated venv's user would install into another Python.
[ -x "$venv/bin/pip" ] || get --force-reinstall --no-deps "$pip_bounds"

# ---- torch -----------------------------------------------------------------------------
cd "$venv"   # pip splits these two at spaces, so the path is a relative one
printf '%s\n' "${bounds[@]}" >constraints.txt
export PIP_CONSTRAINT="${PIP_CONSTRAINT:-} constraints.txt"
export PIP_BUILD_CONSTRAINT=constraints.txt
if version=$(version_of torch); then
  say "torch $version is there and stays"
elif nvidia-smi -L >>"$log" 2>&1; then
  say "torch $torch for CUDA (several GB)"
  get "torch==$torch"
else
  say "torch $torch for CPU (about 200 MB)"
  if ! get "torch==$torch+cpu" 2>>"$log" && ! { reachable "$cpu_index/torch/" &&
    get --extra-index-url "$cpu_index" "torch==$torch+cpu"; }; then
    say "NOTE: no CPU build of torch $torch for this Python within reach, so the registry's"
    say "NOTE: own, which brings CUDA along: several GB to fetch, and some minutes."
    get "torch==$torch"
  fi
fi
version=$(version_of torch)
echo "torch==$version" >>constraints.txt   # from here on nothing can replace it

# ---- the rest --------------------------------------------------------------------------
say "what ESPnet and Whisper's text normaliser need"
if [ "$espnet" = "$old_espnet" ]; then
  get "${espnet_needs[@]}" "${whisper_needs[@]}"
else
  get "${new_espnet_needs[@]}" "${whisper_needs[@]}"
fi
# It has no wheel for Python 3.13. ESPnet imports it where it counts the errors of its own
# decoders in training, so the rest works without a C++ compiler.
get editdistance 2>>"$log" ||
  say "NOTE: no editdistance (it needs g++), so ESPnet's own decoders cannot be trained"
if ! version_of torchaudio >>"$log"; then
  # Up to 2.10 torchaudio goes with the same torch; 2.11, its last, with all since.
  audio=$(printf '%s\n' "${version%%+*}" 2.11.0 | sort -V | head -n 1)
  say "torchaudio $audio"
  get --no-deps "torchaudio==$audio"
fi
say "espnet $espnet, openai-whisper $whisper, omniio $omniio"
[ "$espnet" = "$old_espnet" ] || get "espnet==$espnet"
get --no-deps "espnet==$espnet" "openai-whisper==$whisper" "omniio==$omniio"
say "espnet_llada (editable) with what it needs, test tools"
get -e "$root[demo,test,lint]"

# ---- does it work? ---------------------------------------------------------------------
say "checking"
if ! error=$("$py" -c 'import torchaudio' 2>&1) && [[ $error == *OSError* ]] &&
  [ -d "$site/torchaudio/lib" ]; then
  # The wheels' extension is linked against CUDA; without it torchaudio is pure PyTorch.
  say "torchaudio's CUDA extension does not fit this torch: moved to torchaudio/lib/unused"
  mkdir -p "$site/torchaudio/lib/unused"
  mv "$site"/torchaudio/lib/*.so "$site/torchaudio/lib/unused/"
fi
modules="torch, torchaudio, espnet2.tasks.asr, transformers, peft, jiwer, whisper"
"$py" -c "import $modules, espnet_llada" >>"$log" 2>&1 ||
  { tail -n 3 "$log" >&2; die "$venv does not work; remove it and run this again"; }
for p in torch torchaudio espnet transformers peft jiwer openai-whisper numpy; do
  say "  $p $(version_of $p)"
done
echo "$state" >"$stamp.new" && mv "$stamp.new" "$stamp"
say "done"
