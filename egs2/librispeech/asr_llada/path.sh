# Sourced in the recipe's directory, by run.sh, local/*.sh, asr.sh and each job of it.

MAIN_ROOT=$PWD/../../..

export LC_ALL=C
export PYTHONIOENCODING=UTF-8

if [ -e ./asr.sh ]; then # inside an ESPnet checkout, or linked into one
    _template=$(readlink asr.sh || true)
    _espnet=${MAIN_ROOT}
    [[ ${_template} != /*/egs2/TEMPLATE/* ]] || _espnet=${_template%/egs2/TEMPLATE/*}
    export PATH=$PWD/utils:$PATH
    for _file in activate_python.sh extra_path.sh; do
        # shellcheck disable=SC1090
        [ ! -f "${_espnet}/tools/${_file}" ] || . "${_espnet}/tools/${_file}"
    done
    # asr.sh goes with the espnet2 of its own checkout, whatever is installed.
    export PYTHONPATH=${_espnet}${PYTHONPATH:+:${PYTHONPATH}}
    export OMP_NUM_THREADS=1
    export NCCL_SOCKET_IFNAME="^lo,docker,virbr,vmnet,vboxnet"
fi

# The active Python if it has the package, else the repository's own environment; the
# package itself, where it is not installed, from the repository.
python_has() { # <module>...: whether python3 finds them all
    python3 -c "import importlib.util as u, sys
sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))" "$@" 2> /dev/null
}
if ! python_has espnet_llada torch && [ -x "${MAIN_ROOT}/.venv/bin/python3" ]; then
    VIRTUAL_ENV=$(cd "${MAIN_ROOT}/.venv" && pwd)
    export VIRTUAL_ENV PATH=${VIRTUAL_ENV}/bin:$PATH
fi
if ! python_has espnet_llada && [ -d "${MAIN_ROOT}/espnet_llada" ]; then
    PYTHONPATH=$(cd "${MAIN_ROOT}" && pwd)${PYTHONPATH:+:${PYTHONPATH}}
    export PYTHONPATH
fi

# Debian's sctk keeps sclite away from PATH.
if ! command -v sclite > /dev/null && [ -x /usr/lib/sctk/bin/sclite ]; then
    export PATH=$PATH:/usr/lib/sctk/bin
fi

. local/path.sh
