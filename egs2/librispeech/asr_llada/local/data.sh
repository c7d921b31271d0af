#!/usr/bin/env bash
# Write data/<set>/{wav.scp,text,utt2spk,spk2utt}: stage 1.
#
#   local/data.sh [--preset demo|ci|mini|mini_ci|paper|paper_ci|librispeech]
#       [--librispeech DIR] [--sets test_clean+test_other] [--download true] [--max_utts N] [--check none|size|header|decode] [--partial true]
#       [--train false]
#
# The real LibriSpeech and the mini corpus go through the same code; they differ in the
# root directory and in the list of subsets. --download true fetches what DIR lacks of
# LibriSpeech; so does LIBRISPEECH=downloads, in db.sh or in the environment.
#
# The presets mini and mini_ci have no training data of their own. Data directories that
# SYNTH names, in db.sh or in the environment, become data/train_synth[_ci], those of
# FRESH, LAST and CORE data/train_{fresh,last,core}, without what the evaluation
# sets say; mini_ci takes some of train-mini where SYNTH is empty.
# With --train false they prepare the evaluation sets only.
#
# The presets paper and paper_ci prepare the --sets, which may be dev_clean and dev_other
# too, and nothing else. Without LIBRISPEECH they are fetched (350 MB each).
set -euo pipefail

. ./db.sh
. ./path.sh

preset=demo
max_utts=
train=true
names=test_clean+test_other
rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --preset) preset=${2:?the value of --preset is missing} ;;
        --librispeech) LIBRISPEECH=${2:?the value of --librispeech is missing} ;;
        --max_utts) max_utts=${2:?the value of --max_utts is missing} ;;
        --sets) names=${2:?the value of --sets is missing} ;;
        --train) train=${2:?the value of --train is missing} ;;
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
        max_utts=${max_utts:-8}
        ;;
    mini | mini_ci)
        root=${LIBRISPEECH_MINI}
        suffix=${preset#mini}
        sets=("test_read${suffix}=test-clean-mini" "test_prompts${suffix}=test-prompts-mini")
        sets+=("test_synth${suffix}=test-synth-mini")
        sets+=("dev_synth${suffix}=dev-mini+dev-synth-mini")
        if [ "${preset}" = mini_ci ]; then
            max_utts=${max_utts:-8}
            [ "${train}" = false ] || [ -n "${SYNTH}" ] || sets+=(train_synth_ci=train-mini)
        fi
        ;;
    paper)
        root=${LIBRISPEECH:-downloads}
        [ "${root}" != downloads ] || set -- --download true "$@"
        sets=()
        for name in ${names//+/ }; do
            case ${name} in
                test_clean | test_other | dev_clean | dev_other) sets+=("${name}=${name/_/-}") ;;
                *)
                    echo "error: --sets ${name}: expected test_clean, test_other, dev_clean" \
                        "or dev_other" >&2
                    exit 2
                    ;;
            esac
        done
        ;;
    paper_ci) # four utterances each; names of their own
        root=${LIBRISPEECH_MINI}
        max_utts=${max_utts:-4}
        sets=(test_clean_ci=test-clean-mini test_other_ci=test-synth-mini)
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
        echo "error: unknown --preset ${preset}; expected demo, ci, mini, mini_ci, paper," \
            "paper_ci or librispeech" >&2
        exit 2
        ;;
esac

few=()
[ -z "${max_utts}" ] || few=(--max_utts "${max_utts}")
python3 -m espnet_llada.recipe.librispeech --root "${root}" ${few[@]+"${few[@]}"} "$@" "${sets[@]}"

# combine <set> <data directories>
combine() {
    local set held_out=() directories
    read -ra directories <<< "$2"
    for set in "${sets[@]}"; do
        held_out+=("data/${set%%=*}")
    done
    python3 -m espnet_llada.recipe.combine --output "data/$1" ${few[@]+"${few[@]}"} \
        --held_out "${held_out[@]}" --directories "${directories[@]}"
}
if [[ ${preset} = mini* && ${train} != false ]]; then
    [ -z "${SYNTH}" ] || combine "train_synth${suffix}" "${SYNTH}"
    for set in fresh last core; do
        [ "${preset}" != mini_ci ] || break
        directories=${set^^}
        [ -z "${!directories}" ] || combine "train_${set}" "${!directories}"
    done
fi
