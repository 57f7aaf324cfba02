#!/usr/bin/env bash
# Trains on the whole of one machine: a process a GPU, or as many as suit its cores.
#
# Edit:  nothing. These variables change it: NPROC, processes; RESTARTS, how often lost processes are replaced (0);
#        PYTHON, the interpreter that has distmnist (python).
# Run:   launch/single_node.sh [options of distmnist.train]
#
# The exit code is torchrun's: 0, or 1 for a run that failed or was interrupted; "status" in its summary.json tells.
set -euo pipefail

die() { echo "single_node.sh: $*" >&2; exit 2; }

python=${PYTHON:-python}
restarts=${RESTARTS:-0}
[[ $restarts =~ ^[0-9]+$ ]] || die "RESTARTS=$restarts is no number"
[[ ${NPROC:-1} =~ ^[1-9][0-9]*$ ]] || die "NPROC=$NPROC is not a number from 1 on"

numbers=$("$python" -m distmnist.machine ${NPROC:+"$NPROC"} 2>/dev/null) ||
  die "'$python' cannot import distmnist and torch: set PYTHON, activate its environment, start in the clone's root"
read -r nproc threads <<<"$numbers"

# The threads of each process: without it torchrun says 1, and prints a warning.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
# An agent that restarts its processes would otherwise hand them a store with the words of the dead.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# The address: torchrun would look up the host's name, which need not resolve.
exec "$python" -m torch.distributed.run --standalone --local-addr=127.0.0.1 \
  --nproc-per-node="$nproc" --max-restarts="$restarts" -m distmnist.train "$@"
