#!/usr/bin/env bash
# A Ray cluster on named hosts, closed by a token, without a scheduler:
#
#   bash scripts/cluster/hosts.sh start HEAD [WORKER …]   # prints what to run next
#   bash scripts/cluster/hosts.sh stop  HEAD [WORKER …]
#
# The clone, its .venv and the storage folder lie on a path that all hosts share, and ssh reaches every host without a
# password. `localhost` is not reached by ssh. Settings: RADSWEEP_PORT (6379), RADSWEEP_VENV (./.venv),
# RADSWEEP_TOKEN (./storage/.ray-token), RADSWEEP_RAY_OPTIONS (of every `ray start`, e.g. --num-cpus=8).
set -euo pipefail
cd "$(dirname "$0")/../.."

usage="usage: hosts.sh start|stop HEAD [WORKER …]"
[ $# -ge 2 ] || { echo "$usage" >&2; exit 2; }
action=$1 head=$2
shift 2
port=${RADSWEEP_PORT:-6379}
venv=${RADSWEEP_VENV:-$PWD/.venv}
token=${RADSWEEP_TOKEN:-$PWD/storage/.ray-token}
options="--disable-usage-stats ${RADSWEEP_RAY_OPTIONS:-}"

refuse() { echo "hosts.sh: $1" >&2; exit 2; }

on() { # on HOST COMMAND: run it there, with the token
    local host=$1 command="cd '$PWD' && PATH='$venv/bin':\$PATH RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH='$token' $2"
    if [ "$host" = localhost ]; then bash -c "$command"; else ssh -o BatchMode=yes "$host" "$command"; fi
}

address_of() { # the address of a host as the others see it
    if [ "$1" = localhost ]; then echo 127.0.0.1; else getent ahostsv4 "$1" | awk 'NR == 1 {print $1}'; fi
}

case $action in
start)
    # A running cluster keeps its token in this file alone: overwritten, nobody could reach that cluster any more.
    [ ! -e "$token" ] || refuse "$token is there, so a cluster may be running: hosts.sh stop HEAD [WORKER …] ends it \
and removes the file; if none is running, remove it yourself"
    address=$(address_of "$head") && [ -n "$address" ] || refuse "no address for $head"
    for worker in "$@"; do
        [ "$worker" = localhost ] || [[ $address != 127.* ]] || refuse "$head is $address, where $worker does not reach it; \
give it the name that the others know"
    done
    secret=$("$venv/bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")')
    mkdir -p "$(dirname "$token")"
    (umask 077 && printf %s "$secret" >"$token")
    on "$head" "ray start --head --node-ip-address=$address --port=$port --include-dashboard=false $options" >/dev/null
    for worker in "$@"; do
        on "$worker" "ray start --address=$address:$port $options" >/dev/null
    done
    echo "Ray runs on $head${*:+, }$*. Search on it with:"
    printf 'RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=%q python -m search run STUDY.yaml --address %s\n' \
        "$token" "$address:$port"
    ;;
stop)
    missed=()
    for host in "$@" "$head"; do # one that is down must not keep the others running
        on "$host" "ray stop --force" >/dev/null || missed+=("$host")
    done
    rm -f "$token"
    if [ ${#missed[@]} -gt 0 ]; then
        echo "hosts.sh: not reached, or \`ray stop\` failed there, so that Ray may still run on: ${missed[*]}" >&2
        exit 1
    fi
    ;;
*)
    echo "$usage" >&2
    exit 2
    ;;
esac
