#!/usr/bin/env bash
# The recipe inside an ESPnet checkout, by ESPnet's own asr.sh, unmodified.
#
#   tests/recipe/asr_sh.sh [SCRATCH_DIR]   # default: a temporary directory, removed after
#
# The checkout is ESPnet 202611's source distribution, from the package registry, kept in
# ${ESPNET_LLADA_CACHE:-~/.cache/espnet_llada}. Checked: stages 1, 3-5, 10-14 of the three
# systems of `run.sh --preset ci`; that our driver with one job and
# Slurm with two leave the same files, for the paper's rows as well; a recipe of ESPnet's with
# asr.sh's defaults, its decoder swapped; the default tests, with this ESPnet. Ends with OK,
# or with exit code 77 if something cannot be had.
set -euo pipefail

version=202611
sha256=eb5816c4d2e4a18eaa2afacc2f8cf74f93e5534dec0fdcee0b2c89b6f7ddd1fd
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${ESPNET_LLADA_CACHE:-$HOME/.cache/espnet_llada}
sources=${cache}/espnet-${version}
recipe=egs2/librispeech/asr_llada

say() { printf '\n==== %s  %s\n' "$(date +%T)" "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
skip() { echo "SKIPPED: $*" >&2; exit 77; }

get_sclite() {
    command -v sclite /usr/lib/sctk/bin/sclite > /dev/null && return
    [ "$(id -u)" = 0 ] || skip "sclite is missing; apt install sctk"
    say "apt-get install sctk: sclite is missing"
    { apt-get install -y -q sctk || { apt-get update -q && apt-get install -y -q sctk; }; } \
        || skip "sctk could not be installed"
}

# Whole or not at all, also when two fetch it at once.
get_espnet() {
    [ ! -d "${sources}" ] || return 0
    say "fetching ESPnet ${version} (36 MB)"
    mkdir -p "${cache}"
    new=$(mktemp -d "${cache}/.espnet-XXXXXX")
    python3 -m pip download -q --no-input --disable-pip-version-check --no-deps \
        --python-version 3.12 --no-binary espnet -d "${new}" "espnet==${version}" \
        || skip "ESPnet ${version} could not be fetched"
    echo "${sha256}  ${new}/espnet-${version}.tar.gz" | sha256sum -c --quiet \
        || fail "espnet-${version}.tar.gz is not the file this was written for"
    tar -xzf "${new}/espnet-${version}.tar.gz" -C "${new}"
    mv -T "${new}/espnet-${version}" "${sources}" || [ -d "${sources}" ]
    rm -rf "${new}"
}

# A checkout to write in, whose every part but egs2/librispeech is the cached one.
make_checkout() { # <dir>
    mkdir -p "$1/egs2/librispeech"
    ln -s "${sources}"/* "$1" 2> /dev/null || true # all but egs2, which is there
    ln -s "${sources}/egs2/TEMPLATE" "$1/egs2"
}

# The repository's recipe as a clone has it, without what runs have left there.
make_clone() { # <dir>
    mkdir -p "$1/${recipe}"
    cp -r "${repo}/conf" "$1"
    ln -s "${repo}/espnet_llada" "$1"
    (cd "${repo}/${recipe}" && cp -a README.md ./*.sh conf local mini "$1/${recipe}")
}

same() { # <file> <file>
    cmp -- "$1" "$2" || fail "$2 differs from $1"
    [ -s "$1" ] || fail "$1 is empty"
}

quietly() { # <function>: what it prints only if it fails
    "$1" > "${scratch}/$1.log" 2>&1 & # in the background set -e holds, before || it does not
    wait $! || { cat "${scratch}/$1.log"; fail "$1"; }
}

new= temporary=
trap 'rm -rf ${new:+"${new}"} ${temporary:+"${temporary}"}' EXIT
scratch=${1:-}
[ -n "${scratch}" ] || scratch=$(mktemp -d) temporary=${scratch}
mkdir -p "${scratch}"
scratch=$(cd "${scratch}" && pwd)
espnet=${scratch}/espnet clone=${scratch}/espnet_llada
get_sclite
get_espnet
make_checkout "${espnet}"
make_clone "${clone}"

say "a linked recipe: stages 1-5"
linked_recipe() {
    cd "${clone}"
    ln -s "$PWD"/egs2/librispeech/asr_llada "${espnet}/egs2/librispeech/" # README's lines
    cd "${espnet}/egs2/librispeech/asr_llada"
    ./run.sh --preset ci --stop_stage 5
    [ "$(readlink asr.sh)" = "${espnet}/egs2/TEMPLATE/asr1/asr.sh" ]
    mv dump "${scratch}/linked_dump"
    rm -r data asr.sh scripts pyscripts steps utils
    rm "${espnet}/${recipe}"
}
quietly linked_recipe

say "a copied recipe: all stages of the three systems"
cd "${clone}"
cp -rL egs2/librispeech/asr_llada "${espnet}/egs2/librispeech/" # README's lines
cd "${espnet}/egs2/librispeech/asr_llada"
[ -z "${ESPNET_LLADA_CACHE:-}" ] || echo "export ESPNET_LLADA_CACHE='${cache}'" >> local/path.sh
./run.sh --preset ci --skip_packing false

say "what they left"
cmp asr.sh "${sources}/egs2/TEMPLATE/asr1/asr.sh"
for name in wav.scp text utt2spk spk2utt utt2num_samples; do
    same "dump/raw/train_mini_ci/${name}" "${scratch}/linked_dump/raw/train_mini_ci/${name}"
done
decoded=(
    exp_ci/asr_whisper_llama_ci/decode_greedy
    exp_ci/asr_whisper_llada_ci/decode_diffusion
    exp_ci/asr_whisper_llada_ci/deliberate_low_confidence
)
set=test_clean_mini_ci
for dir in "${decoded[@]}"; do
    exp=$(dirname "${dir}") tag=$(basename "${dir}")
    for unit in wer cer; do
        total=$(sed -n 's/.*Sum\/Avg *|//p' "${dir}/${set}/score_${unit}/result.txt" | tr -s '| ' '|')
        grep -qF "|${tag}/${set}${total}" "${exp}/RESULTS.md" \
            || fail "${exp}/RESULTS.md lacks sclite's ${unit} of ${tag}: ${total}"
    done
    python3 - "${exp}"/*.zip << 'PY'
import sys, zipfile
(path,) = sys.argv[1:]
sizes = {i.filename: i.file_size for i in zipfile.ZipFile(path).infolist()}
model = max(sizes.values()) / 1e6
print(f"{path}: {len(sizes)} files, the largest {model:.1f} MB")
assert 1 < model < 100, sizes  # what was trained, without the frozen LM
assert any(name.endswith("RESULTS.md") for name in sizes), sizes
PY
done

[ "$(grep -c '^| Whisper-L[^|]*| [0-9]' exp_ci/RESULTS.md)" = 3 ] || fail "exp_ci/RESULTS.md: not 3 rows"

say "our driver scores to the same files, and decodes to them in one job"
mkdir "${clone}/${recipe}/dump"
cp -r exp_ci "${clone}/${recipe}"
cp -r dump/raw "${clone}/${recipe}/dump/raw"
one_system=(--preset ci --asr_config conf/train_asr_whisper_llada_demo.yaml
    --asr_exp exp_ci/asr_whisper_llada_ci
    --inference_config conf/deliberate_low_confidence.yaml
    --inference_args "--first_pass exp_ci/asr_whisper_llama_ci/decode_greedy --canvas_length 32 --steps 4")
our_driver() {
    cd "${clone}/${recipe}"
    rm -r exp_ci/*/*/"${set}"/{score_*,wer_normalized.txt} exp_ci/*/RESULTS.md
    ./run.sh --preset ci --stage 13
    ./run.sh "${one_system[@]}" --inference_tag driver1 --inference_nj 1 \
        --stage 12 --stop_stage 12
}
quietly our_driver
driver=${clone}/${recipe}
for dir in "${decoded[@]}"; do
    for name in score_{wer,cer}/{ref.trn,hyp.trn,result.txt} wer_normalized.txt; do
        same "${dir}/${set}/${name}" "${driver}/${dir}/${set}/${name}"
    done
    exp=$(dirname "${dir}")
    diff <(grep '^|' "${exp}/RESULTS.md" | sort -u) \
        <(grep '^|' "${driver}/${exp}/RESULTS.md" | sort -u) | grep '^<' \
        && fail "${driver}/${exp}/RESULTS.md has other numbers"
done
for name in text token token_int score; do
    same "${decoded[2]}/${set}/${name}" \
        "${driver}/exp_ci/asr_whisper_llada_ci/driver1/${set}/${name}"
done

say "two jobs by slurm.pl, as the two by run.pl"
# Slurm in one line: a job has PATH and its number, and nothing else from here.
mkdir "${scratch}/bin"
cat > "${scratch}/bin/sbatch" << 'SH'
#!/usr/bin/env bash
# sbatch --export=PATH ... -o LOG --array 1-N SCRIPT
jobs=
while [ $# -gt 1 ]; do
    case $1 in -o) log=$2 ;; --array) jobs=$2 ;; esac
    shift
done
if [ -z "${jobs}" ]; then # -o LOG SCRIPT
    env -i HOME="$HOME" PATH="$PATH" bash "$1" >> "${log}" 2>&1
fi
for n in ${jobs:+$(seq "${jobs%-*}" "${jobs#*-}")}; do
    env -i HOME="$HOME" PATH="$PATH" SLURM_ARRAY_TASK_ID="$n" bash "$1" >> "${log}.$n" 2>&1 &
done
wait
echo "Submitted batch job 1"
SH
chmod +x "${scratch}/bin/sbatch"
PATH=${scratch}/bin:$PATH cmd_backend=slurm ./run.sh "${one_system[@]}" \
    --inference_tag slurm2 --inference_nj 2 --stage 12 --stop_stage 12
for name in text token token_int score; do
    same "${decoded[2]}/${set}/${name}" "exp_ci/asr_whisper_llada_ci/slurm2/${set}/${name}"
done

say "the paper's rows by slurm.pl, as by our processes"
paper=(--preset paper_ci --rows "diffusion_steps8 low_confidence_mask30" --expdir)
paper_rows() {
    ./run.sh "${paper[@]}" exp_here
    PATH=${scratch}/bin:$PATH cmd_backend=slurm ./run.sh "${paper[@]}" exp_slurm
}
quietly paper_rows
for row in whisper diffusion_steps8 low_confidence_mask30; do
    same "exp_here/paper_ci/${row}/test_other/text" "exp_slurm/paper_ci/${row}/test_other/text"
done

say "a decoder swapped in a recipe of ESPnet's, with asr.sh's defaults (global_mvn, an LM)"
cd "${espnet}/egs2/librispeech/asr_llada"
write_configs() {
    cat > conf/swap.yaml << 'YAML'
encoder: conformer
encoder_conf: {output_size: 32, attention_heads: 2, linear_units: 64, num_blocks: 2}
frontend_conf: {n_fft: 512, hop_length: 160}
batch_type: sorted
batch_size: 4
max_epoch: 1
keep_nbest_models: 1
num_att_plot: 0
use_tensorboard: false
YAML
    { cat conf/swap.yaml; cat << 'YAML'; } > conf/swap_transformer.yaml
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 64, num_blocks: 1}
model_conf: {ctc_weight: 0.3}
YAML
    { cat conf/swap.yaml; cat << 'YAML'; } > conf/swap_llada.yaml
decoder: llada
decoder_conf: {lm: smollm2-135m, lora: {r: 8}, chat_template: false, text_case: lower}
YAML
    printf '%s\n' "lm_conf: {unit: 32, nlayers: 1}" "batch_size: 8" "max_epoch: 1" \
        "use_tensorboard: false" > conf/swap_lm.yaml
    printf '%s\n' "beam_size: 2" "ctc_weight: 0.3" "lm_weight: 0.3" "maxlenratio: -16" \
        > conf/decode_transformer.yaml
    printf '%s\n' "steps: 4" "lm_weight: 0.3" "maxlenratio: -16" > conf/decode_llada.yaml
}
swap() { # <decoder> <first stage>
    ./asr.sh --python "python3 -m espnet_llada.run" --lang en --audio_format flac \
        --ngpu 0 --nj 2 --inference_nj 2 --gpu_inference false --token_type char \
        --train_set train_mini_ci --valid_set dev_mini_ci --test_sets "${set}" \
        --lm_train_text data/train_mini_ci/text --lm_config conf/swap_lm.yaml \
        --asr_config "conf/swap_$1.yaml" --inference_config "conf/decode_$1.yaml" \
        --expdir exp_swap --stage "$2" --stop_stage 13
}
swapped() {
    write_configs
    . ./path.sh && . ./cmd.sh
    swap transformer 3
    swap llada 10
    scripts/utils/show_asr_result.sh exp_swap > exp_swap/RESULTS.md
    for decoder in transformer llada; do
        grep -q "^|decode_${decoder}_.*/${set}|8|" exp_swap/RESULTS.md
    done
    grep -hq "lm_file, .*without effect" exp_swap/asr_swap_llada_*/decode_*/"${set}"/logdir/*.log
}
quietly swapped

say "the default tests, with ESPnet ${version}"
cd "${repo}"
PYTHONPATH=${sources}${PYTHONPATH:+:${PYTHONPATH}} \
    OMP_NUM_THREADS=1 python3 -m pytest -n 2 --dist loadgroup

say "OK"
