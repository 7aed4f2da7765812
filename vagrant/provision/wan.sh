#!/bin/sh
# In a VM: gives its links the delay, jitter, loss and rate of a wan.csv, with tc.
#
# `wan.sh ZONE FILE` sets them; `wan.sh --print ZONE FILE DEVICE` prints the commands only.
# Each side shapes what it sends. A row without one of its own for the way back holds for both.
set -eu

print=no
if [ "$1" = --print ]; then
    print=yes
    shift
fi
zone=$1
file=$2

address_of() { echo "192.168.56.1${1#z}"; }

device_of() { ip -o route get "$(address_of z9)" | sed 's/.* dev \([^ ]*\).*/\1/'; }

run() {
    if [ "$print" = yes ]; then echo "tc $*"; else tc "$@"; fi
}

# "PEER DELAY JITTER LOSS RATE" for each link of this zone; 0 = none.
links() {
    awk -F ',' -v zone="$zone" '
        { sub(/#.*/, ""); gsub(/[ \t]/, "") }
        NF < 3 || $1 == "from" { next }
        { from[NR] = $1; to[NR] = $2; own[$1, $2] = 1
          shape[NR] = $3 " " ($4 == "" ? 0 : $4) " " ($5 == "" ? 0 : $5) " " ($6 == "" ? 0 : $6) }
        END {
            for (row = 1; row <= NR; row++) {
                if (from[row] == zone) print to[row], shape[row]
                else if (to[row] == zone && !((zone, from[row]) in own)) print from[row], shape[row]
            }
        }' "$file"
}

# A share like 0.001 as the percentage that tc wants; percentages stay.
percent() {
    case $1 in
        *%) echo "$1" ;;
        *) awk -v share="$1" 'BEGIN { printf "%g%%\n", share * 100 }' ;;
    esac
}

rate() {
    case $1 in
        0) echo 10gbit ;;
        # 100M -> 100Mbit, 5000 -> 5000bit
        *) echo "${1}bit" ;;
    esac
}

device=${3:-}
[ -n "$device" ] || device=$(device_of)
if [ "$print" = no ]; then
    tc qdisc del dev "$device" root 2>/dev/null || true
fi
run qdisc add dev "$device" root handle 1: htb default 1
run class add dev "$device" parent 1: classid 1:1 htb rate 10gbit
class=10
links | while read -r peer delay jitter loss rate; do
    run class add dev "$device" parent 1: classid "1:$class" htb rate "$(rate "$rate")"
    run qdisc add dev "$device" parent "1:$class" handle "$class:" netem limit 100000 \
        delay "${delay}ms" "${jitter}ms" loss "$(percent "$loss")"
    run filter add dev "$device" parent 1: protocol ip prio 1 u32 \
        match ip dst "$(address_of "$peer")/32" flowid "1:$class"
    class=$((class + 10))
done
