#!/usr/bin/env bash
# Word error rates under Whisper's text normaliser, beside sclite's on the raw text.
#
#   local/score.sh [--dumpdir dump] exp/asr_x
#
# Stage 13 calls it, asr.sh's as well as ours. For each decoded set it writes
# wer_normalized.txt, and merges what asr.sh leaves in the log directories: forward
# passes and decoding seconds. asr.sh writes a RESULTS.md without them afterwards; so, where
# it runs the stages, RESULTS_normalized.md has our tables, with the normalised rates and
# the confidence intervals. Elsewhere RESULTS.md does.
set -euo pipefail

. ./path.sh

dumpdir=dump
if [ "${1:-}" = --dumpdir ]; then
    dumpdir=${2:?the value of --dumpdir is missing}
    shift 2
fi
asr_exp=${1:?usage: local/score.sh [--dumpdir dump] exp/asr_x}

find "${asr_exp}" -type d -name logdir | sort | while read -r logdir; do
    dir=${logdir%/logdir}
    [ -f "${dir}/text" ] || continue # statistics, or a decoding that was broken off
    for name in passes seconds; do
        if compgen -G "${logdir}/output.*/1best_recog/${name}" > /dev/null; then
            sort "${logdir}"/output.*/1best_recog/"${name}" > "${dir}/${name}"
        fi
    done
    # exp/asr_x/<inference_tag>/[org/]<set>
    set=${dir#"${asr_exp}"/*/}
    python3 -m espnet_llada.bin.score "${dumpdir}/raw/${set}/text" "${dir}/text" \
        > "${dir}/wer_normalized.txt"
    echo "${dir}: $(tail -n 1 "${dir}/wer_normalized.txt")"
done

if [ -e ./asr.sh ]; then
    python3 -m espnet_llada.bin.report --name RESULTS_normalized.md "${asr_exp}"
fi
