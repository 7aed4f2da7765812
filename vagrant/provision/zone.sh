#!/bin/sh
# In a VM: makes it the node of a zone. `zone.sh ZONE ADDRESS [TOKEN]`
#
# Without a token the first zone makes a new cluster, and the others wait for theirs
# (vagrant/join.sh). A store that is there is kept.
set -eu

zone=$1
address=$2
token=${3:-}
store=/var/lib/fusion
port=7420

install -m 0644 /fusionfs/dist/fusion.service /etc/systemd/system/fusion.service
mkdir -p /srv/fusion
systemctl daemon-reload

if [ ! -e "$store/fusion.toml" ]; then
    set -- --store "$store" --name "$zone" --listen "0.0.0.0:$port" --advertise "$address:$port"
    if [ -n "$token" ]; then
        fusion join "$token" "$@"
    elif [ "$zone" = z1 ]; then
        fusion init --zone "$zone" "$@"
    else
        echo "zone $zone waits for a token"
        exit 0
    fi
fi
systemctl enable --now fusion
fusion status || test $? -eq 3
