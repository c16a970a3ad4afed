#!/bin/sh
# Deskfleet's firewall: loads rules so that there is always a way back.
#   load                boot, and after nftables.service: the rules that a roll-out confirmed, if any
#   try RULES SECONDS   load RULES; what was before comes back after SECONDS, unless `confirm`
#   confirm RULES       the roll-out came in by a new connection: RULES stay, also after a reboot
#   back                what was before comes back now
#   remove              no table, no rules
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
KEPT=/var/lib/deskfleet/firewall
TRIAL=/run/deskfleet-firewall
TABLE="inet deskfleet"

live() { nft -s list table $TABLE 2>/dev/null; }
sum() { sha256sum | cut -d ' ' -f 1; }
without_table() { printf 'table %s\ndelete table %s\n' "$TABLE" "$TABLE"; }
restore() {
    # Rather none than one that shuts the operator out.
    nft -f "$TRIAL/before.nft" || without_table | nft -f -
    rm -rf "$TRIAL/before.nft" "$TRIAL/rules.nft" "$TRIAL/turn"
    logger -t deskfleet-firewall "the former rules are back: nobody confirmed the new ones" 2>/dev/null || true
}
# Runs on when the roll-out, its connection and its whole session are gone.
detached() {
    if [ -d /run/systemd/system ] && systemd-run --quiet --collect -- "$@" 9>&-; then return; fi
    setsid -f "$@" </dev/null >/dev/null 2>&1 9>&-
}

case "$1" in
load) # What is on trial goes on being so; else nothing else runs that early.
    [ ! -e $TRIAL/turn ] || [ ! -e $TRIAL/rules.nft ] || exec nft -f $TRIAL/rules.nft
    [ ! -e $KEPT/confirmed.nft ] || exec nft -f $KEPT/confirmed.nft
    exit 0
    ;;
esac

mkdir -p -m 700 $KEPT $TRIAL
exec 9>$TRIAL/lock
flock 9
case "$1" in
try)
    nft -c -f "$2"
    # What was before the first of several tries that nobody confirmed.
    if [ ! -e $TRIAL/turn ]; then
        { without_table; live || true; } > $TRIAL/before.nft
    fi
    cp "$2" $TRIAL/rules.nft
    turn=$(cat /proc/sys/kernel/random/uuid)
    echo "$turn" > $TRIAL/turn
    detached /bin/sh "$0" wait "$3" "$turn"
    nft -f $TRIAL/rules.nft || { restore; exit 1; }
    ;;
wait)
    flock -u 9
    # Ends soon after its turn, so that nothing runs on where the firewall was taken away.
    left=$2
    while [ "$left" -gt 0 ] && [ "$(cat $TRIAL/turn 2>/dev/null)" = "$3" ]; do
        sleep 1
        left=$((left - 1))
    done
    flock 9
    # Another try, or a confirmation, has ended this turn.
    [ "$(cat $TRIAL/turn 2>/dev/null)" != "$3" ] || restore
    ;;
confirm)
    if [ ! -e $TRIAL/turn ] || ! cmp -s "$2" $TRIAL/rules.nft; then
        echo "the new firewall rules were taken back before they were confirmed; roll out again" >&2
        exit 1
    fi
    live | sum > $KEPT/live
    cp $TRIAL/rules.nft $KEPT/confirmed.nft.new
    mv -fT $KEPT/confirmed.nft.new $KEPT/confirmed.nft
    rm -f $TRIAL/turn $TRIAL/before.nft $TRIAL/rules.nft
    ;;
back)
    [ ! -e $TRIAL/turn ] || restore
    ;;
remove)
    rm -rf $TRIAL/turn $KEPT
    without_table | nft -f -
    ;;
*)
    echo "unknown: $1" >&2
    exit 2
    ;;
esac
