#!/usr/bin/env bash
# Whisper-LLaDA and its autoregressive twin on LibriSpeech, or on the mini corpus.
set -euo pipefail

usage() {
    cat << EOF
Usage: $0 [--preset demo|ci|mini|mini_ci|core_mini|core_mini_ci|paper|paper_ci|librispeech] [--asr_config YAML] [option of asr.sh ...]

Without --asr_config, the whole experiment of the preset:
  1. Whisper-LLaMA, the autoregressive baseline
  2. Whisper-LLaDA, decoded by diffusion
  3. Whisper-LLaDA, deliberating over the baseline's transcripts
  4. one table over the three
With --asr_config, that one system through the same stages.

Presets:
  demo         (default) 20 minutes of shipped speech, Whisper tiny.en and SmolLM2-135M
  ci           the same with 8 utterances of each set and a few training steps
  mini         small models with shipped weights. --stage 12 decodes the shipped evaluation
               sets with them, every row of conf/sweep_mini.yaml, into exp/mini; from stage 1
               on it makes the speech and trains the models anew (hours)
  mini_ci      the same with 8 utterances of each set and a few training steps
  core_mini    the paper's parts and nothing else, at that size: makes the speech, trains
               both systems, decodes every row of
               conf/sweep_core_mini.yaml into exp/core_mini; --stage 12 decodes only
  core_mini_ci the same with 8 utterances of each set and a few training steps
  paper        the paper's checkpoint, every row of conf/sweep_paper.yaml on test-clean and
               test-other, into exp/paper: RELEASE=checkpoint_best.pth $0 --preset paper
               (db.sh lists RELEASE, WHISPER, LLADA, LLAMA, FIRST_PASS)
  paper_ci     the same with 8 utterances and random weights, two minutes
  librispeech  960 hours; LIBRISPEECH=DIR in db.sh, or =downloads to have them fetched

Options of the presets mini and core_mini, and of their _ci:
  --rows "llama ..."      rows of conf/sweep_mini.yaml, by default all
  --sets "test_read ..."  evaluation sets to decode: test_read test_prompts test_synth
  --runs "ctc ..."        trainings of local/train_mini.sh, by default all
  --model NAME            default: what was trained here, else the shipped 'mini'
  --sweep_args "..."      further options of espnet-llada sweep
  --engines "hibari=28 flite=1.5 kokoro=1.6"
                          hours of speech to synthesize; SYNTH in db.sh names what is there
  --fresh "hibari=48 ..." the same for adapter and LM together (FRESH in db.sh); engine:source
                          (hibari:definitions=10) for one of the sources of text
  --last "hibari=18 ..."  the same for the last trainings (LAST in db.sh)
  --core "hibari=4.3 ..." the same for core_mini (CORE in db.sh)
  --lm DIR                an LM to make and to train, instead of the shipped one

Options of the presets paper and paper_ci:
  --rows, --sets, --sweep_args    as above; dev_clean and dev_other are sets too
  --ngpu 8                        processes, one for each GPU (1); 0: --inference_nj on CPUs
  --inference_nj N                jobs of a scheduler, where cmd.sh names one
  --dtype bfloat16|float32        of the frozen weights (bfloat16)
  --first_pass whisper|llama|TEXT what is deliberated over; db.sh has the default

Examples:
  $0
  $0 --preset mini --stage 12
  RELEASE=checkpoint_best.pth $0 --preset paper --ngpu 8
  $0 --preset librispeech --ngpu 8
  $0 --asr_config conf/train_asr_whisper_llada_demo.yaml \\
      --inference_config conf/decode_diffusion.yaml --stage 11

Inside an ESPnet checkout the stages are run by its asr.sh, elsewhere by
python -m espnet_llada.recipe, whose --help lists the options.
EOF
}

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

fail() {
    echo "error: $*" >&2
    exit 2
}

