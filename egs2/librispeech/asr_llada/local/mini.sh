# The presets mini and mini_ci: sourced by run.sh, whose functions and options it uses.
# It sets the variables that each preset sets there, and defines run_mini. core_mini and
# core_mini_ci are these with what local/core_mini.sh sets instead.

. ./db.sh
. local/train_mini.sh

experiment=${preset%_ci}
preset=${preset#core_} # the same evaluation sets
suffix=${preset#mini}
train_set=train_synth${suffix}
valid_set=dev_synth${suffix}
text_set=train_text${suffix}
test_sets="test_read${suffix} test_prompts${suffix} test_synth${suffix}"

fresh_set=${train_set}
last_set=${train_set}

engines= # of local/synthesize.py, each with its hours of speech, or engine:source=hours
fresh=   # the same, for adapter and LM together
last=    # the same, for the last trainings
core=    # the same, for the preset core_mini
lm=stories15m
make_lm=local/make_lm.py
model= # trained here, else shipped
rows=
runs= # of local/train_mini.sh, by default all
to_decode=${test_sets}
sweep_args=
nj=2
inference_nj=2
if [ "${preset}" = mini ]; then
    # Hours of CPU: kokoro 1.4 each, hibari 0.01 to 0.02 an hour
    engines="hibari=28 flite=1.5 kokoro=1.6"
    fresh="hibari=48 hibari:definitions=10 flite=1.5 kokoro=1.6"
    last="hibari=18 hibari:definitions=9 hibari:prompts=4 flite=1.5 kokoro=1.6"
    fresh_set=train_fresh
    last_set=train_last
else
    asr_args="--max_epoch 1 --num_iters_per_epoch 2 --keep_nbest_models 1 ${asr_args}"
    rows="llama diffusion_steps4 deliberation"
fi
expdir=${expdir:-exp}
out=${expdir}/${experiment}${suffix}
models=${out}/models
[ "${experiment}" = mini ] || . "local/${experiment}.sh"

# Take out of the options what the stages do not know.
mini_options() {
    local name rest=()
    while [ $# -gt 0 ]; do
        name=${1#--}
        name=${name//-/_}
        case ${name} in
            engines | fresh | last | core | lm | model | rows | runs | sweep_args) printf -v "${name}" %s "$2" ;;
            sets) to_decode=$2 ;;
            nj | inference_nj)
                printf -v "${name}" %s "$2"
                rest+=("$1" "$2")
                ;;
            *) rest+=("$1" "$2") ;;
        esac
        shift 2
    done
    options=(${rest[@]+"${rest[@]}"})
}
mini_options ${options[@]+"${options[@]}"}

lm_args=
[ "${lm}" = stories15m ] || lm_args="--decoder_conf lm=${lm}"
llama_lm=${lm}
llada_lm=${lm}
weights=(whisper-tiny.en)
sets=(--train_set "${train_set}" --valid_set "${valid_set}" --test_sets "${test_sets}")
machine=(--ngpu 0 --nj "${nj}" --inference_nj "${inference_nj}" --gpu_inference false)

# reached <stage>: whether it is to be run.
reached() { [ "${stage}" -le "$1" ] && [ "$1" -le "${stop_stage}" ]; }

# mini_speech <variable> <engines and hours> <suffix> <seed>: speech, where the variable
# names none; then it names what was made.
mini_speech() {
    local item engine folder sources made=
    [ -z "${!1}" ] || return 0
    for item in $2; do
        engine=${item%%=*}
        folder=${dumpdir}/synth/${engine/:/_}$3
        sources=()
        [[ ${engine} != *:* ]] || sources=(--sources "${engine#*:}")
        log "Synthesizing ${item#*=} h by ${engine} into ${folder}"
        python3 local/synthesize.py --engine "${engine%%:*}" --hours "${item#*=}" --seed "$4" \
            --nj "${nj}" --output "${folder}" --exclude "${held_out[@]}" \
            ${sources[@]+"${sources[@]}"}
        made+=" ${folder}"
    done
    export "$1=${made# }"
}

# Speech, unless SYNTH, FRESH, LAST and CORE name some.
mini_material() {
    local set held_out=()
    # Sentences of the evaluation sets must not be synthesized, so these are prepared first.
    # shellcheck disable=SC2086
    local/data.sh --preset "${preset}" --train false ${local_data_opts}
    for set in ${test_sets} "${valid_set}"; do
        held_out+=("data/${set}/text")
    done
    mini_speech SYNTH "${engines}" "" 0
    mini_speech FRESH "${fresh}" _fresh 1
    mini_speech LAST "${last}" _last 2
    mini_speech CORE "${core}" _core 3
}

# The LM with the vocabulary of its text, unless the shipped one is used.
mini_lm() {
    if [ "${lm}" != stories15m ] && [ ! -f "${lm}/model.safetensors" ]; then
        log "Making the LM in ${lm}"
        python3 "${make_lm}" --text "${dumpdir}/text/${text_set}/text" --output "${lm}"
    fi
}

# Lines for the LM; in miniature those that are spoken.
mini_text() {
    local to=${dumpdir}/text set held_out=()
    mkdir -p "${to}/${valid_set}" "${to}/${text_set}"
    cp "data/${valid_set}/text" "${to}/${valid_set}/text"
    if [ "${preset}" = mini_ci ]; then
        cp "data/${train_set}/text" "${to}/${text_set}/text"
        return
    fi
    for set in ${test_sets} "${valid_set}"; do
        held_out+=("data/${set}/text")
    done
    log "Text for the LM: ${to}/${text_set}"
    python3 local/make_text.py --output "${to}/${text_set}" --exclude "${held_out[@]}"
}

# With the shipped weights there is nothing but the evaluation sets to prepare.
mini_evaluation_sets() {
    local set
    for set in ${test_sets} "${valid_set}"; do
        if [ ! -f "${dumpdir}/raw/${set}/wav.scp" ]; then
            log "Preparing the evaluation sets"
            asr "${common[@]}" --skip_train true --train_set "" --valid_set "" \
                --test_sets "${test_sets} ${valid_set}" --stage 1 --stop_stage 4 \
                --local_data_opts "--preset ${preset} --train false ${local_data_opts}"
            return
        fi
    done
}

mini_model() {
    if [ -n "${model}" ]; then
        echo "${model}"
    elif [ -e "$(mini_checkpoint llama)" ] && [ -e "$(mini_checkpoint llada)" ]; then
        echo "${models}"
    elif [ "${experiment}" = mini ]; then
        echo mini
    else
        fail "${models}: no trained models; run $0 --preset ${experiment} from stage 1 on"
    fi
}

# Reference, the baseline's transcript and what deliberation made of it, of a few utterances:
# those that it changed first.
mini_examples() {
    local set=${to_decode%% *} files=() row
    for row in llama deliberation; do
        files+=("${out}/${row}/${set}/text")
    done
    [ -f "${files[0]}" ] && [ -f "${files[1]}" ] || return 0
    awk 'FNR == 1 { file++ }
        { id = $1; sub(/^[^ ]+ ?/, ""); said[file, id] = $0 }
        file == 3 { order[said[2, id] == said[3, id], ++n[said[2, id] == said[3, id]]] = id }
        END {
            for (same = 0; same < 2; same++)
                for (i = 1; i <= n[same] && shown < 4; i++) {
                    id = order[same, i]; shown++
                    printf "\n%s\n  reference    %s\n  first pass   %s\n  deliberated  %s\n",
                        id, said[1, id], said[2, id], said[3, id]
                }
        }' "${dumpdir}/raw/${set}/text" "${files[@]}"
    echo
}

mini_sweep() {
    local chosen args
    chosen=$(mini_model)
    args=("conf/sweep_${experiment}.yaml" --model "${chosen}" --data "${dumpdir}/raw")
    args+=(--sets "${to_decode}" --output "${out}" --nj "${inference_nj}")
    [ -z "${rows}" ] || args+=(--rows "${rows}")
    log "Decoding ${to_decode} with the model '${chosen}'"
    # shellcheck disable=SC2086
    python3 -m espnet_llada.bin.cli sweep "${args[@]}" ${sweep_args}
    mini_examples
    log "Results: ${out}/RESULTS.md, ${out}/results.json, ${out}/report.html"
}

# Stages 1 to 11, by which the models are trained anew.
mini_training() {
    local config set
    if [ "${stop_stage}" -ge 10 ]; then
        for config in $(mini_configs); do
            [ -f "${config}" ] || fail "${config}: no such file; local/train_mini.sh names it"
        done
    fi
    if reached 1; then mini_material; fi
    if [ "${stage}" -le 4 ]; then
        asr "${common[@]}" --stage "${stage}" \
            --stop_stage "$(min "${stop_stage}" 4)" ${options[@]+"${options[@]}"}
    fi
    # The same two stages of the other sets; asr.sh knows one.
    if [ "${stage}" -le 4 ] && [ "${stop_stage}" -ge 3 ]; then
        for set in "${fresh_set}" "${last_set}"; do
            [ "${set}" != "${train_set}" ] || continue
            asr "${common[@]}" --train_set "${set}" \
                --stage "$(max "${stage}" 3)" --stop_stage "$(min "${stop_stage}" 4)"
        done
    fi
    if reached 5; then
        mini_text
        mini_lm
        asr "${common[@]}" --hugging_face_model_name_or_path "${lm}" --stage 5 \
            --stop_stage 5 ${options[@]+"${options[@]}"}
    fi
    if reached 10; then mini_features; fi
    mini_trainings
}

# The two systems and their LM as --model takes them, and as the package has them.
mini_pack() {
    local from=${lm} system shipped
    [ "${experiment}" = mini ] || fail "--skip_packing false: for the preset mini only"
    [ "${lm}" != stories15m ] ||
        from=$(python3 -c "from espnet_llada.io.weights import resolve; print(resolve('${lm}', 'lm').path)")
    shipped=$(python3 -c "from espnet_llada.io.weights.assets import MINI; print(MINI)")
    for system in llama llada; do
        [ -e "${models}/${system}/decode.yaml" ] ||
            cp "${shipped}/${system}/decode.yaml" "${models}/${system}/"
    done
    python3 local/pack_mini.py --llama "${models}/llama" --llada "${models}/llada" \
        --lm "${from}" --output "${out}/packed"
}

run_mini() {
    if [ "${stage}" -le 11 ]; then
        mini_training
    else
        mini_evaluation_sets
    fi
    if [ "${stop_stage}" -ge 12 ] && [ "${skip_eval}" = false ]; then
        mini_sweep
    fi
    if reached 14 && [[ " ${options[*]-} " == *" --skip_packing false "* ]]; then
        mini_pack
    fi
}
