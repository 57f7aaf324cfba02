#!/usr/bin/env bash
# Trains on several machines. They meet at ENDPOINT, which is one of them; one that is lost may come back.
#
# Edit:  nothing. Set, alike on every host:
#          ENDPOINT   HOST:PORT of the first host; its agent keeps the list of who is there, so it must stay
#          NNODES     hosts: a number, or MIN:MAX to train with whoever is there
#          JOB        a name for this run: the same name and --output go on with it (default: made of --output)
#        Where needed: NPROC, processes a host; IFACE, the interface to talk over (the one that leads to ENDPOINT);
#        RESTARTS, how often processes are replaced (3); WAIT, seconds to wait for the others (300); PYTHON (python);
#        MODULE=distmnist.doctor to examine the hosts instead.
# Run:   ENDPOINT=node1:29500 NNODES=2 launch/multi_node.sh --output /shared/runs/a [options of distmnist.train]
#
# --output must be in a directory that all hosts share; a hidden note beside it says how the first one was started.
# The exit code is torchrun's, 0 or 1; 2 before it was started.
set -euo pipefail

die() { echo "multi_node.sh: $*" >&2; exit 2; }
number() { [[ ${!1} =~ ^[0-9]+$ ]] || die "$1=${!1} is no number"; }

python=${PYTHON:-python} module=${MODULE:-distmnist.train}
[[ $module = distmnist.train ]] || RESTARTS=0
RESTARTS=${RESTARTS:-3} WAIT=${WAIT:-300}
number RESTARTS
number WAIT
[[ -n ${ENDPOINT:-} ]] || die "ENDPOINT is not set: HOST:PORT of the first host, the same on every host"
[[ ${NNODES:-} =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || die "NNODES='${NNODES:-}' is neither a number of hosts nor MIN:MAX"
(( ${NNODES%:*} <= ${NNODES#*:} )) || die "NNODES=$NNODES: MIN is larger than MAX"
[[ ${NPROC:-1} =~ ^[1-9][0-9]*$ ]] || die "NPROC=$NPROC is not a number from 1 on"

output=''
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --output=*) output=${!i#*=} ;;
    --output) next=$((i + 1)) output=${!next:-} ;;
  esac
done
job=${JOB:-${output//\//-}}
[[ -n $output ]] || die "--output must be named, in a directory that all hosts share"
# Without a JOB of its own the name of the directory is all that tells a new run from a host that comes back.
if [[ -z ${JOB:-} && " $* " != *' --resume '* ]] && grep -q '"status": "finished"' "$output/summary.json" 2>/dev/null; then
  die "--output $output holds a finished run; choose a different directory"
fi
shared=$(dirname "$output")
[[ -d $shared && -w $shared ]] || die "--output $output: $shared is not there, or not to be written; is it mounted here?"

"$python" -c 'import distmnist' 2>/dev/null ||
  die "'$python' cannot import distmnist: set PYTHON, activate its environment, or start in the clone's root"
# A wrong option is found here: torchrun would start, and fail, as often as RESTARTS says.
[[ $module != distmnist.train ]] || "$python" -m distmnist.commandline "$@" || exit 2

found=$("$python" -m distmnist.doctor.network "$ENDPOINT" --interface "${IFACE:-}" --wait "$WAIT") || exit 2
read -r address interface is_host <<<"$found"
[[ $NNODES = 1 || $address != 127.* ]] ||
  die "ENDPOINT=$ENDPOINT is the loopback here, which no other host can reach; name an address, or IFACE"

# What the first host was started with: agents that differ in it would wait for each other in vain.
note=$shared/.$(basename "$output").launch first=${ENDPOINT%:*} mine="NNODES=$NNODES JOB=$job"
if [[ $is_host = true ]]; then
  echo "$mine" >"$note"
else
  for ((i = 0; i < 10; i++)); do
    [[ ! -e $note ]] || break
    sleep 1 # a network file system may be late
  done
  [[ -e $note ]] || die "$shared is not the directory that $first has; mount it here, and name the same --output"
  [[ $(<"$note") = "$mine" ]] || die "$first was started with $(<"$note"), this host with $mine; start all alike"
fi

numbers=$("$python" -m distmnist.machine ${NPROC:+"$NPROC"} 2>/dev/null) || die "'$python' cannot import torch"
read -r nproc threads <<<"$numbers"

# What the processes talk over; both libraries would guess, gloo from the host's name.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-=$interface}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
# Without it a host that comes back makes torchrun's agents wait for each other.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

echo "multi_node.sh: $address on $interface joins $NNODES hosts at $ENDPOINT as $job, waits $WAIT s for them:" \
  "start all with the same NNODES, JOB and options"
exec "$python" -m torch.distributed.run --nnodes="$NNODES" --nproc-per-node="$nproc" --max-restarts="$RESTARTS" \
  --rdzv-backend=c10d --rdzv-endpoint="$ENDPOINT" --rdzv-id="$job" --local-addr="$address" \
  --rdzv-conf="is_host=$is_host,join_timeout=$WAIT" -m "$module" "$@"
