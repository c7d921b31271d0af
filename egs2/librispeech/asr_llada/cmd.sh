# How asr.sh launches its jobs, inside an ESPnet checkout. run.pl runs them on this
# machine; queue.pl and slurm.pl (see ESPnet's TEMPLATE/asr1/cmd.sh) on a cluster.
# Outside a checkout nothing reads this file.
export train_cmd="run.pl"
export cuda_cmd="run.pl"
export decode_cmd="run.pl"
