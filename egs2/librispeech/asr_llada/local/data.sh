#!/usr/bin/env bash
# Write data/<set>/{wav.scp,text,utt2spk,spk2utt}: stage 1.
#
#   local/data.sh [--preset demo|ci|librispeech] [--max_utts N]
#
# The real LibriSpeech and the mini corpus go through the same code; they differ in the
# root directory and in the list of subsets.
set -euo pipefail

. ./db.sh
. ./path.sh

preset=demo
if [ "${1:-}" = --preset ]; then
    preset=${2:?the value of --preset is missing}
    shift 2
fi

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
        if [ -z "${root}" ]; then
            echo "error: set LIBRISPEECH in db.sh to the directory that holds LibriSpeech/" >&2
            exit 2
        fi
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
