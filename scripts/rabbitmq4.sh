#!/usr/bin/env bash
# RabbitMQ 4 on a Debian machine whose own package is older: Debian 13 in a folder (chroot), one node on loopback.
#
#   scripts/rabbitmq4.sh                  makes it if need be (400 MB, some minutes), starts it, prints its address
#   scripts/rabbitmq4.sh stop             stops it
#   scripts/rabbitmq4.sh run <command>    runs a command with its address in the environment; stops it if it started it
#
# HUB_RABBITMQ4_ROOT is the folder (.hub/rabbitmq4), HUB_RABBITMQ4_PORT the port (5684; + 10000 management,
# + 20000 Erlang distribution). Needs root, for chroot.
set -euo pipefail

root=${HUB_RABBITMQ4_ROOT:-$(dirname "$(dirname "$(realpath "$0")")")/.hub/rabbitmq4}
port=${HUB_RABBITMQ4_PORT:-5684}
management=$((port + 10000))
export LC_ALL=C

say() { echo "$*" >&2; }
fail() { say "$*"; exit 1; }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The kernel says which processes live in this root; a number in a file may belong to somebody else by now.
running() {
  local pid
  for pid in $(cat "$root/run/$1.pid" 2>/dev/null); do
    [ "$(readlink "/proc/$pid/root" 2>/dev/null)" = "$root" ] && echo "$pid"
  done
}

make() {
  # debootstrap removes its own folder in there as the last thing.
  [ -x "$root/usr/lib/rabbitmq/bin/rabbitmq-server" ] && [ ! -e "$root/debootstrap" ] && return
  [ -z "$(ls -A "$root")" ] || [ -e "$root/debootstrap" ] || fail "$root is neither empty nor a Debian with RabbitMQ; remove it."
  if ! command -v debootstrap >/dev/null; then
    say 'Installing debootstrap.'
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap; } >&2
  fi
  say "Making a Debian 13 with RabbitMQ 4 in $root."
  local mirrors mirror
  # First debootstrap's own choice (none given), then where this machine gets its Debian packages from.
  mirrors=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' | awk '$2 == "Debian" && $3 == "Debian" { print $1 }' | sort -u)
  for mirror in '' $mirrors; do
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    if debootstrap --variant=minbase --include=ca-certificates,rabbitmq-server,procps trixie "$root" $mirror >&2; then
      rm -f "$root"/var/cache/apt/archives/*.deb
      return
    fi
  done
  fail "debootstrap failed; see $root/debootstrap/debootstrap.log"
}

# Each in a mount namespace of its own, so that its /proc goes with it. Nothing forks: the pid is the program's.
inside() {
  local name=$1; shift
  setsid unshare --mount bash -c 'mount -t proc proc "$0/proc" && exec chroot "$0" env -i "${@}"' "$root" \
    PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 HOME=/root ERL_EPMD_PORT=$((port - 1000)) ERL_EPMD_ADDRESS=127.0.0.1 "$@" \
    </dev/null >"$root/var/log/$name.start" 2>&1 &
  echo $! >"$root/run/$name.pid"
}

start() {
  [ "$(id -u)" = 0 ] || fail 'scripts/rabbitmq4.sh needs root (chroot); try: sudo scripts/rabbitmq4.sh'
  mkdir -p "$root"
  root=$(realpath "$root")
  if [ -z "$(running rabbitmq)" ]; then
    listens "$port" && fail "port $port is taken; choose another: HUB_RABBITMQ4_PORT=5685 scripts/rabbitmq4.sh"
    make
    echo '[rabbitmq_management].' >"$root/etc/rabbitmq/hub.plugins"
    printf '%s\n' "listeners.tcp.1 = 127.0.0.1:$port" 'management.tcp.ip = 127.0.0.1' "management.tcp.port = $management" \
      'disk_free_limit.absolute = 200MB' >"$root/etc/rabbitmq/hub.conf"
    inside epmd epmd -address 127.0.0.1 -port $((port - 1000))
    inside rabbitmq \
      RABBITMQ_NODENAME="hub4-$port@localhost" RABBITMQ_DIST_PORT=$((port + 20000)) \
      RABBITMQ_CONFIG_FILE=/etc/rabbitmq/hub.conf RABBITMQ_ENABLED_PLUGINS_FILE=/etc/rabbitmq/hub.plugins \
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +sbwt none -rabbit dead_letter_worker_publisher_confirm_timeout 5000' \
      RUNNING_UNDER_SYSTEMD=true /usr/lib/rabbitmq/bin/rabbitmq-server
  fi
  local tries
  for tries in $(seq 600); do
    listens "$port" && break
    [ "$tries" -gt 20 ] && [ -z "$(running rabbitmq)" ] && break
    sleep 0.1
  done
  listens "$port" || { tail -n 15 "$root/var/log/rabbitmq.start" >&2; stop; fail "RabbitMQ 4 in $root did not come up."; }
  say "RabbitMQ $(basename "$root"/usr/lib/rabbitmq/lib/rabbitmq_server-* | sed 's/.*-//') answers on 127.0.0.1:$port."
}

address() {
  echo "HUB_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:$port"
  echo "HUB_RABBITMQ_MANAGEMENT_URL=http://127.0.0.1:$management"
  echo "HUB_RABBITMQ4_ROOT=$root"
}

stop() {
  [ -d "$root" ] || return 0
  root=$(realpath "$root")
  local name pid
  for name in rabbitmq epmd; do
    for pid in $(running "$name"); do
      kill "$pid"
      for _ in $(seq 150); do [ -n "$(running "$name")" ] || break; sleep 0.1; done
      [ -z "$(running "$name")" ] || kill -9 "$pid"
    done
    rm -f "$root/run/$name.pid"
  done
}

case ${1:-start} in
  start) start; address ;;
  stop) stop ;;
  run)
    shift
    [ -d "$root" ] && root=$(realpath "$root")
    before=$(running rabbitmq)
    start
    [ -n "$before" ] || trap stop EXIT
    code=0
    # Tests that start nodes of their own start them from there, too.
    env $(address) HUB_RABBITMQ4_RUN=yes "$@" || code=$?
    exit "$code"
    ;;
  *) fail "usage: scripts/rabbitmq4.sh [start | stop | run <command>]" ;;
esac
