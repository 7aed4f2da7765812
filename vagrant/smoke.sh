#!/bin/sh
# On the host: writes in each VM and reads in the others. Ends with 0 when every byte arrived.
set -eu
cd "$(dirname "$0")"

zones="z1 z2 z3"
mark="smoke-$$"

on() { vagrant ssh "$1" -c "$2" 2>/dev/null; }

for writer in $zones; do
    on "$writer" "echo from $writer | sudo tee /srv/fusion/$mark-$writer >/dev/null"
done
failed=0
for reader in $zones; do
    for writer in $zones; do
        # A name is there about one one-way delay after the write; a minute is for slow hosts.
        if on "$reader" "timeout 60 sh -c 'until grep -qsx \"from $writer\" /srv/fusion/$mark-$writer; do sleep 0.1; done'"; then
            echo "ok  written in $writer, read in $reader"
        else
            echo "NO  written in $writer, not read in $reader"
            failed=1
        fi
    done
done
on z1 "sudo rm -f /srv/fusion/$mark-*"
on z1 "sudo fusion status" || failed=1
exit $failed
