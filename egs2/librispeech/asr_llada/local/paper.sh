# The presets paper and paper_ci: sourced by run.sh, whose functions and options it uses.
# It sets the variables that each preset sets there, and defines run_paper.

. ./db.sh

suffix=${preset#paper}
to_decode="test_clean test_other"
first_pass=${FIRST_PASS}
rows=
sweep_args=
dtype=bfloat16
ngpu=1
inference_nj=1
if [ "${preset}" = paper_ci ]; then
    first_pass=whisper
    ngpu=0
    inference_nj=2
fi

# Take out of the options what the stages do not know.
paper_options() {
    local name rest=()
    while [ $# -gt 0 ]; do
        name=${1#--}
        name=${name//-/_}
        case ${name} in
            first_pass | rows | sweep_args | dtype | ngpu | inference_nj)
                printf -v "${name}" %s "$2"
                ;;
            sets) to_decode=$2 ;;
            *) rest+=("$1" "$2") ;;
        esac
        shift 2
    done
    options=(${rest[@]+"${rest[@]}"})
}
paper_options ${options[@]+"${options[@]}"}
for name in ngpu inference_nj; do
    [[ ${!name} =~ ^[0-9]{1,4}$ ]] || fail "--${name} ${!name}: expected a number"
done

expdir=${expdir:-exp}
out=${expdir}/paper${suffix}
models=${out}/models
data=${dumpdir}/raw
dumped= # names of the sets in data/ and dump/raw/
for name in ${to_decode}; do dumped+=" ${name}${suffix}"; done
sets=(--test_sets "${dumped# }")
weights=()
machine=(--ngpu 0)
local_data_opts="--sets ${to_decode// /+} ${local_data_opts}"
llama_lm=
llada_lm=

# Say in one line what is not there, before anything is fetched or decoded.
paper_check() {
    [ -f "${RELEASE}" ] || [ "${stage}" -gt 10 ] ||
        fail "RELEASE=${RELEASE}: no such file; name the paper's checkpoint_best.pth, which" \
            "the README of https://github.com/liuzhan22/Diffusion-ASR links to (Google Drive)"
    [ -z "${LLAMA}" ] || [ -f "${LLAMA}/config.yaml" ] ||
        fail "LLAMA=${LLAMA}: no config.yaml in it; name the directory of a trained" \
            "Whisper-LLaMA, e.g. exp/asr_whisper_llama_librispeech of --preset librispeech"
    case ${first_pass} in
        "" | whisper) ;;
        llama) [ -n "${LLAMA}" ] || fail "--first_pass llama: whose? Set LLAMA to its directory" ;;
        *)
            [ -e "${first_pass}" ] ||
                fail "FIRST_PASS=${first_pass}: no such file; name a Kaldi text, or a" \
                    "directory with <set>/text for each of: ${to_decode}"
            ;;
    esac
}

# Random weights in the place of the paper's.
paper_ci_weights() {
    local made=${out}/weights
    if [ ! -e "${made}/checkpoint_best.pth" ]; then
        log "Making random weights in ${made}"
        python3 local/make_tiny_paper.py --output "${made}" \
            --text "${dumpdir}/raw/${dumped##* }/text"
    fi
    RELEASE=${made}/checkpoint_best.pth
    WHISPER=${made}/whisper-large-v3
    LLADA=${made}/LLaDA-8B-Instruct
    LLAMA=${made}/whisper_llama
}

# Stages 1 to 4 of the sets that are not there; no training data.
paper_sets() {
    local name missing=
    for name in ${dumped}; do
        [ -f "${data}/${name}/utt2num_samples" ] || missing+=" ${name}"
    done
    if [ -n "${missing}" ]; then
        asr "${common[@]}" --skip_train true --train_set "" --valid_set "" \
            --test_sets "${missing# }" --stage "${stage}" \
            --stop_stage "$(min "${stop_stage}" 4)" ${options[@]+"${options[@]}"}
    fi
    [ -n "${suffix}" ] || return 0
    # Under the names that published.yaml has them by; those of data/ stay the corpus's.
    mkdir -p "${out}/data"
    for name in ${to_decode}; do
        ln -sfn "$(realpath "${data}/${name}${suffix}")" "${out}/data/${name}"
    done
    data=${out}/data
}

# The released checkpoint and its frozen models become a model directory, once.
paper_convert() {
    mkdir -p "${models}"
    log "Converting ${RELEASE}, of ${WHISPER} and ${LLADA}"
    python3 -m espnet_llada.bin.cli convert --release "${RELEASE}" --whisper "${WHISPER}" \
        --lm "${LLADA}" --dtype "${dtype}" --output "${models}/llada"
}

# sweep <option>...: in one process for each GPU; by a scheduler, where cmd.sh names one.
paper_decode() {
    local shards device=cpu runner=${decode_cmd}
    shards=$(max 1 "${inference_nj}")
    set -- python3 -m espnet_llada.bin.cli sweep conf/sweep_paper.yaml --model "${models}" \
        --data "${data}" --sets "${to_decode}" --output "${out}" "$@"
    if [ "${ngpu}" -gt 0 ]; then
        device=cuda
        runner="${cuda_cmd} --gpu 1"
        shards=$(max "${ngpu}" "${inference_nj}")
    fi
    set -- "$@" --device "${device}" --shards "${shards}"
    if [ ! -e ./asr.sh ] || [ "${cmd_backend}" = local ]; then
        # shellcheck disable=SC2086
        "$@" --nj "${shards}" ${sweep_args}
        return
    fi
    mkdir -p "${out}/log"
    # shellcheck disable=SC2086
    ${runner} JOB=1:"${shards}" "${out}/log/sweep.JOB.log" "$@" --shard JOB ${sweep_args}
    # shellcheck disable=SC2086
    ${runner} "${out}/log/merge.log" "$@" ${sweep_args}
}

# The first pass, then every row over it.
paper_sweep() {
    local first=${first_pass} name
    if [ -n "${LLAMA}" ]; then
        ln -sfn "$(realpath "${LLAMA}")" "${models}/llama"
    else
        rm -f "${models}/llama"
        rows="${rows:+${rows} }!llama"
    fi
    [ -n "${first}" ] || first=$([ -n "${LLAMA}" ] && echo llama || echo whisper)
    if [ "${first}" = whisper ] || [ "${first}" = llama ]; then
        log "Decoding ${to_decode}: the first pass, '${first}'"
        paper_decode --rows "${first}" > /dev/null
        first=${out}/${first}
    fi
    # Rows that are named alone may do without the first pass, which is given all the same.
    for name in ${rows}; do
        [[ ${name} = !* ]] || { rows="first_pass ${rows}" && break; }
    done
    log "Decoding ${to_decode}: every row, over the first pass ${first}"
    paper_decode --rows "${rows}" --first_pass "${first}"
    log "Results: ${out}/RESULTS.md, ${out}/results.json, ${out}/report.html"
}

run_paper() {
    [ -n "${suffix}" ] || [ "${stop_stage}" -lt 10 ] || paper_check
    if [ "${stage}" -le 4 ]; then paper_sets; fi
    if [ "${stop_stage}" -lt 10 ]; then return; fi
    if [ -n "${suffix}" ]; then
        data=${out}/data
        paper_ci_weights
    fi
    if [ "${stage}" -le 10 ]; then paper_convert; fi
    if [ "${stop_stage}" -ge 12 ] && [ "${skip_eval}" = false ]; then paper_sweep; fi
}
