#!/usr/bin/env bash
# Write data/<set>/{wav.scp,text,utt2spk,spk2utt}: stage 1.
#
#   local/data.sh [--preset demo|ci|librispeech] [--librispeech DIR] [--download true]
#       [--max_utts N] [--check none|size|header|decode] [--partial true]
#
# The real LibriSpeech and the mini corpus go through the same code; they differ in the
# root directory and in the list of subsets. --download true fetches what DIR lacks of
# LibriSpeech; so does LIBRISPEECH=downloads, in db.sh or in the environment.
set -euo pipefail

. ./db.sh
. ./path.sh

preset=demo
rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --preset) preset=${2:?the value of --preset is missing} ;;
        --librispeech) LIBRISPEECH=${2:?the value of --librispeech is missing} ;;
        *) # for espnet_llada.recipe.librispeech
            rest+=("$1")
            shift
            continue
            ;;
    esac
    shift 2
done
set -- ${rest[@]+"${rest[@]}"}

case ${preset} in
    demo)
        root=${LIBRISPEECH_MINI}
        sets=(train_mini=train-mini dev_mini=dev-mini test_clean_mini=test-clean-mini)
        ;;
    ci) # names of its own, so that a quick check leaves the demo's data alone
        root=${LIBRISPEECH_MINI}
        sets=(train_mini_ci=train-mini dev_mini_ci=dev-mini test_clean_mini_ci=test-clean-mini)
        set -- --max_utts 8 "$@"
        ;;
    librispeech)
        root=${LIBRISPEECH}
        if [ -z "${root}" ] && [[ " $* " != *" --download true "* ]]; then
            echo "error: no LibriSpeech: set LIBRISPEECH in db.sh to the directory that holds" \
                "LibriSpeech/, or to 'downloads' to have it fetched (61 GB)" >&2
            exit 2
        fi
        root=${root:-downloads}
        [ "${root}" != downloads ] || set -- --download true "$@"
        sets=(train_960=train-clean-100+train-clean-360+train-other-500)
        sets+=(dev=dev-clean+dev-other)
        for part in dev-clean dev-other test-clean test-other; do
            sets+=("${part//-/_}=${part}")
        done
        ;;
    *)
        echo "error: unknown --preset ${preset}; expected demo, ci or librispeech" >&2
        exit 2
        ;;
esac

exec python3 -m espnet_llada.recipe.librispeech --root "${root}" "$@" "${sets[@]}"
