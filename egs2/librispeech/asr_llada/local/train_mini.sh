# The trainings of --preset mini, in their order; sourced by local/mini.sh.

# Each line: name of the run, its data, its config, and the tensors it begins with,
# <run>:<from>:<to>[,...] for those <from> of an earlier run, <run>:: for all of them (- for
# the shipped LM alone);
# <run>+<run>:... for the mean of two runs (local/soup.py).
#   text    ${dumpdir}/text/train_text: lines for the LM, no speech
#   speech  ${dumpdir}/extracted/train_synth: frames of the frozen encoder
#   fresh   ${dumpdir}/extracted/train_fresh: the same of speech that no earlier training
#           has had, where the adapter errs as on test speech
#   last    ${dumpdir}/extracted/train_last: likewise
# and more options: another seed for LLaDA and its scorer, so that they err otherwise than LLaMA.
# --runs chooses some of them. All are validated on dev_synth. The runs called llama and llada are the two systems.
part_of() { echo "$1:$2:$2"; }
lm_of() { echo "$(part_of "$1" decoder.lm),$(part_of "$1" decoder.audio_prefix.copy_head)"; }
adapter_of() { echo "$(part_of "$1" postencoder),$(part_of "$1" decoder.audio_prefix.ctc)"; }
scorer_of() { part_of "$1" decoder.audio_prefix.scorer; }
all_of() { echo "$(adapter_of "$1"),$(lm_of "$1")"; }
all_runs() {
    local ctc
    ctc=$(adapter_of ctc)
    cat << EOF
ctc         speech  conf/train_asr_mini_ctc.yaml                 -
text_llama  text    conf/train_asr_whisper_llama_mini_text.yaml  -
text_llada  text    conf/train_asr_whisper_llada_mini_text.yaml  $(lm_of text_llama)
known_llama speech  conf/train_asr_whisper_llama_mini.yaml       ${ctc},$(lm_of text_llama)
known_llada speech  conf/train_asr_whisper_llada_mini.yaml       ${ctc},$(lm_of text_llada)
fresh_llama fresh   conf/train_asr_whisper_llama_mini_fresh.yaml ${ctc},$(lm_of known_llama)
fresh_llada fresh   conf/train_asr_whisper_llada_mini_fresh.yaml ${ctc},$(lm_of known_llada) --seed 1
scorer      last    conf/train_asr_mini_scorer.yaml              -
scorer_2    last    conf/train_asr_mini_scorer.yaml              - --seed 1
llama       last    conf/train_asr_whisper_llama_mini_last.yaml  $(all_of fresh_llama),$(scorer_of scorer)
last_llada  last    conf/train_asr_whisper_llada_mini_last.yaml  $(all_of fresh_llada),$(scorer_of scorer_2) --seed 1
llada       last    conf/train_asr_whisper_llada_mini_soup.yaml  last_llada::,$(adapter_of llama+last_llada) --seed 2
EOF
}

# Those of them that --runs names.
mini_runs() { all_runs | awk -v runs=" ${runs} " 'runs ~ /^ *$/ || index(runs, " " $1 " ")'; }

# mini_configs: the configs of all runs, or of those on <what>.
mini_configs() { mini_runs | awk -v what="${1:-}" '!what || $2 == what { print $3 }'; }

# The frozen encoder gives the same frames in every epoch of every run.
mini_features() {
    local config set
    config=$(mini_configs speech | head -n 1)
    [ -n "${config}" ] || return 0
    for set in $(printf '%s\n' "${train_set}" "${fresh_set}" "${last_set}" "${valid_set}" | sort -u); do
        log "Frames of ${set}, once for all runs"
        python3 -m espnet_llada.bin.cli features --config "${config}" --nj "${nj}" \
            --wav_scp "${dumpdir}/raw/${set}/wav.scp" --output "${dumpdir}/extracted/${set}"
    done
}

# mini_checkpoint <run>[+<run>]: what a finished training leaves, by accuracy, by loss, or at
# its end; of two trainings the mean of their Q-Formers and CTCs.
mini_checkpoint() {
    local run name files=()
    for run in ${1//+/ }; do
        for name in valid.acc valid.loss train.total_count; do
            [ ! -e "${models}/${run}/${name}.ave.pth" ] || break
        done
        files+=("${models}/${run}/${name}.ave.pth")
    done
    if [ ${#files[@]} -eq 1 ]; then
        echo "${files[0]}"
        return
    fi
    python3 local/soup.py --output "${models}/$1.pth" --parts postencoder decoder.audio_prefix.ctc -- "${files[@]}"
    echo "${models}/$1.pth"
}

# mini_begin <tensors>: the option that has a run begin with them.
mini_begin() {
    local part
    [ "$1" != - ] || return 0
    printf -- --init_param
    for part in ${1//,/ }; do
        printf ' %s' "$(mini_checkpoint "${part%%:*}"):${part#*:}"
    done
}

# mini_train <name> <what> <config> <tensors> [<option> ...]: stages 10 and 11 of one run.
mini_train() {
    local args=() first
    case $2 in
        text) # asr.sh has no training without speech
            args=(python3 -m espnet_llada.recipe)
            args+=("${common[@]}" --feats_type text --train_set "${text_set}")
            ;;
        speech) args=(asr "${common[@]}" --feats_type extracted) ;;
        fresh) args=(asr "${common[@]}" --feats_type extracted --train_set "${fresh_set}") ;;
        last) args=(asr "${common[@]}" --feats_type extracted --train_set "${last_set}") ;;
    esac
    first=$(max "${stage}" 10)
    # Lengths of speech and text are the same for every run of a kind.
    [[ " ${counted} " != *" $2 "* ]] || first=11
    counted+=" $2"
    [ "${first}" -le "${stop_stage}" ] || return 0
    log "==== training: $1 ===="
    "${args[@]}" --hugging_face_model_name_or_path "${lm}" \
        --asr_config "$3" --asr_exp "${models}/$1" --asr_stats_dir "${out}/stats_$2" \
        --asr_args "$(mini_begin "$4") ${*:5} ${lm_args} ${asr_args}" \
        --stage "${first}" --stop_stage "$(min "${stop_stage}" 11)" ${options[@]+"${options[@]}"}
}

mini_trainings() {
    local all run name what config tensors more counted=
    mapfile -t all < <(mini_runs) # not a pipe, since a training may read its stdin
    for run in "${all[@]}"; do
        read -r name what config tensors more <<< "${run}"
        # shellcheck disable=SC2086
        mini_train "${name}" "${what}" "${config}" "${tensors}" ${more}
    done
}
