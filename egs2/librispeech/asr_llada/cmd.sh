# How asr.sh launches its jobs, inside an ESPnet checkout; nothing else reads this file.
# Choose here, or in the environment of run.sh:
#   local   run.pl     this machine
#   stdout  stdout.pl  this machine, and the logs on the terminal too
#   slurm   slurm.pl   sbatch, options in conf/slurm.conf
#   sge     queue.pl   qsub of Grid Engine, conf/queue.conf
#   pbs     pbs.pl     qsub of PBS/Torque, conf/pbs.conf
#   ssh     ssh.pl     the hosts listed in .queue/machines
# A job starts with PATH alone and sources path.sh; other variables belong in local/path.sh.
cmd_backend=${cmd_backend:-local}

case ${cmd_backend} in
    local) _launcher=run.pl ;;
    stdout) _launcher=stdout.pl ;;
    slurm) _launcher=slurm.pl ;;
    sge) _launcher=queue.pl ;;
    pbs) _launcher=pbs.pl ;;
    ssh) _launcher=ssh.pl ;;
    *)
        echo "error: cmd.sh: unknown cmd_backend=${cmd_backend};" \
            "expected local, stdout, slurm, sge, pbs or ssh" >&2
        return 2
        ;;
esac
export train_cmd=${_launcher}  # data and statistics
export cuda_cmd=${_launcher}   # training, and decoding on the GPU; asr.sh adds --gpu
export decode_cmd=${_launcher} # decoding on the CPU