# Inside an ESPnet checkout, or linked into one: link what asr.sh expects in this directory.
link_template() {
    local template=../../TEMPLATE/asr1 name
    # Where this directory is a link, ".." is not the checkout, but its name says which.
    [ -e "${template}/asr.sh" ] || template=${PWD%/*/*}/TEMPLATE/asr1
    [ -e "${template}/asr.sh" ] || return 0
    for name in asr.sh scripts pyscripts steps utils; do
        [ -e "${name}" ] || ln -sfn "${template}/${name}" "${name}"
    done
}

# asr.sh must not fail for want of a program after a day of training.
check_asr_sh() {
    [ -e utils/parse_options.sh ] ||
        fail "asr.sh is here, but not Kaldi's utils; run 'make kaldi.done' in tools/ of ESPnet"
    if [ "${stop_stage}" -ge 13 ] && [ "${skip_eval}" = false ]; then
        command -v sclite > /dev/null || fail "asr.sh needs sclite; 'apt install sctk' or," \
            "in tools/ of ESPnet, installers/install_sctk.sh"
    fi
}

# The stages of one system.
asr() {
    if [ -e ./asr.sh ]; then
        ./asr.sh --python "python3 -m espnet_llada.run" "$@"
    else
        python3 -m espnet_llada.recipe "$@"
    fi
}

max() { echo $(($1 > $2 ? $1 : $2)); }
min() { echo $(($1 < $2 ? $1 : $2)); }

preset=demo
asr_config=
asr_args=
local_data_opts=
expdir=
dumpdir=dump
stage=1
stop_stage=10000
skip_eval=false
decode_args= # cuts a preset makes in decoding
options=() # everything else goes through to the stages
system_options= # of these, what only fits a single system
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h)
            usage
            exit 0
            ;;
        --*) ;;
        *) fail "'$1': expected an option; see $0 --help" ;;
    esac
    [ $# -ge 2 ] || fail "$1: its value is missing"
    name=${1#--}
    name=${name//-/_}
    case ${name} in
        preset | asr_config | asr_args | local_data_opts | expdir | dumpdir | stage | stop_stage)
            printf -v "${name}" %s "$2"
            ;;
        skip_eval)
            skip_eval=$2
            options+=("$1" "$2")
            ;;
        asr_tag | asr_exp | inference_tag | inference_config | inference_args)
            system_options+=" $1"
            options+=("$1" "$2")
            ;;
        *) options+=("$1" "$2") ;;
    esac
    shift 2
done
for name in stage stop_stage; do
    [[ ${!name} =~ ^[0-9]{1,9}$ ]] || fail "--${name} ${!name}: expected a number"
    printf -v "${name}" %d $((10#${!name})) # 010 is not 8
done

cd "$(dirname "${BASH_SOURCE[0]}")"
link_template
. ./path.sh
. ./cmd.sh
python_has espnet_llada torch espnet2 tqdm yaml ||
    fail "$(command -v python3 || echo python3) lacks espnet_llada, torch or espnet;" \
        "make an environment with local/install.sh ../../../.venv"
[ ! -e ./asr.sh ] || check_asr_sh

case ${preset} in
    demo | ci)
        suffix=
        decode_args="--steps 8" # two cores and minutes, not accuracy
        sets=(--train_set train_mini --valid_set dev_mini --test_sets test_clean_mini)
        if [ "${preset}" = ci ]; then
            sets=(--train_set train_mini_ci --valid_set dev_mini_ci --test_sets test_clean_mini_ci)
            asr_args="--max_epoch 1 --num_iters_per_epoch 2 --keep_nbest_models 1 ${asr_args}"
            decode_args="--canvas_length 32 --steps 4"
            suffix=_ci
        fi
        expdir=${expdir:-exp${suffix}}
        llama_config=conf/train_asr_whisper_llama_demo.yaml
        llada_config=conf/train_asr_whisper_llada_demo.yaml
        llama_lm=smollm2-135m
        llada_lm=smollm2-135m
        weights=(whisper-tiny.en smollm2-135m)
        machine=(--ngpu 0 --nj 2 --inference_nj 2 --gpu_inference false --batch_size 8)
        ;;
    mini | mini_ci | core_mini | core_mini_ci) . local/mini.sh ;;
    paper | paper_ci) . local/paper.sh ;;
    librispeech)
        expdir=${expdir:-exp}
        sets=(--train_set train_960 --valid_set dev)
        sets+=(--test_sets "test_clean test_other dev_clean dev_other")
        llama_config=conf/train_asr_whisper_llama3_8b.yaml
        llada_config=conf/train_asr_whisper_llada_8b.yaml
        decode_args="--canvas_length 128 --steps 128"
        llama_lm=meta-llama/Meta-Llama-3-8B-Instruct
        llada_lm=GSAI-ML/LLaDA-8B-Instruct
        weights=()
        machine=(--ngpu 1 --nj 8 --inference_nj 1 --gpu_inference true --batch_size 8)
        ;;
    *) fail "unknown --preset ${preset}; expected demo, ci, mini, mini_ci," \
        "core_mini, core_mini_ci, paper, paper_ci or librispeech" ;;
esac

common=(
    --lang en --fs 16k --audio_format flac --max_wav_duration 30
    --token_type hugging_face --feats_normalize none --use_lm false
    "${sets[@]}" "${machine[@]}" --dumpdir "${dumpdir}" --expdir "${expdir}"
    --local_data_opts "--preset ${preset} ${local_data_opts}"
    --local_score_opts "--dumpdir ${dumpdir}"
)

if [ "${stop_stage}" -ge 10 ] && [ ${#weights[@]} -gt 0 ]; then
    log "Fetching the weights: ${weights[*]}"
    python3 -m espnet_llada.bin.weights "${weights[@]}"
fi

if [ -n "${asr_config}" ]; then
    lm=${llama_lm}
    [[ ${asr_config} != *llada* ]] || lm=${llada_lm}
    asr "${common[@]}" --hugging_face_model_name_or_path "${lm}" \
        --asr_config "${asr_config}" --asr_args "${asr_args}" \
        --stage "${stage}" --stop_stage "${stop_stage}" ${options[@]+"${options[@]}"}
    exit
fi

[ -z "${system_options}" ] || fail "${system_options# }: for one system; give --asr_config too"

if [[ ${preset} = mini* || ${preset} = paper* ]]; then
    "run_${preset%_ci}"
    exit
fi

llama_exp=${expdir}/asr_whisper_llama_${preset}
llada_exp=${expdir}/asr_whisper_llada_${preset}

# step <title> <first stage> <asr option>...
step() {
    local title=$1 first
    first=$(max "$2" "${stage}")
    shift 2
    if [ "${first}" -gt "${stop_stage}" ]; then
        return
    fi
    log "==== ${title} ===="
    asr "${common[@]}" --asr_args "${asr_args}" --stage "${first}" \
        --stop_stage "${stop_stage}" "$@" ${options[@]+"${options[@]}"}
}

step "1/3 Whisper-LLaMA, the baseline" 1 \
    --asr_exp "${llama_exp}" --hugging_face_model_name_or_path "${llama_lm}" \
    --asr_config "${llama_config}" \
    --inference_config conf/decode_greedy.yaml --inference_tag decode_greedy \
    --inference_args "${decode_args}"

# The stages before 11 see the data and the tokenizer, no model.
first=11
[ "${llada_lm}" = "${llama_lm}" ] || first=5
llada=(--asr_exp "${llada_exp}" --hugging_face_model_name_or_path "${llada_lm}")
llada+=(--asr_config "${llada_config}")

step "2/3 Whisper-LLaDA, diffusion decoding" "${first}" "${llada[@]}" \
    --inference_config conf/decode_diffusion.yaml --inference_tag decode_diffusion \
    --inference_args "${decode_args}"

step "3/3 Whisper-LLaDA, deliberation over the baseline's transcripts" 12 "${llada[@]}" \
    --inference_config conf/deliberate_low_confidence.yaml \
    --inference_tag deliberate_low_confidence \
    --inference_args "--first_pass ${llama_exp}/decode_greedy ${decode_args}"

if [ "${stop_stage}" -ge 13 ] && [ "${skip_eval}" = false ]; then
    if [ "${preset}" = demo ]; then
        log "Publishing the models as the tag 'demo', for espnet-llada"
        python3 -m espnet_llada.bin.publish --tag demo \
            "llada=${llada_exp}" "llama=${llama_exp}"
    fi
    python3 -m espnet_llada.bin.summarize \
        --ref_dir "${dumpdir}/raw" --output "${expdir}/RESULTS.md" \
        --baseline Whisper-LLaMA \
        "Whisper-LLaMA=${llama_exp}/decode_greedy" \
        "Whisper-LLaDA diffusion=${llada_exp}/decode_diffusion" \
        "Whisper-LLaDA deliberation=${llada_exp}/deliberate_low_confidence"
fi
