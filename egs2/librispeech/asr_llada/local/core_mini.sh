# The presets core_mini and core_mini_ci: the paper's parts and no extension but the CTC
# that warms the adapter up. Sourced by local/mini.sh, whose stages these are: speech,
# cached frames, trainings, a sweep. What differs from the preset mini:

lm=${out}/lm # stories15M with 500 byte-pair tokens
make_lm=local/make_bpe_lm.py
engines=
fresh=
last=
if [ -z "${suffix}" ]; then
    core="hibari=4.3 kokoro=1.6" # hours of speech
    train_set=train_core
    fresh_set=${train_set}
    last_set=${train_set}
else
    rows="llama diffusion_steps4 low_confidence_mask30"
fi

# As in local/train_mini.sh: name, data, config, first tensors, more options.
all_runs() {
    cat << END
ctc   speech conf/train_asr_core_mini_ctc.yaml           -
text  text   conf/train_asr_whisper_llama_core_mini.yaml - --batch_bins 9000 --valid_batch_bins 18000 --max_epoch 2 --num_iters_per_epoch 60 --scheduler_conf total_steps=120
llama speech conf/train_asr_whisper_llama_core_mini.yaml $(part_of ctc postencoder),$(part_of ctc decoder.audio_prefix),$(part_of text decoder.lm)
llada speech conf/train_asr_whisper_llada_core_mini.yaml llama:: --seed 1
END
}
